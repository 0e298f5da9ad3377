"""What the tests from outside share: saying what was checked, plain HTTP, and a server of their own."""

import datetime
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
failed = False


def ok(what):
    print(f"ok   {what}", flush=True)


def fail(what, why):
    global failed
    failed = True
    print(f"FAIL {what}: {' '.join(str(why).split())}", flush=True)


def check(what, run):
    """One line for one check. `run` raises, or asserts, when it is not so."""
    try:
        result = run()
    except Exception as error:  # Whatever it is, the other checks still run.
        frames = traceback.extract_tb(error.__traceback__)
        here = pathlib.Path(__file__).parent
        place = [f for f in frames if pathlib.Path(f.filename).parent == here][-1]
        fail(what, f"{type(error).__name__}: {error} ({pathlib.Path(place.filename).name}:{place.lineno})")
        return None
    ok(what)
    return result


def finish():
    sys.exit(1 if failed else 0)


def equal(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def stamp(micros):
    """Microseconds since 1970 as the service writes them."""
    at = datetime.datetime.fromtimestamp(micros // 1_000_000, datetime.timezone.utc)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{micros % 1_000_000:06d}Z"


def micros(text):
    """The other way, for any number of digits in the fraction."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    at = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc)
    return int(at.timestamp()) * 1_000_000 + int((fraction + "000000")[:6])


def now():
    return time.time_ns() // 1_000


class Refused(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status, body, headers=None):
        super().__init__(f"{status} {body[:300]}")
        self.status = status
        self.body = body
        self.headers = headers or {}


class Http:
    """Plain requests, without a client library's opinions. Any trouble with the connection is an OSError."""

    def __init__(self, base, key=None):
        self.base = base
        self.key = key

    def ask(self, method, path, body=None, headers=None, timeout=30):
        url = path if path.startswith("http") else self.base + path
        headers = dict(headers or {})
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        url = url.replace(" ", "%20")
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                text = response.read().decode()
                return response.status, response.headers, text
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode(errors="replace"), error.headers) from None
        except http_trouble() as error:
            raise OSError(str(error)) from None

    def get(self, path):
        return json.loads(self.ask("GET", path)[2])

    def create(self, path, body):
        """The id of what was created."""
        _, headers, _ = self.ask("POST", path, body)
        return int(re.search(r"\((\d+)\)$", headers["Location"]).group(1))

    def every(self, path):
        """All pages of a collection."""
        rows = []
        while path:
            page = self.get(path)
            rows += page["value"]
            path = page.get("@iot.nextLink")
        return rows

    def refuses(self, status, method, path, body=None):
        try:
            found = self.ask(method, path, body)[0]
        except Refused as refused:
            equal(refused.status, status)
            return refused
        raise AssertionError(f"{method} {path} was answered {found}, not {status}")


def http_trouble():
    import http.client

    return (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


def thing(name, streams, public=False, unit=("metre", "m")):
    """The body of a Thing with its location and Datastreams, as a deep insert."""
    stream = lambda key: {
        "name": f"{name} {key}",
        "description": "Made by a test",
        "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
        "unitOfMeasurement": {"name": unit[0], "symbol": unit[1], "definition": f"ucum:{unit[1]}"},
        "Sensor": {
            "name": f"{key} gauge",
            "description": "Made by a test",
            "encodingType": "text/html",
            "metadata": "https://example.org/gauge.html",
        },
        "ObservedProperty": {"name": key, "definition": f"https://example.org/{key}", "description": "Made by a test"},
    }
    return {
        "name": name,
        "description": "Made by a test",
        "@lamppost.public": public,
        "properties": {"system": "flood"},
        "Locations": [
            {
                "name": f"Where {name} is",
                "description": "Made by a test",
                "encodingType": "application/geo+json",
                "location": {"type": "Point", "coordinates": [114.17, 22.32]},
            }
        ],
        "Datastreams": [stream(key) for key in streams],
    }


def streams_of(http, thing_id):
    rows = http.get(f"/v1.1/Things({thing_id})/Datastreams?$orderby=id asc&$select=id")["value"]
    return [row["@iot.id"] for row in rows]


def device(http, tenant, key, things=(), gateway=False):
    """A registered device with a fresh key: its id and the key."""
    body = {"tenant": tenant, "key": key, "kind": "test", "things": list(things), "gateway": gateway}
    registered = json.loads(http.ask("POST", "/api/devices", body)[2])
    issued = json.loads(http.ask("POST", f"/api/devices/{registered['id']}/keys")[2])
    return registered["id"], issued["key"]


def devices_of(http, tenant):
    """The keys of a department's devices, all pages of them."""
    keys, after = [], ""
    while True:
        page = http.get(f"/api/devices?tenant={tenant}{after}")
        keys += [d["key"] for d in page["devices"]]
        if not page.get("after"):
            return keys
        after = f"&after={page['after']}"


def free_port():
    """Below the ports that outgoing connections are given: while a server is down between two starts, one of those would take its place."""
    for port in random.sample(range(20_000, 32_000), 1_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


class Server:
    """The program on a temporary folder, which can be killed and started again on the same addresses."""

    def __init__(self, program, rules=None, settings=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lamppost-e2e-"))
        # A pack must be called as its folder.
        self.pack = self.folder / "hong-kong"
        shutil.copytree(ROOT / "packs/hong-kong", self.pack)
        if rules:
            (self.pack / "rules").mkdir(exist_ok=True)
            (self.pack / "rules" / "zz-e2e.toml").write_text(rules)
        self.program = program
        self.http_port, self.mqtt_port = free_port(), free_port()
        self.base = f"http://127.0.0.1:{self.http_port}"
        self.settings = [
            "--data", str(self.folder / "data"),
            "--pack", str(self.pack),
            "--listen", f"127.0.0.1:{self.http_port}",
            "--mqtt", f"127.0.0.1:{self.mqtt_port}",
            *[part for setting in settings for part in ("--set", setting)],
        ]
        self.log = open(self.folder / "server.log", "wb")
        self.process = None

    def start(self, patience=120):
        """Until it is ready."""
        self.spawn()
        until = time.monotonic() + patience
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}: {self.tail()}")
            try:
                Http(self.base).ask("GET", "/health/ready", timeout=5)
                return
            except (OSError, Refused):
                if time.monotonic() > until:
                    raise AssertionError(f"the server is not ready after {patience} s: {self.tail()}") from None
                time.sleep(0.05)

    def spawn(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LAMPPOST_")}
        self.process = subprocess.Popen(
            [self.program, "serve", *self.settings],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )

    def tail(self):
        return (self.folder / "server.log").read_text(errors="replace")[-2_000:]

    def kill(self):
        """As when the power goes, as far as a process can tell."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def admin_key(self, tenant, role, name="e2e"):
        command = [self.program, "admin", "key", "--tenant", tenant, "--role", role, "--name", name, *self.settings]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LAMPPOST_")}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
