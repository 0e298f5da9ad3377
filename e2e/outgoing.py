"""What the program sends to others, received by others: webhooks proved with `standardwebhooks`, traces read with `opentelemetry-proto`.

    python outgoing.py <program>
"""

import base64
import http.server
import json
import os
import sys
import threading
import time

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from common import Http, Server, check, equal, fail, finish, free_port, now, stamp, streams_of, thing

PROGRAM = sys.argv[1]
PATIENCE = 60
SECRETS = {name: "whsec_" + base64.b64encode(os.urandom(32)).decode() for name in ("control", "duty", "old")}
# "old" is signed with the secret "control", but its receiver expects another: as after a secret was changed on one side only.
RECIPIENTS = {"takes": "control", "hesitates": "duty", "declines": "control", "confused": "old"}
PORT = free_port()


class Receiver(http.server.BaseHTTPRequestHandler):
    """Every webhook that came, by its path, and every message of traces. Answers are taken from `answers`, then 204."""

    calls, answers, traces, lock = {}, {}, [], threading.Lock()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.removeprefix("/hooks/")
        with self.lock:
            if self.path == "/v1/traces":
                self.traces.append((dict(self.headers), json.loads(body)))
                status, answer = 200, b"{}"
            else:
                self.calls.setdefault(name, []).append((dict(self.headers), body))
                waiting = self.answers.get(name, [])
                status, answer = (waiting.pop(0) if waiting else 204), b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def wait_for(what, run):
    until, last = time.monotonic() + PATIENCE, None
    while time.monotonic() < until:
        last = run()
        if last:
            return last
        time.sleep(0.05)
    raise AssertionError(f"{what}: not after {PATIENCE} s, the last answer was {last}")


def calls(name):
    with Receiver.lock:
        return list(Receiver.calls.get(name, []))


def lower(headers):
    return {key.lower(): value for key, value in headers.items()}


def genuine(name, secret):
    """Every call of a receiver, proved."""
    return [Webhook(secret).verify(body.decode(), lower(headers)) for headers, body in calls(name)]


def recipient(key, secret):
    return f'[[recipient]]\nkey = "{key}"\ntenant = "dsd"\nwebhook = {{ url = "http://127.0.0.1:{PORT}/hooks/{key}", secret = "{secret}" }}\n'


RULES = """
[[rule]]
key = "e2e-high-water"
tenant = "dsd"
severity = "Severe"
name = { en = "High water (test)", zh-hant = "水位過高（測試）", zh-hans = "水位过高（测试）" }
select = { system = "flood" }
notify = [%s]
when = { above = { raise = 1000, clear = 900 } }
""" % ", ".join(f'"{key}"' for key in RECIPIENTS) + "".join(recipient(key, secret) for key, secret in RECIPIENTS.items())


def deliveries(state=None):
    found = admin.get(f"/api/deliveries?limit=100{f'&state={state}' if state else ''}")["deliveries"]
    return {d["recipient"]: d for d in found}


def observe(value):
    http_.ask("POST", f"/v1.1/Datastreams({level})/Observations", {"phenomenonTime": stamp(now()), "result": value})


def is_signed():
    observe(2_000.0)
    wait_for("it is told", lambda: calls("takes"))
    (letter,) = genuine("takes", SECRETS["control"])
    equal(letter["type"], "alarm.raised")
    alarm = http_.get(f"/api/alarms/{letter['data']['id']}")["alarm"]
    equal((alarm["rule"], alarm["state"]), ("e2e-high-water", "open"))
    headers, body = calls("takes")[0]
    for wrong in (body + b" ", body.replace(b"raised", b"RAISED")):
        try:
            Webhook(SECRETS["control"]).verify(wrong.decode(), lower(headers))
        except WebhookVerificationError:
            continue
        raise AssertionError("a changed letter was taken for genuine")


def is_tried_again():
    wait_for("it is tried until it is taken", lambda: len(calls("hesitates")) >= 3)
    genuine("hesitates", SECRETS["duty"])
    equal(len({lower(headers)["webhook-id"] for headers, _ in calls("hesitates")}), 1)
    wait_for("and noted", lambda: deliveries()["hesitates"]["state"] == "delivered")
    equal(deliveries()["hesitates"]["attempts"], 3)


def is_a_dead_letter():
    dead = wait_for("it is given up", lambda: deliveries("dead").get("declines"))
    assert "410" in dead["last_error"], dead
    equal(len(calls("declines")), 1)
    # Sending it again is for a person who manages rules; a program's key does not.
    admin.refuses(403, "POST", f"/api/deliveries/{dead['id']}/retry")
    equal(len(calls("declines")), 1)


