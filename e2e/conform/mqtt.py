"""A.7 and A.8: creating Observations and receiving updates over MQTT, at the addresses that the service announces."""

import json
import queue
import random
import time
import urllib.parse

from .client import Wrong, equal, key, need
from .registry import test

CREATE = "create-observations-via-mqtt"
RECEIVE = "receive-updates-via-mqtt"
PATIENCE = 20


def endpoint(world, name):
    settings = world.root.get("serverSettings", {})
    for uri, value in settings.items():
        if f"/{name}" in uri and isinstance(value, dict):
            for address in value.get("endpoints", []):
                url = urllib.parse.urlparse(address)
                if url.scheme in ("mqtt", "tcp", "mqtts", "ssl") and url.hostname:
                    secure = url.scheme in ("mqtts", "ssl")
                    return url.hostname, url.port or (8883 if secure else 1883), secure
    raise Wrong(f"{name} is declared, and serverSettings announces no endpoint with mqtt:// or mqtts://")


class Connection:
    def __init__(self, world, name):
        try:
            import paho.mqtt.client as paho
        except ImportError:
            raise Wrong("the MQTT tests need paho-mqtt: pip install paho-mqtt") from None
        host, port, secure = endpoint(world, name)
        # The last part of the service's root stands before every topic (18-088 section 14).
        self.prefix = world.service.root.rsplit("/", 1)[1]
        self.got, connected, self.granted, self.sent = queue.Queue(), queue.Queue(), queue.Queue(), queue.Queue()
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"conform-{random.randrange(16**8):x}")
        options = world.options
        if options.mqtt_user is not None:
            self.paho.username_pw_set(options.mqtt_user, options.mqtt_password)
        elif options.token:
            self.paho.username_pw_set("token", options.token)
        elif options.user is not None:
            self.paho.username_pw_set(options.user, options.password)
        if secure:
            self.paho.tls_set()
        self.paho.on_connect = lambda _c, _u, _f, reason, _p: connected.put(reason)
        self.paho.on_subscribe = lambda _c, _u, _m, reasons, _p: self.granted.put(reasons)
        self.paho.on_publish = lambda _c, _u, _m, reason, _p: self.sent.put(reason)
        self.paho.on_message = lambda _c, _u, message: self.got.put((message.topic, message.payload, message.retain))
        try:
            self.paho.connect(host, port, 30)
        except OSError as error:
            raise Wrong(f"mqtt://{host}:{port}: {error}") from None
        self.paho.loop_start()
        reason = self.take(connected, f"mqtt://{host}:{port} does not answer")
        need(not reason.is_failure, f"mqtt://{host}:{port} refuses the connection: {reason}")

    def take(self, source, what):
        try:
            return source.get(timeout=PATIENCE)
        except queue.Empty:
            raise Wrong(f"{what} (waited {PATIENCE} s)") from None

    def subscribe(self, path):
        self.paho.subscribe(f"{self.prefix}/{path}", 1)
        reasons = self.take(self.granted, f"no SUBACK for {path}")
        need(not reasons[0].is_failure, f"the subscription to {path} is refused: {reasons[0]}")

    def publish(self, path, body):
        self.paho.publish(f"{self.prefix}/{path}", json.dumps(body), 1)
        self.take(self.sent, f"no PUBACK for {path}")

    def message(self, path, fits):
        """The next message of a topic that fits; others, such as retained ones, pass by."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            topic, payload, _ = self.take(self.got, f"no message for {path}")
            need(topic == f"{self.prefix}/{path}", f"a message came for {topic}, which was not subscribed to")
            try:
                value = json.loads(payload)
            except ValueError:
                raise Wrong(f"{topic}: {payload[:100]!r} is not JSON") from None
            if fits(value):
                return value
        raise Wrong(f"no message for {path} fits (waited {PATIENCE} s)")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.paho.disconnect()
        self.paho.loop_stop()


@test(f"{CREATE}/observation-creation", CREATE, "A.7.1.1")
def create(world):
    service, data = world.service, world.data()
    with Connection(world, CREATE) as connection:
        connection.publish(f"{data.second_path}/Observations", {"result": 71, "phenomenonTime": "2018-01-01T00:00:00Z"})
        linked = {"result": 72, "phenomenonTime": "2018-01-01T01:00:00Z", "Datastream": {"@iot.id": data.second["@iot.id"]}}
        feature = service.get(f"{data.first_path}/Observations({key(data.observations[0]['@iot.id'])})/FeatureOfInterest")
        connection.publish("Observations", {**linked, "FeatureOfInterest": {"@iot.id": feature["@iot.id"]}})
    found, until = [], time.monotonic() + PATIENCE
    while len(found) < 2 and time.monotonic() < until:
        found = service.values(f"{data.second_path}/Observations?$filter=result gt 70&$orderby=result&$expand=FeatureOfInterest($select=id)")
        time.sleep(0.1)
    equal([row["result"] for row in found], [71, 72], "Observations that were published")
    equal(found[1]["FeatureOfInterest"]["@iot.id"], feature["@iot.id"], "the feature that a published Observation links to")


@test(f"{RECEIVE}/receive-updates", RECEIVE, "A.8.1.1")
def receive(world):
    service, data = world.service, world.data()
    path = f"{data.first_path}/Observations"
    with Connection(world, RECEIVE) as connection:
        connection.subscribe(path)
        _, made = service.create(path, {"result": 81, "phenomenonTime": "2018-02-01T00:00:00Z"})
        got = connection.message(path, lambda value: value.get("result") == 81)
        # The same entity, whole, however the links to it are written.
        for name in ("@iot.id", "phenomenonTime", "resultTime", "result"):
            equal(got.get(name), made.get(name), f"{name} of an Observation that was received")
    with Connection(world, RECEIVE) as connection:
        connection.subscribe("Things")
        _, thing = service.create("Things", world.make.thing("received"))
        things = f"Things({key(thing['@iot.id'])})"
        mine = lambda value: value.get("@iot.id") == thing["@iot.id"]
        equal(connection.message("Things", mine)["name"], thing["name"], "a Thing that was created")
        service.ask("PATCH", things, {"description": "updated"}).has(200, 204)
        equal(connection.message("Things", mine)["description"], "updated", "a Thing that was changed")
    with Connection(world, RECEIVE) as connection:
        connection.subscribe(f"{things}/description")
        service.ask("PATCH", things, {"description": "again"}).has(200, 204)
        fits = lambda value: value == {"description": "again"}
        connection.message(f"{things}/description", fits)
    with Connection(world, RECEIVE) as connection:
        topic = f"{path}?$select=result,phenomenonTime"
        connection.subscribe(topic)
        _, made = service.create(path, {"result": 82, "phenomenonTime": "2018-02-02T00:00:00Z"})
        got = connection.message(topic, lambda value: value.get("result") == 82)
        equal(sorted(got), ["phenomenonTime", "result"], "the properties of an Observation that were asked for")
        service.ask("PATCH", f"Observations({key(made['@iot.id'])})", {"result": 83}).has(200, 204)
        got = connection.message(topic, lambda value: value.get("result") == 83)
        equal(sorted(got), ["phenomenonTime", "result"], "the properties of a changed Observation that were asked for")
    for row in service.values(f"{path}?$filter=result ge 81 and result le 83"):
        service.ask("DELETE", row["@iot.selfLink"]).has(200, 204)
