"""The MQTT door as device programs see it: `paho-mqtt` in both protocol versions, and `mosquitto_pub` and `mosquitto_sub`.

    python mqtt.py <http base> <mqtt port> <tenant> <its admin's API key> <another tenant> <that admin's API key>
"""

import json
import queue
import subprocess
import sys
import threading

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from common import Http, Refused, check, device, equal, finish, micros, now, stamp, streams_of, thing

BASE, PORT, TENANT, KEY, OTHER, OTHER_KEY = sys.argv[1:7]
PORT = int(PORT)
PATIENCE = 30

http, other_http = Http(BASE, KEY), Http(BASE, OTHER_KEY)
mark = f"e2e-{now()}"
mine = http.create("/v1.1/Things", thing(mark, ["level", "battery"]))
level, battery = streams_of(http, mine)
theirs = other_http.create("/v1.1/Things", thing(f"{mark} theirs", ["level"]))
(their_level,) = streams_of(other_http, theirs)
DEVICE, DEVICE_KEY = device(http, TENANT, mark, [mine])
STRANGER, STRANGER_KEY = device(other_http, OTHER, mark, [theirs])


def topic(stream):
    return f"v1.1/Datastreams({stream})/Observations"


class Client:
    """A connected client whose messages can be waited for."""

    def __init__(self, version, user=DEVICE, key=DEVICE_KEY, name="", clean=True):
        start, lasting = {}, {}
        if version == paho.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 600
            start = {"clean_start": clean, "properties": properties}
        else:
            lasting = {"clean_session": clean}
        self.got, self.up, self.granted, self.down = queue.Queue(), queue.Queue(), queue.Queue(), threading.Event()
        self.acks = {}
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=version, reconnect_on_failure=False, **lasting)
        if user is not None:
            self.paho.username_pw_set(user, key)
        self.paho.on_connect = lambda _c, _u, flags, reason, _p: self.up.put((flags.session_present, reason))
        self.paho.on_message = lambda _c, _u, message: self.got.put(message)
        self.paho.on_subscribe = lambda _c, _u, _m, reasons, _p: self.granted.put(reasons)
        self.paho.on_publish = lambda _c, _u, number, reason, _p: self.acks.__setitem__(number, reason)
        self.paho.on_disconnect = lambda *_: self.down.set()
        self.paho.connect("127.0.0.1", PORT, 30, **start)
        self.paho.loop_start()
        self.present, self.reason = self.up.get(timeout=PATIENCE)

    def subscribe(self, *topics, qos=1):
        self.paho.subscribe([(t, qos) for t in topics])
        return self.granted.get(timeout=PATIENCE)

    def publish(self, where, body, qos=1):
        sent = self.paho.publish(where, body if isinstance(body, (bytes, str)) else json.dumps(body), qos)
        sent.wait_for_publish(PATIENCE)
        assert sent.is_published(), "no acknowledgement"
        return self.acks.get(sent.mid)

    def next(self):
        message = self.got.get(timeout=PATIENCE)
        return message, json.loads(message.payload)

    def __enter__(self):
        assert not self.reason.is_failure, self.reason
        return self

    def __exit__(self, *_):
        self.paho.disconnect()
        self.paho.loop_stop()


def latest(stream):
    return http.get(f"/v1.1/Datastreams({stream})/Observations?$orderby=phenomenonTime desc&$top=1")["value"][0]


def there_and_back(version):
    def run():
        with Client(version) as client:
            for qos in (1, 2):
                at = now()
                client.publish(topic(level), {"result": qos + 0.5, "phenomenonTime": stamp(at)}, qos)
                found = latest(level)
                # What is acknowledged can be read at once.
                equal((found["result"], micros(found["phenomenonTime"])), (qos + 0.5, at))
            client.publish(topic(battery), "12.75")
            equal(latest(battery)["result"], 12.75)
            rows = [[stamp(now() + n), n] for n in range(100)]
            before = http.get(f"/v1.1/Datastreams({level})/Observations?$count=true&$top=0")["@iot.count"]
            client.publish(
                "v1.1/CreateObservations",
                [{"Datastream": {"@iot.id": level}, "components": ["phenomenonTime", "result"], "dataArray": rows}],
            )
            equal(http.get(f"/v1.1/Datastreams({level})/Observations?$count=true&$top=0")["@iot.count"], before + 100)

    return run