def has_no_secret():
    dead = wait_for("it is given up", lambda: deliveries("dead").get("confused"))
    assert "secret 'old' is not configured" in dead["last_error"], dead
    equal(calls("confused"), [])


def end_is_told():
    observe(1.0)
    wait_for("the end is told", lambda: len(calls("takes")) >= 2)
    equal([letter["type"] for letter in genuine("takes", SECRETS["control"])], ["alarm.raised", "alarm.cleared"])


def spans():
    """Every span that came, read as the protocol's own message: a field that it does not have is an error."""
    found = []
    with Receiver.lock:
        messages = list(Receiver.traces)
    for headers, message in messages:
        equal(lower(headers)["content-type"], "application/json")
        equal(lower(headers)["x-tenant"], "city")
        # OTLP's JSON writes ids in hexadecimal; protobuf's own reader expects base64 ("OTLP/HTTP", JSON Protobuf Encoding).
        for group in message["resourceSpans"]:
            for scope in group["scopeSpans"]:
                for span in scope["spans"]:
                    for key in ("traceId", "spanId", "parentSpanId"):
                        if key in span:
                            span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
        request = json_format.Parse(json.dumps(message), ExportTraceServiceRequest())
        for group in request.resource_spans:
            names = {a.key: a.value.string_value for a in group.resource.attributes}
            equal(names["service.name"], "lamppost")
            found += [span for scope in group.scope_spans for span in scope.spans]
    with Receiver.lock:
        # Read once; what is in base64 now must not be read again.
        del Receiver.traces[: len(messages)]
    seen.extend(found)
    return seen


seen = []
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def traces_are_continued():
    http_.ask("GET", "/v1.1/Things?$top=1", headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "e2e-traced"})
    mine = wait_for("the span arrives", lambda: [s for s in spans() if s.trace_id.hex() == TRACE])
    (span,) = mine
    equal(span.parent_span_id.hex(), PARENT)
    assert any(span.span_id), "a span has an id of its own"
    attributes = {a.key: a.value for a in span.attributes}
    equal(attributes["http.request.method"].string_value, "GET")
    equal(attributes["http.response.status_code"].int_value, 200)
    equal(attributes["lamppost.request_id"].string_value, "e2e-traced")
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
    assert abs(span.end_time_unix_nano / 1e9 - time.time()) < 300


def traces_are_begun():
    before = len(spans())
    http_.ask("GET", "/health/live")
    begun = wait_for("a new trace", lambda: [s for s in spans()[before:] if s.name.endswith("/health/live")])
    assert all(len(s.trace_id) == 16 and not s.parent_span_id for s in begun)


def nobody_asked():
    """The caller has decided that this is not recorded."""
    http_.ask("GET", "/health/live", headers={"traceparent": f"00-{'ab' * 16}-{PARENT}-00"})
    http_.ask("GET", "/v1.1", headers={"traceparent": f"00-{'cd' * 16}-{PARENT}-01"})
    wait_for("the later one arrives", lambda: [s for s in spans() if s.trace_id.hex() == "cd" * 16])
    equal([s for s in spans() if s.trace_id.hex() == "ab" * 16], [])


Receiver.answers = {"hesitates": [500, 503], "declines": [410]}
receiver = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Receiver)
threading.Thread(target=receiver.serve_forever, daemon=True).start()
given = " ".join(f"{name}={SECRETS[name]}" for name in ("control", "duty"))
server = Server(PROGRAM, rules=RULES, settings=[
    f"webhook.secrets={given}", "outgoing.allow=127.0.0.1:%d" % PORT,
    f"trace.endpoint=http://127.0.0.1:{PORT}", "trace.header=x-tenant: city", "trace.sample=1",
])
try:
    server.start()
    http_ = Http(server.base, server.admin_key("dsd", "admin"))
    admin = http_
    (level,) = streams_of(http_, http_.create("/v1.1/Things", thing("told", ["level"])))
    check("outgoing: a webhook is signed, and a changed one is noticed (standardwebhooks)", is_signed)
    check("outgoing: a receiver that fails is tried again with the same id", is_tried_again)
    check("outgoing: a receiver that declines is a dead letter", is_a_dead_letter)
    check("outgoing: without its secret nothing is sent, and the reason is shown", has_no_secret)
    check("outgoing: the end of an alarm is told too", end_is_told)
    check("outgoing: the caller's trace is continued (opentelemetry-proto)", traces_are_continued)
    check("outgoing: a request without a trace begins one", traces_are_begun)
    check("outgoing: what the caller does not want recorded is not sent", nobody_asked)
except Exception as error:
    fail("outgoing", f"{type(error).__name__}: {error}; the server's last words: {server.tail()[-500:]}")
finally:
    server.close()
    receiver.shutdown()
finish()
