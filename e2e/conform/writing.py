"""A.3: creating, changing and deleting."""

from .client import equal, key, need
from .model import SETS
from .registry import test

CLASS = "create-update-delete"


def mine(world):
    """How many entities carry the mark, set by set: what others do meanwhile does not count."""
    found = {}
    for name in SETS:
        if name in ("Observations", "HistoricalLocations"):
            continue
        path = f"{name}?$filter=startswith(name,'{world.mark}')&$count=true&$top=0"
        found[name] = world.service.get(path).get("@iot.count")
    return found


@test("create-update-delete/sensing-entity-creation", CLASS, "A.3.1.1")
def creation(world):
    service, make = world.service, world.make
    data = world.data()
    # Deep insert, for each type.
    _, thing = service.create("Things", make.thing("deep", Locations=[make.location("deep place", x=20.0)], Datastreams=[make.deep_datastream("deep")]))
    things = f"Things({key(thing['@iot.id'])})"
    equal(len(service.values(f"{things}/Datastreams")), 1, "Datastreams of a deep insert")
    equal(len(service.values(f"{things}/Locations")), 1, "Locations of a deep insert")
    # A Location of a Thing is remembered by the service (requirement historical-location-auto-creation).
    history = service.values(f"{things}/HistoricalLocations?$expand=Locations")
    equal(len(history), 1, "HistoricalLocations of a Thing that was created with a Location")
    equal(history[0]["Locations"][0]["name"], f"{world.mark} deep place", "the Location of a HistoricalLocation")
    service.create(f"{things}/Locations", make.location("second place", x=21.0))
    equal(len(service.values(f"{things}/HistoricalLocations")), 2, "HistoricalLocations after a new Location")
    equal(len(service.values(f"{things}/Locations")), 1, "Locations after a new one was posted to the Thing")
    service.create("Locations", make.location("with things", Things=[make.thing("of a location")]))
    service.create("Sensors", make.sensor("alone"))
    service.create("ObservedProperties", make.observed_property("alone"))
    service.create("FeaturesOfInterest", make.feature("alone"))
    _, stream = service.create("Datastreams", make.deep_datastream("with thing", Thing=make.thing("of a stream")))
    observation = {"result": 1, "phenomenonTime": "2016-01-01T00:00:00Z", "FeatureOfInterest": make.feature("deep")}
    observation["Datastream"] = make.deep_datastream("of an observation", Thing=make.thing("of an observation"))
    _, made = service.create("Observations", observation)
    equal(service.get(f"Observations({key(made['@iot.id'])})/FeatureOfInterest")["name"], f"{world.mark} deep", "a feature inside an Observation")
    service.create("HistoricalLocations", {"time": "2014-01-01T00:00:00Z", "Thing": {"@iot.id": thing["@iot.id"]}, "Locations": [make.location("old place")]})
    # Links to what is there.
    first = service.get(f"{data.first_path}?$expand=Sensor,ObservedProperty")
    links = {name: {"@iot.id": first[name]["@iot.id"]} for name in ("Sensor", "ObservedProperty")}
    _, linked = service.create("Datastreams", make.datastream("linked", Thing={"@iot.id": thing["@iot.id"]}, **links))
    equal(service.get(f"Datastreams({key(linked['@iot.id'])})/Sensor")["@iot.id"], first["Sensor"]["@iot.id"], "a link to an existing Sensor")
    service.create(f"{things}/Datastreams", make.datastream("linked below", **links))
    service.create("Things", make.thing("linked", Locations=[{"@iot.id": service.values(f"{things}/Locations")[0]["@iot.id"]}]))
    # The feature of an Observation that names none is where its Thing is; the next one gets the same.
    path = f"Datastreams({key(linked['@iot.id'])})/Observations"
    _, one = service.create(path, {"result": 1, "phenomenonTime": "2016-01-01T00:00:00Z"})
    _, two = service.create("Observations", {"result": 2, "phenomenonTime": "2016-01-01T01:00:00Z", "Datastream": {"@iot.id": linked["@iot.id"]}})
    features = [service.get(f"Observations({key(o['@iot.id'])})/FeatureOfInterest") for o in (one, two)]
    equal(features[0]["feature"], service.values(f"{things}/Locations")[0]["location"], "the feature of an Observation without one")
    equal(features[1]["@iot.id"], features[0]["@iot.id"], "the feature of the second Observation without one")
    need("resultTime" in one and one["resultTime"] is None, "an Observation without resultTime has not the resultTime null")
    # What table 24 does not allow, and what lacks a property, creates nothing at all.
    before = mine(world)
    thing_link = {"@iot.id": thing["@iot.id"]}
    for path, body in [
        ("Things", make.without(make.thing("bad"), "name")),
        ("Things", make.thing("bad", Datastreams=[make.without(make.deep_datastream("bad"), "Sensor")])),
        ("Things", make.thing("bad", Datastreams=[make.without(make.deep_datastream("bad"), "unitOfMeasurement")])),
        ("Things", make.thing("bad", Locations=[make.without(make.location("bad"), "encodingType")])),
        ("Locations", make.without(make.location("bad"), "location")),
        ("Sensors", make.without(make.sensor("bad"), "metadata")),
        ("ObservedProperties", make.without(make.observed_property("bad"), "definition")),
        ("FeaturesOfInterest", make.without(make.feature("bad"), "feature")),
        ("Datastreams", make.deep_datastream("bad")),
        ("Datastreams", make.without(make.deep_datastream("bad", Thing=thing_link), "Sensor")),
        ("Datastreams", make.without(make.deep_datastream("bad", Thing=thing_link), "ObservedProperty")),
        ("Datastreams", {**make.datastream("bad", Thing=thing_link, **links), "Sensor": {"@iot.id": 2147483600}}),
        ("Observations", {"result": 1, "FeatureOfInterest": make.feature("bad")}),
        ("HistoricalLocations", {"time": "2014-01-01T00:00:00Z", "Locations": [make.location("bad")]}),
    ]:
        service.ask("POST", path, body).has(400, 404, 409, 422)
        equal(mine(world), before, f"a refused POST to {path} has left something behind")
    service.ask("POST", "Things", b"{").has(400)