def subscribed(version):
    def run():
        with Client(version) as reader, Client(version) as writer:
            writer.publish(topic(level), {"result": 7.25, "phenomenonTime": stamp(now())})
            reader.subscribe(topic(level))
            message, body = reader.next()
            assert message.retain, "the first message is the latest value, retained"
            equal(body["result"], 7.25)
            for n in range(20):
                writer.publish(topic(level), {"result": 100 + n, "phenomenonTime": stamp(now())})
            for n in range(20):
                message, body = reader.next()
                equal((message.topic, body["result"], message.retain), (topic(level), 100 + n, False))
            # Over HTTP too: one door's Observation leaves by the other.
            http.ask("POST", f"/v1.1/Datastreams({level})/Observations", {"result": 55, "phenomenonTime": stamp(now())})
            equal(reader.next()[1]["result"], 55)

    return run


def absent(version):
    def run():
        name = f"{mark}-absent-{version}"
        with Client(version, name=name, clean=False) as first:
            assert not first.present
            first.subscribe(topic(battery))
            first.next()
        with Client(version) as writer:
            for n in range(50):
                writer.publish(topic(battery), {"result": n, "phenomenonTime": stamp(now())})
        with Client(version, name=name, clean=False) as again:
            assert again.present
            equal([again.next()[1]["result"] for _ in range(50)], list(range(50)))

    return run


def own_things_only(version):
    def run():
        neighbour = http.create("/v1.1/Things", thing(f"{mark} neighbour {version}", ["level"], public=True))
        (beside,) = streams_of(http, neighbour)
        with Client(version) as client:
            sent = client.paho.publish(topic(beside), json.dumps({"result": 1}), 1)
            if version == paho.MQTTv5:
                sent.wait_for_publish(PATIENCE)
                assert client.acks[sent.mid].is_failure, client.acks[sent.mid]
            else:
                assert client.down.wait(PATIENCE), "the connection stays open"
        same = Http(BASE, DEVICE_KEY)
        body = {"result": 1, "phenomenonTime": stamp(now())}
        array = [{"Datastream": {"@iot.id": beside}, "components": ["phenomenonTime", "result"], "dataArray": [[stamp(now()), 1]]}]
        # Not by bringing an entity along either.
        place = {"name": "weir", "description": "d", "encodingType": "application/geo+json", "feature": {"type": "Point", "coordinates": [114, 22]}}
        deep = body | {"FeatureOfInterest": place}
        own = f"/v1.1/Datastreams({beside})/Observations"
        for path, sent in ((own, body), (own, deep), ("/v1.1/Observations", deep | {"Datastream": {"@iot.id": beside}}), ("/v1.1/CreateObservations", array)):
            try:
                answer = same.ask("POST", path, sent)
            except Refused as refused:
                assert refused.status in (400, 403, 404), refused
            else:
                assert answer[2] == '["error"]', f"{path} was answered {answer[0]} {answer[2]}"
        equal(http.get(f"/v1.1/Datastreams({beside})/Observations?$count=true&$top=0")["@iot.count"], 0)
        # Its own it may write to, by HTTP as well.
        same.ask("POST", f"/v1.1/Datastreams({level})/Observations", body)

    return run


def no_entry(version):
    def run():
        for user, key in ((DEVICE, "lpd_aaaaaaaaaa_" + "A" * 43), (DEVICE, STRANGER_KEY[:-1] + "x"), (DEVICE, "")):
            client = Client(version, user, key)
            assert client.reason.is_failure, f"{client.reason} for a wrong key"
            client.paho.loop_stop()

    return run


def strangers(version):
    def run():
        with Client(version, STRANGER, STRANGER_KEY) as stranger, Client(version) as writer:
            stranger.subscribe(topic(level), "v1.1/Observations", "v1.1/+/Observations", "#", topic(their_level))
            writer.publish(topic(level), {"result": 999, "phenomenonTime": stamp(now())})
            at = now()
            stranger.publish(topic(their_level), {"result": 1.5, "phenomenonTime": stamp(at)})
            # The stream has one order: had the first been for this client, it would have come before its own.
            while True:
                message, body = stranger.next()
                assert f"Datastreams({level})" not in message.payload.decode() + message.topic, "another department's value"
                if body.get("result") == 1.5 and micros(body["phenomenonTime"]) == at:
                    break
        before = http.get(f"/v1.1/Datastreams({level})/Observations?$count=true&$top=0")["@iot.count"]
        intruder = Client(version, STRANGER, STRANGER_KEY)
        sent = intruder.paho.publish(topic(level), json.dumps({"result": 666}), 1)
        if version == paho.MQTTv5:
            sent.wait_for_publish(PATIENCE)
            assert intruder.acks[sent.mid].is_failure, intruder.acks[sent.mid]
        else:
            # MQTT 3.1.1 has no words for a refusal.
            assert intruder.down.wait(PATIENCE), "the connection stays open"
        intruder.paho.disconnect()
        intruder.paho.loop_stop()
        equal(http.get(f"/v1.1/Datastreams({level})/Observations?$count=true&$top=0")["@iot.count"], before)

    return run


