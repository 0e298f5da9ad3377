"""A full disk, made by the kernel: the program refuses clearly, goes on answering, loses nothing that it has acknowledged, and takes up its
work by itself when there is space again.

    python full.py <program>

The data folder is a small tmpfs, so this needs the right to mount: root, or `unshare --map-root-user --mount node e2e/run.mjs …`.
"""

import json
import os
import subprocess
import sys
import threading
import time

import paho.mqtt.client as paho

from common import Http, Refused, Server, check, device, devices_of, equal, fail, finish, micros, now, stamp, streams_of, thing

PROGRAM = sys.argv[1]
SIZE = 96 << 20
PATIENCE = 90

server = Server(PROGRAM, settings=["lake.seal=1s", "stream.segment=1MiB", "log.level=warn"])
data = server.folder / "data"
ballast = data / "ballast"
sent, registered = [], []


def wait_for(what, run):
    until, last = time.monotonic() + PATIENCE, None
    while time.monotonic() < until:
        try:
            last = run()
            if last:
                return last
        except (OSError, Refused) as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"{what}: not after {PATIENCE} s, the last answer was {last}")


def post(count=500):
    """Acknowledged, or `Refused`."""
    first = max(now(), sent[-1][0] + 1 if sent else 0)
    batch = [(first + n, float(n)) for n in range(count)]
    body = [
        {
            "Datastream": {"@iot.id": level},
            "components": ["phenomenonTime", "result"],
            "dataArray": [[stamp(at), value] for at, value in batch],
        }
    ]
    http.ask("POST", "/v1.1/CreateObservations", body, {"Prefer": "return=minimal"})
    sent.extend(batch)


def register():
    key = f"full-{now()}"
    http.ask("POST", "/api/devices", {"tenant": "dsd", "key": key, "kind": "test"})
    registered.append(key)


def fill():
    """Takes whatever is free, to the last block."""
    with open(ballast, "ab", buffering=0) as file:
        for block in (1 << 20, 4096):
            try:
                while True:
                    file.write(b"x" * block)
            except OSError:
                pass


def free():
    os.truncate(ballast, 0)


class Publisher:
    """One MQTT 5 client; what became of a message, and why the connection ended."""

    def __init__(self):
        self.up, self.down, self.acks, self.reason = threading.Event(), threading.Event(), [], None
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, reconnect_on_failure=False)
        self.paho.username_pw_set(*LOGIN)
        self.paho.on_connect = lambda _c, _u, _f, reason, _p: None if reason.is_failure else self.up.set()
        self.paho.on_publish = lambda _c, _u, _m, reason, _p: self.acks.append(reason)
        self.paho.on_disconnect = self.ended
        self.paho.connect("127.0.0.1", server.mqtt_port, 30)
        self.paho.loop_start()
        assert self.up.wait(30)

    def ended(self, _c, _u, _f, reason, _p):
        self.reason = reason
        self.down.set()

    def publish(self):
        at, value = max(now(), sent[-1][0] + 1), 3.0
        body = json.dumps({"phenomenonTime": stamp(at), "result": value})
        self.paho.publish(f"v1.1/Datastreams({level})/Observations", body, 1)
        until = time.monotonic() + 30
        while not self.acks and not self.down.is_set():
            assert time.monotonic() < until, "neither acknowledged nor told why not"
            time.sleep(0.01)
        if self.acks and not self.acks[0].is_failure:
            sent.append((at, value))
            return "taken"
        return self.acks[0] if self.acks else self.reason

    def close(self):
        self.paho.disconnect()
        self.paho.loop_stop()


def refused():
    fill()
    until, refusal = time.monotonic() + PATIENCE, None
    while refusal is None:
        assert time.monotonic() < until, "the disk never becomes full"
        try:
            post()
            fill()
        except Refused as answer:
            refusal = answer
    equal(refusal.status, 503)
    problem = json.loads(refusal.body)
    equal((problem["type"], problem["status"]), ("/problems/unavailable", 503))
    assert "space" in problem["detail"] and str(data) not in refusal.body, problem
    assert int(refusal.headers["Retry-After"]) >= 1


def not_acknowledged():
    client = Publisher()
    try:
        for _ in range(50):
            fill()
            outcome = client.publish()
            if outcome != "taken":
                break
            client.acks.clear()
        assert outcome != "taken", "the disk never becomes full"
        assert outcome.is_failure and client.acks == [], f"{outcome}, {client.acks}"
    finally:
        client.close()


def answers():
    for path in ("/health/live", f"/v1.1/Datastreams({level})/Observations?$top=5", "/v1.1/Things?$top=5", "/api/alarms", "/en/things"):
        equal(http.ask("GET", path)[0], 200)
    rows_are_there()


def rows_are_there():
    path = f"/v1.1/Datastreams({level})/Observations?$orderby=phenomenonTime asc&$top=10000&$select=phenomenonTime,result"
    found = {(micros(r["phenomenonTime"]), float(r["result"])) for r in http.every(path)}
    lost = sorted(set(sent) - found)
    assert not lost, f"{len(lost)} of {len(sent)} acknowledged Observations are lost, the first {lost[0]}"
    extra = found - set(sent)
    # A message that was refused may have been on its way; what nobody has ever sent must not be there.
    assert all(at >= begun for at, _ in extra), sorted(extra)[:3]


def recovers():
    free()
    wait_for("observations are taken again", lambda: post() or True)
    client = Publisher()
    equal(client.publish(), "taken")
    client.close()
    wait_for("the records are written again", lambda: register() or True)
    equal(server.process.poll(), None)

    def sealed():
        figures = reader.ask("GET", "/metrics")[2]
        unsealed = next(line for line in figures.splitlines() if line.startswith("lamppost_sensing_unsealed_rows"))
        return float(unsealed.split()[-1]) == 0

    wait_for("the lake has taken everything", sealed)
    rows_are_there()


def again():
    server.process.terminate()
    equal(server.process.wait(60), 0)
    server.start()
    rows_are_there()
    there = set(devices_of(http, "dsd"))
    assert set(registered) <= there, sorted(set(registered) - there)


try:
    data.mkdir(mode=0o700)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(data)], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr.strip()}; run as root, or: unshare --map-root-user --mount node e2e/run.mjs {PROGRAM} full"
    server.start()
    begun = now()
    http = Http(server.base, server.admin_key("dsd", "admin"))
    # Where a department is sealed, only those who run the platform read its figures.
    reader = Http(server.base, server.admin_key("city", "operator"))
    made = http.create("/v1.1/Things", thing("on a full disk", ["level"]))
    (level,) = streams_of(http, made)
    LOGIN = ("full", device(http, "dsd", "full", [made])[1])
    for _ in range(5):
        post()
    register()
    check("full: HTTP refuses with 503, Retry-After and a sentence, and shows no path", refused)
    check("full: MQTT acknowledges nothing and says why", not_acknowledged)
    check("full: it goes on answering, and everything acknowledged is there", answers)
    check("full: with space again it goes on by itself", recovers)
    check("full: the same after an orderly restart", again)
except Exception as error:
    fail("full", f"{type(error).__name__}: {error}; the server's last words: {server.tail()[-500:]}")
finally:
    if server.process and server.process.poll() is None:
        server.process.terminate()
        try:
            server.process.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
    subprocess.run(["umount", "-l", str(data)], capture_output=True)
    server.close()
finish()