@test("create-update-delete/update-entity", CLASS, "A.3.1.2")
def update(world):
    service, make = world.service, world.make
    data = world.data()
    bodies = {
        "Things": make.thing("changed"),
        "Locations": make.location("changed"),
        "Sensors": make.sensor("changed"),
        "ObservedProperties": make.observed_property("changed"),
        "FeaturesOfInterest": make.feature("changed"),
        "Datastreams": make.deep_datastream("changed", Thing={"@iot.id": data.thing_id}),
    }
    made = {}
    for name, body in bodies.items():
        _, entity = service.create(name, body)
        path = made[name] = f"{name}({key(entity['@iot.id'])})"
        service.ask("PATCH", path, {"description": "patched"}).has(200, 204)
        equal(service.get(path), {**entity, "description": "patched"}, f"PATCH {path} with a description")
        if world.declares("create-update-delete/update-entity-put"):
            whole = {n: v for n, v in entity.items() if "@iot." not in n and n != "properties"}
            service.ask("PUT", path, {**whole, "description": "put"}).has(200, 204)
            found = service.get(path)
            equal(found["description"], "put", f"PUT {path}")
            need(not found.get("properties"), f"PUT {path}: what the body does not name keeps its value")
        if world.declares("create-update-delete/update-entity-jsonpatch"):
            patch = [{"op": "replace", "path": "/description", "value": "by JSON Patch"}]
            service.ask("PATCH", path, patch, {"Content-Type": "application/json-patch+json"}).has(200, 204)
            equal(service.get(path)["description"], "by JSON Patch", f"PATCH {path} as JSON Patch")
    _, observation = service.create(f"{made['Datastreams']}/Observations", {"result": 1, "phenomenonTime": "2016-01-01T00:00:00Z"})
    path = f"Observations({key(observation['@iot.id'])})"
    service.ask("PATCH", path, {"result": 2}).has(200, 204)
    equal(service.get(path), {**observation, "result": 2}, f"PATCH {path} with a result")
    (history,) = service.values(f"{data.things}/HistoricalLocations")
    path = f"HistoricalLocations({key(history['@iot.id'])})"
    service.ask("PATCH", path, {"time": "2013-01-01T00:00:00Z"}).has(200, 204)
    need(service.get(path)["time"].startswith("2013-01-01T00:00:00"), f"PATCH {path} with a time")
    # Related entities inside a change are refused; links are followed.
    service.ask("PATCH", made["Things"], {"Datastreams": [make.deep_datastream("inline")]}).has(400)
    service.ask("PATCH", made["Datastreams"], {"Sensor": make.sensor("inline")}).has(400)
    sensor = service.get(made["Sensors"])["@iot.id"]
    service.ask("PATCH", made["Datastreams"], {"Sensor": {"@iot.id": sensor}}).has(200, 204)
    equal(service.get(f"{made['Datastreams']}/Sensor")["@iot.id"], sensor, "PATCH with a link to another Sensor")
    location = service.get(made["Locations"])["@iot.id"]
    service.ask("PATCH", made["Things"], {"Locations": [{"@iot.id": location}]}).has(200, 204)
    equal([row["@iot.id"] for row in service.values(f"{made['Things']}/Locations")], [location], "PATCH with a link to a Location")
    service.ask("PATCH", "Things(2147483600)", {"description": "nothing"}).has(404)


@test("create-update-delete/sensing-entity-deletion", CLASS, "A.3.1.3")
def deletion(world):
    service, make = world.service, world.make
    for name, body in {
        "Sensors": make.sensor("gone"),
        "ObservedProperties": make.observed_property("gone"),
        "FeaturesOfInterest": make.feature("gone"),
        "Locations": make.location("gone"),
    }.items():
        link, _ = service.create(name, body)
        service.ask("DELETE", link).has(200, 204)
        service.ask("GET", link).has(404, 410)
        service.ask("DELETE", link).has(404, 410)
    # Table 25: what cannot exist without it goes with it.
    link, thing = service.create("Things", make.thing("gone", Locations=[make.location("stays")], Datastreams=[make.deep_datastream("gone")]))
    things = f"Things({key(thing['@iot.id'])})"
    stream = service.values(f"{things}/Datastreams?$expand=Sensor,ObservedProperty")[0]
    streams = f"Datastreams({key(stream['@iot.id'])})"
    observed, _ = service.create(f"{streams}/Observations", {"result": 1})
    one, _ = service.create(f"{streams}/Observations", {"result": 2, "phenomenonTime": "2016-01-01T00:00:00Z"})
    history = service.values(f"{things}/HistoricalLocations")[0]["@iot.selfLink"]
    location = service.values(f"{things}/Locations")[0]["@iot.selfLink"]
    service.ask("DELETE", one).has(200, 204)
    service.ask("GET", one).has(404, 410)
    service.ask("GET", observed).has(200)
    service.ask("DELETE", link).has(200, 204)
    for gone in (link, streams, observed, history):
        service.ask("GET", gone).has(404, 410)
    for stays in (location, stream["Sensor"]["@iot.selfLink"], stream["ObservedProperty"]["@iot.selfLink"]):
        service.ask("GET", stays).has(200)
