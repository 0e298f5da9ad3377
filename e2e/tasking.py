"""Tasks from outside: a device over MQTT, kill -9 during their life, what comes too late, and the simulated field cut off from the platform.

    python tasking.py <program>            E2E_KILLS=20 for the long run, E2E_SEED=… for the same moments again
"""

import json
import os
import random
import subprocess
import sys
import threading
import time

import paho.mqtt.client as paho

from common import ROOT, Http, Refused, Server, check, device, equal, finish, ok, stamp, streams_of, thing

PROGRAM = sys.argv[1]
KILLS = int(os.environ.get("E2E_KILLS", "4"))
SEED = int(os.environ.get("E2E_SEED", random.randrange(1 << 32)))
# Programs do for people here: what takes two of them is the business of the pages' tests.
POLICY = """
permit (principal is Lamppost::ApiKey, action in [Lamppost::Action::"task:alone", Lamppost::Action::"task:approve"], resource)
when { principal has tenant && resource has tenant && principal.tenant == resource.tenant };
"""
OVER = {"completed", "failed", "expired", "rejected", "rolled_back"}

server = Server(PROGRAM, settings=["log.level=warn"])
(server.pack / "policies" / "zz-e2e.cedar").write_text(POLICY)


def wait_for(what, run, patience=60):
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            found = run()
        except OSError:
            found = None
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {patience} s")


class Motor:
    """A device that does its Tasks and says so. What it has done lives as long as the device, as in a real one's flash."""

    def __init__(self, key, capability, stream):
        self.capability, self.stream = capability, stream
        self.heard, self.done = [], {}
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="motor", clean_session=False)
        self.client.username_pw_set("motor", key)
        self.client.reconnect_delay_set(0.05, 0.3)
        self.client.on_connect = self.connected
        self.client.on_message = self.message

    def connected(self, client, *_):
        client.subscribe(f"v1.1/TaskingCapabilities({self.capability})/Tasks", 1)

    def message(self, client, _, message):
        task = json.loads(message.payload)
        number = task["@iot.id"]
        self.heard.append(number)
        client.publish(f"v1.1/Tasks({number})", json.dumps({"@lamppost.status": "acknowledged"}), 1)
        if number not in self.done:
            self.done[number] = task["taskingParameters"]["speed"]
            reading = {"result": self.done[number], "phenomenonTime": stamp(time.time_ns() // 1_000)}
            client.publish(f"v1.1/Datastreams({self.stream})/Observations", json.dumps(reading), 1)

    def start(self):
        self.client.connect("127.0.0.1", server.mqtt_port, 20)
        self.client.loop_start()
        return self

    def stop(self):
        self.client.disconnect()
        self.client.loop_stop()


def fan(admin, name, terms):
    made = admin.create("/v1.1/Things", thing(name, ["speed"], unit=("percent", "%")))
    stream = streams_of(admin, made)[0]
    actuator = {"name": "motor", "description": "d", "encodingType": "text/html", "metadata": "https://example.org"}
    body = {
        "name": "fan", "description": "d", "Thing": {"@iot.id": made}, "Actuator": actuator,
        "taskingParameters": {"type": "DataRecord", "field": [{"name": "speed", "type": "Count"}]},
        "properties": {"tasking": terms(stream)},
    }
    return made, stream, admin.create("/v1.1/TaskingCapabilities", body)


def task(admin, number):
    return admin.get(f"/api/tasks/{number}")


def status(admin, number):
    return task(admin, number)["task"]["status"]


def again(run):
    """Until the server answers: it may be down at the moment."""
    while True:
        try:
            return run()
        except OSError:
            time.sleep(0.05)
        except Refused as refused:
            if refused.status not in (409, 503):
                raise
            time.sleep(0.1)


def proposing(admin, capability, count, made, stop):
    for number in range(count):
        if stop.is_set():
            return
        body = {"taskingParameters": {"speed": number + 1}, "@lamppost.idempotencyKey": f"e2e-{number}"}
        made.append((number + 1, again(lambda: admin.create(f"/v1.1/TaskingCapabilities({capability})/Tasks", body))))


def kills(admin, key):
    chance = random.Random(SEED)
    terms = lambda stream: {
        "acknowledge_seconds": 60,
        "verify": {"Datastream": {"@iot.id": stream}, "parameter": "speed", "seconds": 60},
    }
    made, stream, capability = fan(admin, "e2e-killed", terms)
    motor = Motor(device(admin, "dsd", "e2e-motor", [made])[1], capability, stream).start()
    tasks, stop = [], threading.Event()
    proposer = threading.Thread(target=proposing, args=(admin, capability, 60 * KILLS, tasks, stop), daemon=True)
    proposer.start()
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.3, 1.5))
        server.kill()
        server.start()
    stop.set()
    proposer.join(60)
    assert len(tasks) > KILLS, f"only {len(tasks)} Tasks were proposed"
    equal(len({number for _, number in tasks}), len(tasks))
    last = tasks[-1][1]
    wait_for("the last Task is over", lambda: status(admin, last) in OVER, 120)
    for speed, number in tasks:
        found = wait_for(f"Tasks({number}) is over", lambda: (lambda t: t if t["task"]["status"] in OVER else None)(task(admin, number)))
        equal((number, found["task"]["status"]), (number, "completed"))
        events = [line["event"] for line in found["history"]]
        equal((number, [e for e in events if e in ("sent", "verified", "completed")]), (number, ["sent", "verified", "completed"]))
        equal(motor.done.get(number), speed)
    rows = admin.every(f"/v1.1/TaskingCapabilities({capability})/Tasks?$select=id&$top=1000")
    equal(sorted(row["@iot.id"] for row in rows), sorted(number for _, number in tasks))
    motor.stop()
    repeated = len(motor.heard) - len(motor.done)
    print(f"     {len(tasks)} Tasks through {KILLS} kills, {repeated} told twice and done once (E2E_SEED={SEED})")


