"""kill -9 under load, at random moments, again and again: nothing acknowledged is lost, nothing is there twice, no alarm is doubled.

    python kill.py <program>            E2E_KILLS=100 for the long run, E2E_SEED=… for the same moments again

Devices send as devices should: what is not acknowledged is sent again, in order, until it is. Now and then one has forgotten and sends
again what was acknowledged. In the end every series must be exactly what its device meant to send, and every alarm exactly
the ones that the sent levels raise.
"""

import json
import os
import random
import sys
import threading
import time

import paho.mqtt.client as paho

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
    for one in everybody:
        one.start()
    for round_ in range(1, KILLS + 1):
        time.sleep(moments.uniform(0.05, LOAD_SECONDS))
        assert not trouble, trouble
        server.kill()
        server.start()
        print(f"# kill {round_}: {sum(len(d.sent) for d in everybody)} acknowledged so far", flush=True)
    stop.set()
    for one in everybody:
        one.join(120)
    assert not any(d.is_alive() for d in everybody), "a device does not come to an end"
    assert not trouble, trouble
    silent = [d.name for d in everybody if not d.sent]
    assert not silent, f"nothing was ever acknowledged for {silent}"
    ok(f"kill: {KILLS} kills while {len(everybody)} devices were sending; the server always came back")
    for one in everybody:
        check(f"kill: {one.name}: {len(one.sent)} acknowledged Observations are there exactly once", same(one))
    for one, made in alarming:
        check(f"kill: {one.name}: {raises(one.sent)[0]} alarms were raised, none lost, none doubled", no_alarm_doubled(one, made))
    # The same once more after an orderly stop, when everything has been read back from disk.
    server.process.terminate()
    equal(server.process.wait(120), 0)
    server.start()
    for one in everybody:
        check(f"kill: {one.name}: the same after an orderly restart", same(one))
    for one, made in alarming:
        check(f"kill: {one.name}: the same alarms after an orderly restart", no_alarm_doubled(one, made))
except Exception as error:
    fail("kill", f"{type(error).__name__}: {error}; the server's last words: {server.tail()[-500:]}")
finally:
    stop.set()
    server.close()
finish()
