"""kill -9 under load, at random moments, again and again: nothing acknowledged is lost, nothing is there twice, no alarm is doubled.

    python kill.py <program>            E2E_KILLS=100 for the long run, E2E_SEED=… for the same moments again

Devices send as devices should: what is not acknowledged is sent again, in order, until it is. Now and then one has forgotten and sends
again what was acknowledged. In the end every series must be exactly what its device meant to send, and every alarm exactly
the ones that the sent levels raise. Beside them somebody registers devices, each of which must be there once, and an MQTT client
with a session that lasts must be given everything that was acknowledged: what it was away for, and what it had not acknowledged.
"""

import json
import os
import random
import sys
import threading
import time

import deltalake
import paho.mqtt.client as paho
import pyarrow

from common import Http, Refused, Server, check, device, equal, fail, finish, micros, now, ok, stamp, streams_of, thing

PROGRAM = sys.argv[1]
KILLS = int(os.environ.get("E2E_KILLS", "5"))
SEED = int(os.environ.get("E2E_SEED", random.randrange(1 << 32)))
# Longest time between "ready" and the kill.
LOAD_SECONDS = 3.0
RULES = """
[[rule]]
key = "e2e-high-water"
tenant = "dsd"
severity = "Severe"
name = { en = "High water (test)", zh-hant = "水位過高（測試）", zh-hans = "水位过高（测试）" }
select = { system = "flood" }
when = { above = { raise = 1000, clear = 900 } }
"""

# The seal is often, so that kills also fall into commits of the lake.
server = Server(PROGRAM, rules=RULES, settings=["lake.seal=1s", "log.level=warn"])
stop = threading.Event()
# The listener goes on after the senders have stopped: what it was away for is still to come.
deaf = threading.Event()
trouble = []


class Device(threading.Thread):
    """Sends steps 0, 1, 2, … of one series; `sent` are those that were acknowledged."""

    def __init__(self, name, stream, seed):
        super().__init__(name=name, daemon=True)
        self.stream = stream
        self.random = random.Random(seed)
        self.sent = []
        self.at = now()

    def step(self):
        """The next Observation; time goes on by itself, so that no two are at the same moment."""
        self.at = max(self.at + 1, now())
        return self.at, float(self.random.randrange(800))

    def run(self):
        try:
            while not stop.is_set():
                batch = self.batch()
                while not self.try_send(batch):
                    # The server is away. What was on its way may or may not have arrived: it is sent again.
                    time.sleep(0.05)
                self.sent += batch
                if self.random.random() < 0.02:
                    while not self.try_send(batch):
                        time.sleep(0.05)
        except Exception as error:  # Seen by the main thread.
            trouble.append(f"{self.name}: {type(error).__name__}: {error}")

    def batch(self):
        return [self.step()]

    def try_send(self, batch):
        try:
            self.send(batch)
            return True
        except OSError:
            return False
        except Refused as refused:
            # 503 asks to try again; anything else is an answer that must not be.
            if refused.status == 503:
                return False
            raise


class Posting(Device):
    def send(self, batch):
        for at, value in batch:
            http.ask("POST", f"/v1.1/Datastreams({self.stream})/Observations", {"phenomenonTime": stamp(at), "result": value})


class Alarming(Posting):
    """Goes above and below the rule's levels."""

    def step(self):
        at, value = super().step()
        return at, 2_000.0 if self.random.random() < 0.5 else value


class Array(Device):
    def batch(self):
        return [self.step() for _ in range(200)]

    def send(self, batch):
        body = [
            {
                "Datastream": {"@iot.id": self.stream},
                "components": ["phenomenonTime", "result"],
                "dataArray": [[stamp(at), value] for at, value in batch],
            }
        ]
        http.ask("POST", "/v1.1/CreateObservations", body, {"Prefer": "return=minimal"})


class Mqtt(Device):
    """QoS 1, twenty messages under way."""

    def __init__(self, *args):
        super().__init__(*args)
        self.client = None

    def batch(self):
        return [self.step() for _ in range(20)]

    def send(self, batch):
        if self.client is None:
            self.connect()
        published = [
            self.client.publish(f"v1.1/Datastreams({self.stream})/Observations", json.dumps({"phenomenonTime": stamp(at), "result": value}), 1)
            for at, value in batch
        ]
        if any(p.rc != paho.MQTT_ERR_SUCCESS for p in published):
            self.drop()
            raise OSError("the connection went away while it was sent")
        until = time.monotonic() + 20
        while not all(p.is_published() for p in published):
            if self.gone.is_set() or time.monotonic() > until:
                self.drop()
                raise OSError("the connection is gone")
            time.sleep(0.002)

    def connect(self):
        up, self.gone = threading.Event(), threading.Event()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311, reconnect_on_failure=False)
        client.username_pw_set(DEVICE, DEVICE_KEY)
        client.max_inflight_messages_set(20)
        gone = self.gone
        client.on_connect = lambda _c, _u, _f, reason, _p: gone.set() if reason.is_failure else up.set()
        client.on_disconnect = lambda *_: gone.set()
        client.connect("127.0.0.1", server.mqtt_port, 30)
        client.loop_start()
        self.client = client
        if not up.wait(10):
            self.drop()
            raise OSError("no connection")

    def drop(self):
        self.client.disconnect()
        self.client.loop_stop()
        self.client = None