def late(admin):
    """What is of no use any more is never given to a device that comes back."""
    made, stream, capability = fan(admin, "e2e-away", lambda _: {"acknowledge_seconds": 2, "busy": "wait"})
    motor = Motor(device(admin, "dsd", "e2e-away-motor", [made])[1], capability, stream).start()
    path = f"/v1.1/TaskingCapabilities({capability})/Tasks"
    first = admin.create(path, {"taskingParameters": {"speed": 1}})
    wait_for("the device does its Task", lambda: status(admin, first) == "completed")
    motor.stop()
    expired = admin.create(path, {"taskingParameters": {"speed": 2}})
    wait_for("it was not acknowledged", lambda: status(admin, expired) == "failed")
    made, stream, patient = fan(admin, "e2e-patient", lambda _: {"acknowledge_seconds": 60})
    other = Motor(device(admin, "dsd", "e2e-patient-motor", [made])[1], patient, stream)
    other.client._client_id = b"other"
    other.start()
    path = f"/v1.1/TaskingCapabilities({patient})/Tasks"
    wait_for("it listens", lambda: status(admin, admin.create(path, {"taskingParameters": {"speed": 1}})) in ("sent", "approved", "completed"))
    wait_for("it has done it", lambda: other.done)
    other.stop()
    cancelled = admin.create(path, {"taskingParameters": {"speed": 3}})
    admin.ask("POST", f"/api/tasks/{cancelled}/cancel", {})
    kept = admin.create(path, {"taskingParameters": {"speed": 4}})
    equal(status(admin, kept), "sent")
    motor.start()
    other.start()
    wait_for("what waited is done", lambda: status(admin, kept) == "completed")
    time.sleep(1)
    equal((expired in motor.heard, cancelled in other.heard, kept in other.heard), (False, False, True))
    motor.stop()
    other.stop()


def restarted(admin):
    """What was sent while its device was away is still told when the program was started anew meanwhile."""
    made, stream, capability = fan(admin, "e2e-restart", lambda _: {"acknowledge_seconds": 120})
    motor = Motor(device(admin, "dsd", "e2e-restart-motor", [made])[1], capability, stream)
    motor.client._client_id = b"restarted"
    motor.start()
    path = f"/v1.1/TaskingCapabilities({capability})/Tasks"
    first = admin.create(path, {"taskingParameters": {"speed": 1}})
    wait_for("the device does its Task", lambda: status(admin, first) == "completed")
    motor.stop()
    waits = admin.create(path, {"taskingParameters": {"speed": 2}})
    equal(status(admin, waits), "sent")
    time.sleep(0.5)
    server.kill()
    server.start()
    motor.start()
    wait_for("what waited is done", lambda: status(admin, waits) == "completed")
    motor.stop()


def capability_of(admin, key):
    rows = admin.every("/v1.1/TaskingCapabilities?$select=id,properties&$top=1000")
    return next(row["@iot.id"] for row in rows if row["properties"]["key"] == key)


def stream_of(admin, key):
    system = "flood" if key.endswith(".pump") else "hepa"
    rows = admin.every(f"/v1.1/Datastreams?$top=1000&$orderby=id&$select=id,properties&$filter=Thing/properties/system eq '{system}'")
    return next(row["@iot.id"] for row in rows if row["properties"].get("key") == key)


