"""17-079 annex A: the Tasking entities, creating Tasks over HTTP and over MQTT, and receiving them."""

import time

from .client import equal, key, need
from .mqtt import PATIENCE, Connection
from .registry import test

TASKING = "tasking"
CREATE = f"{TASKING}/create-tasks-via-mqtt"
RECEIVE = f"{TASKING}/receive-updates-via-mqtt"

# Entity set: mandatory properties, navigation to one, navigation to many (17-079 section 7).
SETS = {
    "TaskingCapabilities": (["name", "description", "taskingParameters"], ["Thing", "Actuator"], ["Tasks"]),
    "Tasks": (["taskingParameters", "creationTime"], ["TaskingCapability"], []),
    "Actuators": (["name", "description", "encodingType", "metadata"], [], ["TaskingCapabilities"]),
}


def parameters():
    """The example of section 7.1.3."""
    colour = {"type": "AllowedTokens", "pattern": "^#([A-Fa-f0-9]{6}|[A-Fa-f0-9]{3})$"}
    field = [
        {"name": "status", "label": "On/Off status", "type": "Category", "constraint": {"type": "AllowedTokens", "value": ["on", "off"]}},
        {"name": "color", "label": "Light Color", "type": "Text", "constraint": colour},
    ]
    return {"type": "DataRecord", "field": field}


ON = {"status": "on", "color": "#FF0000"}


class Sample:
    """A TaskingCapability of the tests' own where they may make one, else one that is there."""

    def __init__(self, world):
        service, make, data = world.service, world.make, world.data()
        actuator = {"name": f"{world.mark} actuator", "description": "Made by a conformance test"}
        body = {
            "name": f"{world.mark} light",
            "description": "Made by a conformance test",
            "taskingParameters": parameters(),
            "Thing": {"@iot.id": data.thing_id},
            "Actuator": {**actuator, "encodingType": "application/pdf", "metadata": "https://example.org/light.pdf"},
        }
        self.link, self.capability = service.create("TaskingCapabilities", body)
        self.id = self.capability["@iot.id"]
        self.path = f"TaskingCapabilities({key(self.id)})"
        equal(self.capability["taskingParameters"], parameters(), "taskingParameters of a TaskingCapability")


def sample(world):
    if world.light is None:
        world.light = Sample(world)
    return world.light


def tasks(world):
    return world.service.values(f"{sample(world).path}/Tasks?$orderby=id&$top=100")


def inspect(world, name):
    mandatory, ones, manies = SETS[name]
    sample(world)
    rows = world.service.values(f"{name}?$top=5")
    need(rows, f"there are no {name} to look at")
    for row in rows:
        for control in ("@iot.id", "@iot.selfLink"):
            need(control in row, f"an entity of {name} has no {control}")
        for what in mandatory:
            need(what in row and row[what] is not None, f"{row['@iot.selfLink']} has no {what}")
        for what in ones + manies:
            link = row.get(f"{what}@iot.navigationLink")
            need(isinstance(link, str), f"{row['@iot.selfLink']} has no {what}@iot.navigationLink")
            found = world.service.get(link)
            need(what in manies or "@iot.id" in found, f"{link} does not lead to one entity")
    names = [entry["name"] for entry in world.root["value"]]
    need(name in names, f"the root does not list {name}")


@test("tasking/tasking-capability", f"{TASKING}/tasking-capability", "B.1.1")
def capability(world):
    inspect(world, "TaskingCapabilities")
    light = sample(world)
    links = [row["@iot.id"] for row in world.service.values(f"{world.data().things}/TaskingCapabilities")]
    need(light.id in links, "the Thing of a TaskingCapability does not lead back to it")


@test("tasking/task", f"{TASKING}/task", "B.1.2")
def task(world):
    world.service.create(f"{sample(world).path}/Tasks", {"taskingParameters": ON})
    inspect(world, "Tasks")


@test("tasking/actuator", f"{TASKING}/actuator", "B.1.3")
def actuator(world):
    inspect(world, "Actuators")


@test("tasking/create-tasks", f"{TASKING}/create-tasks", "B.1.4")
def create(world):
    service, light = world.service, sample(world)
    before = time.time()
    _, linked = service.create("Tasks", {"taskingParameters": ON, "TaskingCapability": {"@iot.id": light.id}})
    _, below = service.create(f"{light.path}/Tasks", {"taskingParameters": {**ON, "status": "off"}, "creationTime": "2001-01-01T00:00:00Z"})
    for made, status in ((linked, "on"), (below, "off")):
        equal(made["taskingParameters"]["status"], status, "taskingParameters of a Task")
        found = service.get(f"Tasks({key(made['@iot.id'])})/TaskingCapability")
        equal(found["@iot.id"], light.id, "the TaskingCapability of a Task")
        need(made["creationTime"][:4] >= time.strftime("%Y", time.gmtime(before - 60)), "creationTime is not the service's own")
    many = len(tasks(world))
    for path, body in [
        ("Tasks", {"taskingParameters": ON}),
        ("Tasks", {"taskingParameters": ON, "TaskingCapability": {"@iot.id": 2147483600}}),
        (f"{light.path}/Tasks", {}),
        (f"{light.path}/Tasks", {"taskingParameters": {"status": "on"}}),
        (f"{light.path}/Tasks", {"taskingParameters": {**ON, "status": "dim"}}),
        (f"{light.path}/Tasks", {"taskingParameters": {**ON, "color": "red"}}),
        (f"{light.path}/Tasks", {"taskingParameters": {**ON, "sound": "loud"}}),
    ]:
        answer = service.ask("POST", path, body)
        need(400 <= answer.status < 500, f"{path} {body}: answered {answer.status}, though it breaks an integrity constraint")
    equal(len(tasks(world)), many, "Tasks after requests that were refused")


def appears(world, fits):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = [row for row in tasks(world) if fits(row)]
        if found:
            return found
        time.sleep(0.1)
    return []


@test("tasking/create-tasks-via-mqtt", CREATE, "B.2.1")
def create_by_mqtt(world):
    light = sample(world)
    with Connection(world, "create-tasks-via-mqtt") as connection:
        connection.publish(f"{light.path}/Tasks", {"taskingParameters": {"status": "on", "color": "#00FF00"}})
        connection.publish("Tasks", {"taskingParameters": {"status": "on", "color": "#0000FF"}, "TaskingCapability": {"@iot.id": light.id}})
    for colour in ("#00FF00", "#0000FF"):
        found = appears(world, lambda row: row["taskingParameters"]["color"] == colour)
        equal(len(found), 1, f"Tasks that were published with the colour {colour}")


@test("tasking/receive-updates-via-mqtt", RECEIVE, "B.2.2")
def receive(world):
    light = sample(world)
    with Connection(world, "receive-updates-via-mqtt") as connection:
        connection.subscribe(f"{light.path}")
        world.service.ask("PATCH", light.path, {"description": "told of"}).has(200, 204)
        got = connection.message(light.path, lambda value: value.get("description") == "told of")
        equal(got["@iot.id"], light.id, "the TaskingCapability that was changed")