class Registering(Device):
    """Decisions instead of measurements: rows in `records`, one transaction each."""

    def step(self):
        return f"killed-{self.random.randrange(1 << 60):x}"

    def send(self, batch):
        for key in batch:
            try:
                http.ask("POST", "/api/devices", {"tenant": "dsd", "key": key, "kind": "test"})
            except Refused as refused:
                # It was registered the time before, and the answer was lost with the server.
                if refused.status != 409:
                    raise


class Listener(threading.Thread):
    """A subscriber with a session that lasts (QoS 1). After a kill it comes back under its name, and may miss nothing."""

    def __init__(self, streams):
        super().__init__(name="listener", daemon=True)
        self.streams = streams
        self.got = {stream: set() for stream in streams}
        self.doubled = 0
        self.known = False

    def run(self):
        try:
            while not deaf.is_set():
                try:
                    self.listen()
                except OSError:
                    time.sleep(0.05)
        except Exception as error:
            trouble.append(f"{self.name}: {type(error).__name__}: {error}")

    def listen(self):
        up, granted, gone, present = threading.Event(), threading.Event(), threading.Event(), []

        def connected(_client, _user, flags, reason, _properties):
            if reason.is_failure:
                gone.set()
                return
            present.append(flags.session_present)
            up.set()

        client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id="listener", protocol=paho.MQTTv311, clean_session=False, reconnect_on_failure=False
        )
        client.username_pw_set(DEVICE, DEVICE_KEY)
        client.on_connect = connected
        client.on_subscribe = lambda *_: granted.set()
        client.on_disconnect = lambda *_: gone.set()
        client.on_message = self.take
        client.connect("127.0.0.1", server.mqtt_port, 30)
        client.loop_start()
        try:
            until = time.monotonic() + 20
            while not up.is_set():
                if gone.wait(0.01) or time.monotonic() > until:
                    raise OSError("no connection")
            # What the server has confirmed it may not forget.
            assert present[0] or not self.known, "the session is gone after a kill"
            if not self.known:
                client.subscribe([(f"v1.1/Datastreams({stream})/Observations", 1) for stream in self.streams])
                while not granted.is_set():
                    if gone.wait(0.01) or time.monotonic() > until:
                        raise OSError("the subscription was not confirmed")
                self.known = True
            while not (gone.wait(0.1) or deaf.is_set()):
                pass
        finally:
            client.disconnect()
            client.loop_stop()

    def take(self, _client, _user, message):
        stream = int(message.topic.split("(")[1].split(")")[0])
        body = json.loads(message.payload)
        one = (micros(body["phenomenonTime"]), float(body["result"]))
        self.doubled += one in self.got[stream]
        self.got[stream].add(one)


def raises(sent):
    """How often the rule raises over a series, and whether its alarm stands in the end."""
    count, standing = 0, False
    for _, value in sent:
        if not standing and value >= 1_000:
            count, standing = count + 1, True
        elif standing and value <= 900:
            standing = False
    return count, standing


def same(series):
    def run():
        rows = http.every(f"/v1.1/Datastreams({series.stream})/Observations?$orderby=phenomenonTime asc&$top=1000&$select=phenomenonTime,result")
        found = [(micros(r["phenomenonTime"]), float(r["result"])) for r in rows]
        wanted = sorted(series.sent)
        lost, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
        assert not lost, f"{len(lost)} of {len(wanted)} acknowledged Observations are lost, the first {lost[0]}"
        assert not extra, f"{len(extra)} are there that nobody sent, the first {extra[0]}"
        equal(len(found), len(wanted))
        equal(http.get(f"/v1.1/Datastreams({series.stream})/Observations?$count=true&$top=0")["@iot.count"], len(wanted))
        return len(wanted)

    return run


def alarms_of(thing_id):
    rows, after = [], ""
    while True:
        page = http.get(f"/api/alarms?rule=e2e-high-water&thing={thing_id}&limit=500{after}")
        rows += page["alarms"]
        if not page.get("next"):
            return rows
        after = f"&after={page['next']}"


def no_alarm_doubled(series, thing_id):
    def run():
        wanted, standing = raises(series.sent)
        until = time.monotonic() + 60
        while True:
            found = alarms_of(thing_id)
            stands = [a for a in found if a["state"] in ("open", "acknowledged")]
            done = len(found) >= wanted and len(stands) == standing
            if done or time.monotonic() > until:
                break
            time.sleep(0.1)
        equal((len(found), len(stands)), (wanted, int(standing)))
        equal(len({a["raised_at"] for a in found}), wanted)

    return run