def nonsense(version):
    def run():
        before = http.get(f"/v1.1/Datastreams({level})/Observations?$count=true&$top=0")["@iot.count"]
        for body in (b"", b"{", b'{"result": "deep"}', b'{"result": 1e999}', b"\xff\xfe", b'{"nothing": 1}'):
            client = Client(version)
            sent = client.paho.publish(topic(level), body, 1)
            if version == paho.MQTTv5:
                sent.wait_for_publish(PATIENCE)
                assert client.acks[sent.mid].is_failure, (body, client.acks[sent.mid])
            else:
                assert client.down.wait(PATIENCE), (body, "the connection stays open")
            client.paho.disconnect()
            client.paho.loop_stop()
        equal(http.get(f"/v1.1/Datastreams({level})/Observations?$count=true&$top=0")["@iot.count"], before)

    return run


def mosquitto(version):
    def run():
        who = ["-h", "127.0.0.1", "-p", str(PORT), "-u", DEVICE, "-P", DEVICE_KEY, "-V", version]
        # The reader subscribes and goes; what comes meanwhile waits for it. -R passes over the retained value.
        session = ["-c", "-i", f"{mark}-{version}", "-q", "1", "-t", topic(battery)] + (["-x", "600"] if version == "mqttv5" else [])
        subprocess.run(["mosquitto_sub", *who, *session, "-E"], check=True, timeout=PATIENCE)
        for n in range(3):
            body = json.dumps({"result": 11 + n, "phenomenonTime": stamp(now())})
            subprocess.run(["mosquitto_pub", *who, "-q", "1", "-t", topic(battery), "-m", body], check=True, timeout=PATIENCE)
        command = ["mosquitto_sub", *who, *session, "-R", "-C", "3", "-W", str(PATIENCE)]
        found = subprocess.run(command, check=True, timeout=2 * PATIENCE, capture_output=True, text=True).stdout.splitlines()
        equal([json.loads(line)["result"] for line in found], [11, 12, 13])
        wrong = subprocess.run(
            ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(PORT), "-u", DEVICE, "-P", "wrong", "-V", version, "-q", "1", "-t", topic(battery), "-m", "1"],
            capture_output=True, timeout=PATIENCE,
        )
        assert wrong.returncode != 0, "a wrong key was let in"

    return run


def updates(version):
    """18-088 section 14.2: each of its ways to receive updates, each body what a GET answers."""

    def run():
        made = http.create("/v1.1/Things", thing(f"{mark} followed {version}", ["level"]))
        (stream,) = streams_of(http, made)
        own = f"v1.1/Things({made})"
        with Client(version) as client, Client(version, STRANGER, STRANGER_KEY) as stranger:
            client.subscribe(own, f"{own}/description", "v1.1/Things?$select=name,id", f"{own}/Datastreams", f"v1.1/Datastreams({stream})/Thing")
            stranger.subscribe(own, "v1.1/Things")
            http.ask("PATCH", f"/v1.1/Things({made})", {"description": "followed"})
            whole = http.get(f"/v1.1/Things({made})")
            wanted = {
                own: whole,
                f"{own}/description": {"description": "followed"},
                "v1.1/Things?$select=name,id": {"@iot.id": made, "name": whole["name"]},
                f"v1.1/Datastreams({stream})/Thing": whole,
            }
            # Events are told a moment after what they tell of: the news of the Thing's creation may find the subscriptions there already.
            seen = {}
            while seen != wanted:
                message, body = client.next()
                assert message.topic in wanted, message.topic
                seen[message.topic] = body
            assert client.got.empty(), client.got.get().topic
            # A new member of a collection, with a deep insert, and an entity set.
            client.subscribe("v1.1/Sensors")
            more = thing(f"{mark} more {version}", ["level"])["Datastreams"][0]
            http.ask("POST", f"/v1.1/Things({made})/Datastreams", more)
            came = dict(received(client, 2))
            new = came[f"{own}/Datastreams"]
            equal(new, http.get(f"/v1.1/Datastreams({new['@iot.id']})"))
            equal(came["v1.1/Sensors"], http.get(f"/v1.1/Datastreams({new['@iot.id']})/Sensor"))
            # Its own change is the first that the other department hears of.
            other_own = f"v1.1/Things({theirs})"
            other_http.ask("PATCH", f"/v1.1/Things({theirs})", {"description": f"theirs {version}"})
            message, body = stranger.next()
            equal((body["@iot.id"], body["description"]), (theirs, f"theirs {version}"))
            assert message.topic in ("v1.1/Things", other_own), message.topic

    return run