def simulated(dsd, second, ha):
    """The field of the pack takes Tasks by itself, misbehaves when told to, and lets go of a hold when nobody is there to renew it."""
    keys = {}
    for admin, tenant, system in ((dsd, "dsd", "flood"), (ha, "ha", "hepa"), (ha, "ha", "hepa"), (ha, "ha", "hepa")):
        things = admin.get(f"/v1.1/Things?$top=20&$orderby=id&$select=id,properties&$filter=properties/system eq '{system}'")["value"]
        chosen = next(t for t in things if t["properties"].get("key") and t["properties"]["key"] not in keys)
        keys[chosen["properties"]["key"]] = device(admin, tenant, chosen["properties"]["key"], [chosen["@iot.id"]])[1]
    flood, good, silent, wrong = keys
    file = server.folder / "field.json"
    file.write_text(json.dumps({"keys": keys}))
    command = [
        PROGRAM, "simulate", "--pack", str(server.pack), "--mqtt", f"127.0.0.1:{server.mqtt_port}", "--http", f"127.0.0.1:{server.http_port}",
        "--keys", str(file), "--fault", f"{silent}=silent", "--fault", f"{wrong}=wrong",
    ]
    log = open(server.folder / "field.log", "wb")
    field = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        path = lambda admin, key: f"/v1.1/TaskingCapabilities({capability_of(admin, key)})/Tasks"
        fans = {name: path(ha, f"{name}.fan-speed") for name in (good, silent, wrong)}
        body = {"taskingParameters": {"speed": 1200}}
        # The field has a year of weather to read before it connects. A device subscribes before it observes, so what observes listens.
        for admin, name in ((ha, f"{good}.fan"), (ha, f"{silent}.fan"), (ha, f"{wrong}.fan"), (dsd, f"{flood}.pump")):
            observed = f"/v1.1/Datastreams({stream_of(admin, name)})/Observations?$top=1"
            wait_for(f"{name} observes", lambda: admin.get(observed)["value"], 300)
        done = ha.create(fans[good], body)
        wait_for("it is over", lambda: status(ha, done) in OVER, 200)
        equal((status(ha, done), [line["event"] for line in task(ha, done)["history"]][-1]), ("completed", "completed"))
        seen = task(ha, done)["task"]["verify"]["reading"]
        stream = ha.get(f"/v1.1/Datastreams({seen['datastream']})/Observations?$top=1&$orderby=phenomenonTime desc")["value"]
        assert abs(stream[0]["result"] - 1200) <= 60, stream
        never = ha.create(fans[silent], body)
        reading = {"@iot.id": stream_of(ha, f"{wrong}.fan")}
        bad = ha.create(fans[wrong], {**body, "@lamppost.verify": {"Datastream": reading, "value": 1200, "tolerance": 60, "seconds": 5}})
        wait_for("the wrong reading is found out", lambda: status(ha, bad) == "failed")
        wait_for("who never answers has failed", lambda: status(ha, never) == "failed", 90)
        # The pump, with a hold of a few seconds: a second principal approves.
        pump = path(dsd, f"{flood}.pump")
        hold = {"seconds": 8, "fallback": {"run": False}}
        held = dsd.create(pump, {"taskingParameters": {"run": True}, "@lamppost.hold": hold, "@lamppost.reason": "water at the gate"})
        equal(status(dsd, held), "validated")
        dsd.refuses(403, "POST", f"/api/tasks/{held}/approve", {"version": task(dsd, held)["task"]["version"]})
        second.ask("POST", f"/api/tasks/{held}/approve", {"version": task(dsd, held)["task"]["version"]})
        wait_for("the pump runs", lambda: status(dsd, held) == "verified")
        for _ in range(2):
            time.sleep(4)
            dsd.ask("POST", f"/api/tasks/{held}/renew", {})
        equal(status(dsd, held), "verified")
        gone = time.time()
        server.kill()
        time.sleep(10)
        back = time.time()
        server.start()
        wait_for("the hold is over", lambda: status(dsd, held) == "expired")
        pump_stream = task(dsd, held)["task"]["verify"]["reading"]["datastream"]
        query = f"/v1.1/Datastreams({pump_stream})/Observations?$filter=result eq 0&$top=100&$orderby=phenomenonTime desc&$select=phenomenonTime"
        alone = lambda: [row for row in dsd.get(query)["value"] if stamp(int(gone * 1e6)) < row["phenomenonTime"] < stamp(int(back * 1e6))]
        wait_for("it let go by itself while the platform was away", alone)
        newest = dsd.get("/api/tasks?thing=" + str(task(dsd, held)["task"]["thing"]))["tasks"][0]
        wait_for("the platform's own fallback is done too", lambda: status(dsd, newest["id"]) == "completed")
        equal(newest["purpose"], {"fallback": held})
    finally:
        field.terminate()
        field.wait(20)
        log.close()


try:
    server.start()
    key = server.admin_key("dsd", "admin")
    admin, second = Http(server.base, key), Http(server.base, server.admin_key("dsd", "admin", "e2e second"))
    hospitals = Http(server.base, server.admin_key("ha", "admin"))
    check("tasking: what comes too late is never given to a device", lambda: late(admin))
    check("tasking: a start between sending and coming back loses nothing", lambda: restarted(admin))
    check(f"tasking: {KILLS} kills lose no Task and repeat none", lambda: kills(admin, key))
    check("tasking: the simulated field obeys, misbehaves, and lets go when it is cut off", lambda: simulated(admin, second, hospitals))
finally:
    server.close()
ok("tasking: the server stops")
finish()
