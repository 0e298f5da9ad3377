"""The outgrown machine: PostgreSQL, NATS and S3 instead of files. Stores go away and come back under load; two programs share them, and one
is killed; a backup is taken meanwhile, and brought back into either kind of stores.

    python stores.py <program> <the program that starts throw-away stores>

Devices send as devices should: what is not acknowledged is sent again until it is. In the end every series must be exactly what its device
meant to send.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import paho.mqtt.client as paho

from common import ROOT, Http, Refused, Server, check, device, devices_of, equal, fail, finish, micros, now, ok, stamp, streams_of, thing

PROGRAM, STORES = sys.argv[1], sys.argv[2]
RULES = """
[[rule]]
key = "e2e-high-water"
tenant = "dsd"
severity = "Severe"
name = { en = "High water (test)", zh-hant = "水位過高（測試）", zh-hans = "水位过高（测试）" }
select = { system = "flood" }
when = { above = { raise = 1000, clear = 900 } }
"""
# A lease so short that the test need not wait long; a seal so often that every trouble falls into some.
COMMON = ["lake.seal=1s", "log.level=info", "http.timeout=8s"]
PATIENCE = 120


class Stores:
    """PostgreSQL, NATS and S3 of our own."""

    def __init__(self):
        self.process = subprocess.Popen([STORES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.settings = []
        while line := self.process.stdout.readline().strip():
            self.settings.append(line)
        assert self.settings, "the stores did not start"

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        equal(self.process.stdout.readline().strip(), "ok")

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)


def wait_for(what, run, patience=PATIENCE):
    """What `run` returns once it is neither false nor fails."""
    until, last = time.monotonic() + patience, None
    while time.monotonic() < until:
        try:
            last = run()
            if last:
                return last
        except (OSError, Refused, AssertionError) as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"{what}: not after {patience} s, the last answer was {last}")


class Sender(threading.Thread):
    """One series over HTTP: `sent` is what was acknowledged. `servers` says where to try, in turn."""

    def __init__(self, name, stream, key, bases):
        super().__init__(name=name, daemon=True)
        self.stream, self.key, self.bases = stream, key, bases
        self.sent, self.statuses, self.problems = [], {}, []
        self.at, self.turn = now(), 0
        self.stop, self.trouble = threading.Event(), None

    def step(self):
        self.at = max(self.at + 1, now())
        return self.at, float(self.at % 800)

    def run(self):
        try:
            while not self.stop.is_set():
                batch = [self.step() for _ in range(20)]
                while not self.try_send(batch):
                    time.sleep(0.02)
                self.sent += batch
        except Exception as error:
            self.trouble = f"{self.name}: {type(error).__name__}: {error}"

    def try_send(self, batch):
        try:
            self.send(batch)
            return True
        except Refused as refused:
            self.statuses[refused.status] = self.statuses.get(refused.status, 0) + 1
            if refused.status == 503:
                self.problems.append(refused.body)
                self.turn += 1
                return False
            raise
        except OSError:
            self.turn += 1
            return False

    def send(self, batch):
        http = Http(self.bases[self.turn % len(self.bases)], self.key)
        body = [
            {
                "Datastream": {"@iot.id": self.stream},
                "components": ["phenomenonTime", "result"],
                "dataArray": [[stamp(at), value] for at, value in batch],
            }
        ]
        http.ask("POST", "/v1.1/CreateObservations", body, {"Prefer": "return=minimal"}, timeout=20)

    def end(self):
        self.stop.set()
        self.join(60)
        assert not self.is_alive(), f"{self.name} does not come to an end"
        assert self.trouble is None, self.trouble


class Mqtt(Sender):
    """The same over MQTT, QoS 1. `losses` counts connections that ended."""

    def __init__(self, name, stream, login, ports):
        super().__init__(name, stream, None, ports)
        self.login, self.client, self.losses, self.reasons = login, None, 0, []

    def send(self, batch):
        if self.client is None:
            self.connect()
        topic = f"v1.1/Datastreams({self.stream})/Observations"
        try:
            published = [self.client.publish(topic, json.dumps({"phenomenonTime": stamp(at), "result": value}), 1) for at, value in batch]
            until = time.monotonic() + 60
            while not all(p.is_published() for p in published):
                if self.gone.is_set() or time.monotonic() > until:
                    raise OSError("the connection is gone")
                time.sleep(0.002)
        except (OSError, RuntimeError) as error:
            # paho says by a RuntimeError that it had no connection when it was to publish.
            self.losses += 1
            self.drop()
            raise OSError(str(error)) from None
        assert not self.refused, f"acknowledged with {self.refused[0]}"

    def connect(self):
        up, self.gone, self.refused = threading.Event(), threading.Event(), []
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, reconnect_on_failure=False)
        client.username_pw_set(*self.login)
        gone, refused = self.gone, self.refused
        client.on_connect = lambda _c, _u, _f, reason, _p: gone.set() if reason.is_failure else up.set()
        client.on_publish = lambda _c, _u, _m, reason, _p: refused.append(reason) if reason.is_failure else None

        def down(_c, _u, _f, reason, _p):
            self.reasons.append(str(reason))
            gone.set()

        client.on_disconnect = down
        client.connect("127.0.0.1", self.bases[self.turn % len(self.bases)], 30)
        client.loop_start()
        self.client = client
        until = time.monotonic() + 10
        while not up.is_set():
            if gone.is_set() or time.monotonic() > until:
                self.drop()
                raise OSError("no connection")
            time.sleep(0.01)

    def drop(self):
        self.client.disconnect()
        self.client.loop_stop()
        self.client = None


def observe(http, stream, at, value):
    http.ask("POST", f"/v1.1/Datastreams({stream})/Observations", {"phenomenonTime": stamp(at), "result": value})


def rows(http, stream):
    path = f"/v1.1/Datastreams({stream})/Observations?$orderby=phenomenonTime asc&$top=1000&$select=phenomenonTime,result"
    return [(micros(r["phenomenonTime"]), float(r["result"])) for r in http.every(path)]


def same(http, sender):
    found, wanted = rows(http, sender.stream), sorted(sender.sent)
    lost, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    assert not lost, f"{len(lost)} of {len(wanted)} acknowledged Observations are lost, the first {lost[0]}"
    assert not extra, f"{len(extra)} are there that nobody sent, the first {extra[0]}"
    equal(len(found), len(wanted))
    equal(http.get(f"/v1.1/Datastreams({sender.stream})/Observations?$count=true&$top=0")["@iot.count"], len(wanted))


def health(base):
    """The status of /health/ready, and its parts."""
    try:
        status, _, text = Http(base).ask("GET", "/health/ready", timeout=20)
    except Refused as refused:
        status, text = refused.status, refused.body
    return status, json.loads(text)["parts"]


def new_thing(http, name):
    """A Thing with two Datastreams, and a device that may write to them."""
    made = http.create("/v1.1/Things", thing(name, ["a", "b", "alarm"]))
    login = (name.replace(" ", "-"), device(http, "dsd", name.replace(" ", "-"), [made])[1])
    return made, streams_of(http, made), login


def refused_clearly(run):
    """A 503 with Retry-After and a problem document."""
    try:
        run()
    except Refused as refused:
        equal(refused.status, 503)
        problem = json.loads(refused.body)
        equal((problem["type"], problem["status"]), ("/problems/unavailable", 503))
        assert int(refused.headers["Retry-After"]) >= 1
        assert "panic" not in refused.body and "host=" not in refused.body
        return problem["detail"]
    raise AssertionError("it was not refused")


# --- a store goes away and comes back --------------------------------------------------------------------------------------------


def outage(store, part, probe):
    """Stops one store under load, looks what the program says, and starts it again."""

    def run():
        acknowledged = [len(s.sent) for s in senders]
        stores.tell(f"stop {store}")
        try:
            wait_for(f"/health/ready names {part}", lambda: health(server.base) == (503, not_ready(part)))
            equal(Http(server.base).ask("GET", "/health/live")[0], 200)
            probe()
        finally:
            stores.tell(f"start {store}")
        wait_for("ready again, without a restart", lambda: health(server.base)[0] == 200)
        for sender, before in zip(senders, acknowledged):
            wait_for(f"{sender.name} is served again", lambda: len(sender.sent) > before + 40)
        assert server.process.poll() is None

    return run


def not_ready(part):
    return {name: "not ready" if name == part else "ready" for name in ("records", "stream", "lake")}


def postgres_is_away():
    body = {"tenant": "dsd", "key": f"away-{now()}", "kind": "test"}
    refused_clearly(lambda: http.ask("POST", "/api/devices", body, timeout=20))


def nats_is_away():
    at = now()
    body = {"phenomenonTime": stamp(at), "result": 1.0}
    refused_clearly(lambda: http.ask("POST", f"/v1.1/Datastreams({spare})/Observations", body, timeout=40))


def s3_is_away():
    # What is acknowledged is on the stream; the lake gets it later. So writing goes on.
    before = [len(s.sent) for s in senders]
    for sender, count in zip(senders, before):
        wait_for(f"{sender.name} goes on", lambda: len(sender.sent) > count + 40)


def alarms(http, thing_id):
    return http.get(f"/api/alarms?rule=e2e-high-water&thing={thing_id}&limit=500")["alarms"]


def raise_one(http, stream, thing_id, count):
    """Above the level and below it again; `count` is how many alarms there must be then."""
    observe(http, stream, now(), 2_000.0)
    wait_for("the alarm is raised", lambda: [a["state"] for a in alarms(http, thing_id)].count("open") == 1)
    observe(http, stream, now(), 1.0)
    wait_for("the alarm is cleared", lambda: [a["state"] for a in alarms(http, thing_id)].count("open") == 0)
    equal(len(alarms(http, thing_id)), count)


# --- backup and restore ------------------------------------------------------------------------------------------------------------


def command(*args, settings):
    done = subprocess.run([PROGRAM, *args, *settings], cwd=ROOT, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def picture(http):
    """Everything that is compared after a restore, with no link or address in it."""
    things = sorted((t["@iot.id"], t["name"]) for t in http.every("/v1.1/Things?$top=1000&$select=id,name"))
    streams = sorted((d["@iot.id"], d["name"]) for d in http.every("/v1.1/Datastreams?$top=1000&$select=id,name"))
    devices = sorted(devices_of(http, "dsd"))
    raised = sorted((a["id"], a["state"], a["version"]) for a in http.get("/api/alarms?rule=e2e-high-water&limit=500")["alarms"])
    return {"things": things, "streams": streams, "devices": devices, "alarms": raised}


class Session:
    """An MQTT session that outlives its connection: what was published while it was away arrives afterwards."""

    def __init__(self, port, login, name="e2e-session"):
        self.port, self.login, self.name, self.got = port, login, name, []

    def connect(self, clean):
        up = threading.Event()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=self.name, protocol=paho.MQTTv311, clean_session=clean)
        client.username_pw_set(*self.login)
        client.on_message = lambda _c, _u, message: self.got.append(json.loads(message.payload)["result"])
        found = {}

        def connected(_c, _u, flags, reason, _p):
            found.update(present=flags.session_present, failed=reason.is_failure)
            up.set()

        client.on_connect = connected
        client.connect("127.0.0.1", self.port, 30)
        client.loop_start()
        assert up.wait(30) and not found["failed"]
        return client, found["present"]

    def begin(self, stream):
        client, _ = self.connect(False)
        granted = threading.Event()
        client.on_subscribe = lambda *_: granted.set()
        client.subscribe(f"v1.1/Datastreams({stream})/Observations", 1)
        assert granted.wait(30)
        client.disconnect()
        client.loop_stop()

    def resume(self, wanted):
        client, present = self.connect(False)
        assert present, "the session is not there"
        wait_for("what was missed arrives", lambda: set(wanted) <= set(self.got), 30)
        client.disconnect()
        client.loop_stop()


def backed_up(source, key, name):
    """`lamppost backup` beside a program that serves under load; what it holds by then."""
    folder = source.folder / "backups"
    key_file = source.folder / "key"
    key_file.write_text(key)
    target = folder / name
    code, said = command("backup", "--to", str(target), "--key-file", str(key_file), settings=source.settings)
    equal((code, said.strip().split(": ")[-1]), (0, "done"))
    code, said = command("backup", "--to", str(target), "--key-file", str(key_file), settings=source.settings)
    assert code != 0 and "already" in said, said
    return target


def check_restored(backup, into, wanted, key, sender, certain, session_wanted):
    """Brings it back into empty stores, starts the program on them and compares."""
    code, said = command("restore", "--from", str(backup), settings=into.settings)
    equal((code, "brought back" in said), (0, True))
    code, said = command("restore", "--from", str(backup), settings=into.settings)
    assert code != 0 and "not empty" in said, said
    into.start()
    there = Http(into.base, key)
    equal(picture(there), wanted)
    found, sent = rows(there, sender.stream), sorted(sender.sent)
    # What was acknowledged before the backup began is in it; what came while it was made is in it or not, but nothing else is.
    assert set(sent[:certain]) <= set(found) <= set(sent), f"{len(found)} of {len(sent)}, at least {certain}"
    equal(len(found), len(set(found)))
    Session(into.mqtt_port, LOGIN).resume(session_wanted)
    at = now()
    observe(there, sender.stream, at, 5.0)
    assert (at, 5.0) in rows(there, sender.stream), "and it goes on from there"
    raise_one(there, alarm_stream, alarm_thing, 1 + len(known_alarms & {a[0] for a in wanted["alarms"]}))


servers, everything = [], []


def serve(settings, **more):
    made = Server(PROGRAM, rules=RULES, settings=[*settings, *COMMON], **more)
    servers.append(made)
    return made


stores = Stores()
everything.append(stores)
try:
    # One program on the three stores, under load, and each of the stores away for a while.
    server = serve([*stores.settings, "records.lease=3s"])
    server.settings += ["--set", f"backup.folder={server.folder / 'backups'}"]
    check("stores: the program starts on PostgreSQL, NATS and S3", server.start)
    KEY = server.admin_key("dsd", "admin")
    OPS = server.admin_key("city", "admin")
    http = Http(server.base, KEY)
    alarm_thing, (first, second, alarm_stream), LOGIN = new_thing(http, "outgrown")
    spare = streams_of(http, http.create("/v1.1/Things", thing("spare", ["spare"])))[0]
    bases, ports = [server.base], [server.mqtt_port]
    senders = [Sender("http", first, KEY, bases), Mqtt("mqtt", second, LOGIN, ports)]
    for sender in senders:
        sender.start()
    for sender in senders:
        wait_for(f"{sender.name} is served", lambda: len(sender.sent) > 40)
    check("stores: PostgreSQL away: 503, /health/ready says so, and it comes back", outage("postgres", "records", postgres_is_away))
    check("stores: NATS away: 503, /health/ready says so, and it comes back", outage("nats", "stream", nats_is_away))
    check("stores: S3 away: everything goes on, /health/ready says so, and it comes back", outage("s3", "lake", s3_is_away))
    check("stores: rules judge as before", lambda: raise_one(http, alarm_stream, alarm_thing, 1))

    # A second program on the same stores waits, and takes over.
    other = serve([*stores.settings, "records.lease=3s"])
    other.settings += ["--set", f"backup.folder={other.folder / 'backups'}"]

    def waits():
        other.spawn()
        wait_for("it waits", lambda: health(other.base) == (503, {"lease": "held by another"}))
        equal(Http(other.base).ask("GET", "/health/live")[0], 200)
        refused_clearly(lambda: Http(other.base).ask("GET", "/v1.1/Things"))
        code, said = command("pack", "apply", settings=apply_settings(other))
        assert code != 0 and "another lamppost serves this city" in said, said
        equal(health(server.base)[0], 200)

    def apply_settings(beside):
        """Those of `beside`, on a folder of its own."""
        settings = list(beside.settings)
        settings[settings.index("--data") + 1] = str(beside.folder / "apply")
        return settings

    def takes_over():
        bases.append(other.base)
        ports.append(other.mqtt_port)
        server.kill()
        began = time.monotonic()
        wait_for("the other one is ready", lambda: health(other.base)[0] == 200)
        ok(f"stores: taken over {time.monotonic() - began:.1f} s after kill -9, with a lease of 3 s")
        before = [len(s.sent) for s in senders]
        for sender, count in zip(senders, before):
            wait_for(f"{sender.name} is served by the other one", lambda: len(sender.sent) > count + 40)
        there = Http(other.base, KEY)
        raise_one(there, alarm_stream, alarm_thing, 2)

    check("stores: a second program on the same stores waits and says so", waits)
    check("stores: it takes over after kill -9 of the first, and judges no alarm twice", takes_over)

    def is_stopped_in_order():
        """The first comes back as the one who waits; an ordered stop hands over without waiting for silence."""
        server.spawn()
        wait_for("it waits", lambda: health(server.base) == (503, {"lease": "held by another"}))
        other.process.terminate()
        equal(other.process.wait(60), 0)
        wait_for("the first one is ready", lambda: health(server.base)[0] == 200)
        raise_one(http, alarm_stream, alarm_thing, 3)

    check("stores: an ordered stop hands over", is_stopped_in_order)

    def is_replaced_while_it_sleeps():
        """A program that was stopped in its tracks wakes up when another has taken over: it writes nothing and ends."""
        other.spawn()
        wait_for("it waits", lambda: health(other.base) == (503, {"lease": "held by another"}))
        server.process.send_signal(19)  # SIGSTOP
        wait_for("the other one is ready", lambda: health(other.base)[0] == 200)
        server.process.send_signal(18)  # SIGCONT
        equal(server.process.wait(60), 1)
        assert "has taken over" in server.tail(), server.tail()
        raise_one(Http(other.base, KEY), alarm_stream, alarm_thing, 4)

    check("stores: who was replaced while it slept ends when it wakes", is_replaced_while_it_sleeps)

    # Backup under load, and back into new stores of both kinds.
    there = Http(other.base, KEY)
    session = Session(other.mqtt_port, LOGIN)
    session.begin(spare)
    missed = [float(n) for n in range(700, 705)]
    for value in missed:
        observe(there, spare, now(), value)
    known_alarms = {a["id"] for a in alarms(there, alarm_thing)}
    wanted, certain = picture(there), len(senders[0].sent)
    backup = check("stores: a backup is made under load, and never over another", lambda: backed_up(other, OPS, "one"))
    for sender in senders:
        check(f"stores: {sender.name} comes to an end", sender.end)
        check(f"stores: {sender.name}: {len(sender.sent)} acknowledged Observations are there exactly once", lambda: same(there, sender))
    if backup:
        fresh = Stores()
        everything.append(fresh)
        into = serve([*fresh.settings, "records.lease=3s"])
        check("stores: it comes back into empty PostgreSQL, NATS and S3",
              lambda: check_restored(backup, into, wanted, KEY, senders[0], certain, missed))
        local = serve([])
        local.settings += ["--set", f"backup.folder={local.folder / 'backups'}"]
        check("stores: it comes back into files on one machine",
              lambda: check_restored(backup, local, wanted, KEY, senders[0], certain, missed))

        def outgrown():
            """The other way round is how a city moves: from one machine into stores outside."""
            mine = Http(local.base, KEY)
            # The alarm that the comparison has raised is one of the city's now.
            known_alarms.update(a["id"] for a in alarms(mine, alarm_thing))
            state, count = picture(mine), len(rows(mine, senders[0].stream))
            moved = backed_up(local, OPS, "two")
            third = Stores()
            everything.append(third)
            target = serve([*third.settings, "records.lease=3s"])
            code, said = command("restore", "--from", str(moved), settings=target.settings)
            equal((code, "brought back" in said), (0, True))
            target.start()
            city = Http(target.base, KEY)
            equal((picture(city), len(rows(city, senders[0].stream))), (state, count))

        check("stores: a city moves from one machine into PostgreSQL, NATS and S3", outgrown)

        def hostile():
            """What is not whole is refused before anything is written."""
            for name, spoil, word in [
                ("cut", lambda f: (f / "records").write_bytes((f / "records").read_bytes()[:-100]), "damaged"),
                ("flipped", lambda f: flip(f / "records"), "damaged"),
                ("no-manifest", lambda f: (f / "manifest.json").unlink(), "no manifest.json"),
                ("half-a-manifest", lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text()[:200]), "manifest.json"),
                ("outside", lambda f: leads_out(f), "missing"),
                ("linked", lambda f: (f / "lake" / "link").symlink_to("/etc/passwd"), "neither a file nor a folder"),
                ("linked-folder", lambda f: (f / "lake" / "link").symlink_to("/"), "neither a file nor a folder"),
            ]:
                with tempfile.TemporaryDirectory() as folder:
                    bad = pathlib.Path(folder) / "backup"
                    subprocess.run(["cp", "-r", str(backup), str(bad)], check=True)
                    spoil(bad)
                    target = pathlib.Path(folder) / "data"
                    code, said = command("restore", "--from", str(bad), settings=["--data", str(target)])
                    assert code == 1 and word in said, f"{name}: {code} {said}"
                    assert not target.exists(), f"{name}: something was written"

        def flip(file):
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)

        def leads_out(folder):
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest["files"]["../../outside"] = {"bytes": 1, "sha256": "00"}
            (folder / "manifest.json").write_text(json.dumps(manifest))

        check("stores: a backup that is cut, damaged or leads elsewhere is refused and nothing is written", hostile)
except Exception as error:
    last = servers[0].tail()[-800:] if servers else ""
    fail("stores", f"{type(error).__name__}: {error}; the server's last words: {last}")
finally:
    for made in servers:
        made.close()
    for made in everything:
        made.close()
finish()