def heard(series, since):
    def run():
        wanted = {one for one in series.sent if one[0] >= since}
        until = time.monotonic() + 120
        while not wanted <= listener.got[series.stream] and time.monotonic() < until:
            assert not trouble, trouble
            time.sleep(0.1)
        missed = sorted(wanted - listener.got[series.stream])
        assert not missed, f"{len(missed)} of {len(wanted)} acknowledged Observations never came, the first {missed[0]}"

    return run


def registered_once():
    found, after = [], ""
    while after is not None:
        page = http.get(f"/api/devices?tenant=dsd&after={after}")
        found += [d["key"] for d in page["devices"]]
        after = page["after"]
    equal(len(found), len(set(found)))
    lost = set(registering.sent) - set(found)
    assert not lost, f"{len(lost)} of {len(registering.sent)} acknowledged registrations are lost"
    extra = {key for key in found if key.startswith("killed-")} - set(registering.sent)
    assert not extra, f"{len(extra)} were registered that nobody sent"


def once_in_the_lake():
    """The table as another program reads it, without this one's own sense for repetitions."""
    table = deltalake.DeltaTable(str(server.folder / "data/lake/observations"))
    table = pyarrow.table(table.to_pyarrow_table() if hasattr(table, "to_pyarrow_table") else table.to_arrow())
    columns = [table[name].cast(pyarrow.int64()).to_pylist() for name in ("datastream", "phenomenon_time", "feature", "result_time")]
    keys = list(zip(*columns))
    equal(len(keys), len(set(keys)))
    found = {}
    for stream, at, value in zip(columns[0], columns[1], table["value"].to_pylist()):
        found.setdefault(stream, []).append((at, value))
    for one in everybody:
        equal(sorted(found.get(one.stream, [])), sorted(one.sent))
    return len(keys)


print(f"# kill: {KILLS} rounds, E2E_SEED={SEED}", flush=True)
moments = random.Random(SEED)
try:
    server.start()
    http = Http(server.base, server.admin_key("dsd", "admin"))
    devices, alarming = [], []
    for n in range(3):
        made = http.create("/v1.1/Things", thing(f"killed {n}", ["a", "b", "c", "alarm"]))
        if n == 0:
            DEVICE, DEVICE_KEY = device(http, "dsd", "killed", gateway=True)
        a, b, c, d = streams_of(http, made)
        devices += [Posting(f"post {n}", a, SEED + n), Array(f"array {n}", b, SEED + n), Mqtt(f"mqtt {n}", c, SEED + n)]
        alarming.append((Alarming(f"alarm {n}", d, SEED + n), made))
    everybody = devices + [a for a, _ in alarming]
    registering = Registering("registering", None, SEED)
    listener = Listener([d.stream for d in devices if not isinstance(d, Array)])
    listener.start()
    until = time.monotonic() + 60
    while not listener.known:
        assert not trouble and time.monotonic() < until, trouble or "the listener does not come in"
        time.sleep(0.01)
    since = now()
    for one in [*everybody, registering]:
        one.start()
    for round_ in range(1, KILLS + 1):
        time.sleep(moments.uniform(0.05, LOAD_SECONDS))
        assert not trouble, trouble
        server.kill()
        server.start()
        print(f"# kill {round_}: {sum(len(d.sent) for d in everybody)} acknowledged so far", flush=True)
    stop.set()
    for one in [*everybody, registering]:
        one.join(120)
    assert not any(d.is_alive() for d in [*everybody, registering]), "a device does not come to an end"
    assert not trouble, trouble
    silent = [d.name for d in [*everybody, registering] if not d.sent]
    assert not silent, f"nothing was ever acknowledged for {silent}"
    ok(f"kill: {KILLS} kills while {len(everybody)} devices were sending; the server always came back")
    for one in everybody:
        check(f"kill: {one.name}: {len(one.sent)} acknowledged Observations are there exactly once", same(one))
    for one, made in alarming:
        check(f"kill: {one.name}: {raises(one.sent)[0]} alarms were raised, none lost, none doubled", no_alarm_doubled(one, made))
    check(f"kill: {len(registering.sent)} acknowledged registrations of devices are there exactly once", registered_once)
    for one in devices:
        if one.stream in listener.got:
            check(f"kill: the session that lasts was given all of {one.name}", heard(one, since))
    deaf.set()
    print(f"# the listener was given {listener.doubled} a second time, as QoS 1 allows", flush=True)
    # The same once more after an orderly stop, when everything has been read back from disk.
    server.process.terminate()
    equal(server.process.wait(120), 0)
    check("kill: the lake, read by delta-rs while nothing is served, holds every acknowledged Observation exactly once", once_in_the_lake)
    server.start()
    for one in everybody:
        check(f"kill: {one.name}: the same after an orderly restart", same(one))
    for one, made in alarming:
        check(f"kill: {one.name}: the same alarms after an orderly restart", no_alarm_doubled(one, made))
    check("kill: the same registrations after an orderly restart", registered_once)
except Exception as error:
    fail("kill", f"{type(error).__name__}: {error}; the server's last words: {server.tail()[-500:]}")
finally:
    stop.set()
    deaf.set()
    server.close()
finish()