def received(client, count):
    """So many messages, and nothing that was sent before the last of them."""
    for _ in range(count):
        message, body = client.next()
        yield message.topic, body
    assert client.got.empty(), client.got.get().topic


def selected(version):
    """18-088 section 14.2.4 and the property of section 14.2.3, for Observations and for what they move."""

    def run():
        made = http.create("/v1.1/Things", thing(f"{mark} selected {version}", ["level"]))
        (stream,) = streams_of(http, made)
        user, key = device(http, TENANT, f"{mark}-selected-{version}", [made])
        select = f"{topic(stream)}?$select=phenomenonTime,result"
        times = f"v1.1/Datastreams({stream})/phenomenonTime"
        with Client(version, user, key) as client:
            client.subscribe(topic(stream), select, times)
            at = now()
            client.publish(topic(stream), {"result": 45, "phenomenonTime": stamp(at)})
            came = dict(received(client, 3))
            equal(sorted(came[select]), ["phenomenonTime", "result"])
            equal((came[select]["result"], micros(came[select]["phenomenonTime"])), (45, at))
            whole = came[topic(stream)]
            equal(whole, http.get(f"/v1.1/Observations('{whole['@iot.id']}')"))
            equal(came[times], http.get(f"/v1.1/Datastreams({stream})/phenomenonTime"))
            # A change over HTTP is an update too.
            body = [{"op": "replace", "path": "/result", "value": 46}]
            http.ask("PATCH", f"/v1.1/Observations('{whole['@iot.id']}')", body, {"Content-Type": "application/json-patch+json"})
            came = dict(received(client, 2))
            equal((came[select]["result"], came[topic(stream)]["@iot.id"]), (46, whole["@iot.id"]))

    return run


def refused_filters(version):
    def run():
        with Client(version) as client:
            for bad in ("v1.1/Lamps", "v1.1/Things?$top=1", "v1.1/Things?$select=colour"):
                (reason,) = client.subscribe(bad)
                assert reason.is_failure, (bad, reason)
            (reason,) = client.subscribe("v1.1/Things(1)/name")
            assert not reason.is_failure, reason

    return run


def mosquitto_updates():
    made = http.create("/v1.1/Things", thing(f"{mark} mosquitto", ["level"]))
    who = ["-h", "127.0.0.1", "-p", str(PORT), "-u", DEVICE, "-P", DEVICE_KEY]
    session = ["-c", "-i", f"{mark}-updates", "-q", "1", "-t", f"v1.1/Things({made})/name"]
    subprocess.run(["mosquitto_sub", *who, *session, "-E"], check=True, timeout=PATIENCE)
    http.ask("PATCH", f"/v1.1/Things({made})", {"name": f"{mark} renamed"})
    # Events are told a moment after what they tell of: the news of the Thing's creation may find the subscription there already. And a
    # client that leaves with its first message has not acknowledged it, so it may come again: then the second is the one.
    for count in ("1", "2", "2"):
        command = ["mosquitto_sub", *who, *session, "-C", count, "-W", str(PATIENCE), "-F", "%t %p"]
        told = subprocess.run(command, timeout=2 * PATIENCE, capture_output=True, text=True).stdout.strip().splitlines()
        assert told, f"nothing came within {PATIENCE} s"
        where, _, body = told[-1].partition(" ")
        equal(where, f"v1.1/Things({made})/name")
        if json.loads(body) != {"name": f"{mark} mosquitto"}:
            break
    equal(json.loads(body), {"name": f"{mark} renamed"})


for version, name in ((paho.MQTTv311, "3.1.1"), (paho.MQTTv5, "5")):
    check(f"mqtt {name}: publish with QoS 1 and 2, read back over HTTP", there_and_back(version))
    check(f"mqtt {name}: subscribe, the latest value first, then what comes from either door", subscribed(version))
    check(f"mqtt {name}: a session that was absent misses nothing", absent(version))
    check(f"mqtt {name}: a wrong key stays outside", no_entry(version))
    check(f"mqtt {name}: a device writes to its own Things only, by either door", own_things_only(version))
    check(f"mqtt {name}: another department gets nothing and changes nothing", strangers(version))
    check(f"mqtt {name}: entities, their properties and collections are told of", updates(version))
    check(f"mqtt {name}: selected properties, and times that Observations move", selected(version))
    check(f"mqtt {name}: filters that can match nothing are refused", refused_filters(version))
    check(f"mqtt {name}: what is no Observation is refused and changes nothing", nonsense(version))
for version in ("mqttv311", "mqttv5"):
    check(f"mosquitto_pub and mosquitto_sub, {version}", mosquitto(version))
check("mosquitto_sub: a property that changed while it was away", mosquitto_updates)
finish()
