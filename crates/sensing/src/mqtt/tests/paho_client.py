"""What a device's program written with paho-mqtt does: every QoS, retained values, an absent session, user properties."""

import json
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PORT = int(sys.argv[1])
TOPIC = "v1.1/Datastreams(2)/Observations"


def client(version, name, clean=True):
    lasting = {}
    start = {}
    if version == mqtt.MQTTv5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0 if clean else 3600
        start = {"clean_start": clean, "properties": properties}
    else:
        lasting = {"clean_session": clean}
    c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=version, **lasting)
    c.username_pw_set("dsd-d1", "secret")
    c.got = queue.Queue()
    c.up = queue.Queue()
    c.subscribed = queue.Queue()
    c.on_connect = lambda _c, _u, flags, reason, _p: c.up.put((flags.session_present, reason))
    c.on_message = lambda _c, _u, message: c.got.put(message)
    c.on_subscribe = lambda *_: c.subscribed.put(True)
    c.connect("127.0.0.1", PORT, 60, **start)
    c.loop_start()
    present, reason = c.up.get(timeout=20)
    assert not reason.is_failure, reason
    c.present = present
    return c


def bye(c):
    c.disconnect()
    c.loop_stop()


def send(c, value, qos):
    info = c.publish("devices/d1/rain", json.dumps({"result": value}), qos)
    info.wait_for_publish(20)
    assert info.is_published()


for version in (mqtt.MQTTv311, mqtt.MQTTv5):
    reader = client(version, f"reader{version}")
    writer = client(version, f"writer{version}")
    reader.subscribe("v1.1/+/Observations", 2)
    reader.subscribed.get(timeout=20)
    first = version == mqtt.MQTTv311
    if not first:
        assert reader.got.get(timeout=20).retain
    for qos in (0, 1, 2):
        send(writer, version * 10 + qos, qos)
        message = reader.got.get(timeout=20)
        assert json.loads(message.payload)["result"] == version * 10 + qos, message.payload
        assert (message.topic, message.qos, message.retain) == (TOPIC, 2, False)

    absent = client(version, f"absent{version}", clean=False)
    assert not absent.present
    absent.subscribe(TOPIC, 1)
    absent.subscribed.get(timeout=20)
    assert absent.got.get(timeout=20).retain
    bye(absent)
    for n in range(20):
        send(writer, n, 1)
    absent = client(version, f"absent{version}", clean=False)
    assert absent.present
    for n in range(20):
        assert json.loads(absent.got.get(timeout=20).payload)["result"] == n
    bye(absent)

    if version == mqtt.MQTTv5:
        listener = client(version, "listener")
        listener.subscribe("tenant/dsd/note", 1)
        listener.subscribed.get(timeout=20)
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = ("colour", "blue")
        writer.publish("tenant/dsd/note", b"x", 1, properties=properties).wait_for_publish(20)
        assert listener.got.get(timeout=20).properties.UserProperty == [("colour", "blue")]
        bye(listener)
    bye(reader)
    bye(writer)
