"""SensorThings as a client library sees it: `frost_sta_client`, kept by FROST's authors, against `/v1.1`.

    python sta.py <http base> <API key of a department's admin> <API key of another department's admin>
"""

import sys

import frost_sta_client as fsc
from frost_sta_client.model.ext.data_array_document import DataArrayDocument
from frost_sta_client.model.ext.data_array_value import DataArrayValue
from frost_sta_client.model.ext.unitofmeasurement import UnitOfMeasurement

from common import Http, check, equal, finish, micros, now, stamp, streams_of, thing

BASE, KEY, OTHER = sys.argv[1:4]

service = fsc.SensorThingsService(f"{BASE}/v1.1", auth_handler=fsc.AuthHandler("key", KEY))
stranger = fsc.SensorThingsService(f"{BASE}/v1.1", auth_handler=fsc.AuthHandler("key", OTHER))
public = fsc.SensorThingsService(f"{BASE}/v1.1")
http, anonymous = Http(BASE, KEY), Http(BASE)
mark = f"e2e-{now()}"


def gauge():
    unit = UnitOfMeasurement(name="metre", symbol="m", definition="ucum:m")
    stream = fsc.Datastream(
        name=f"{mark} level",
        description="Water level",
        observation_type="http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
        unit_of_measurement=unit,
        properties={"mark": mark},
        sensor=fsc.Sensor(name="gauge", description="radar", encoding_type="text/html", metadata="https://example.org/"),
        observed_property=fsc.ObservedProperty(name="level", definition="https://example.org/level", description="height"),
    )
    location = fsc.Location(
        name="here",
        description="where it stands",
        encoding_type="application/geo+json",
        location={"type": "Point", "coordinates": [114.17, 22.32]},
    )
    return fsc.Thing(
        name=mark,
        description="A gauge made by a test",
        properties={"mark": mark, "height": 3},
        locations=[location],
        datastreams=[stream],
    )


made = gauge()


def create():
    service.create(made)
    assert isinstance(made.id, int), made.id


def read():
    found = service.things().find(made.id)
    equal((found.name, found.description), (mark, "A gauge made by a test"))
    equal(found.properties["height"], 3)


def deep():
    stream = made.get_datastreams().query().list().get(0)
    equal(stream.name, f"{mark} level")
    equal(stream.unit_of_measurement.symbol, "m")
    expanded = service.things().query().filter(f"id eq {made.id}").expand("Locations,Datastreams($expand=Sensor,ObservedProperty)")
    (one,) = expanded.list().entities
    equal(one.locations.entities[0].location["coordinates"], [114.17, 22.32])
    equal(one.datastreams.entities[0].sensor.name, "gauge")
    equal(one.datastreams.entities[0].observed_property.name, "level")


def observe():
    stream = service.datastreams().query().filter(f"properties/mark eq '{mark}'").list().get(0)
    start = now() - 3_600_000_000
    for n in range(10):
        service.create(fsc.Observation(result=n / 4, phenomenon_time=stamp(start + n * 1_000_000), datastream=fsc.Datastream(id=stream.id)))
    latest = stream.get_observations().query().orderby("phenomenonTime", "desc").top(1).list().get(0)
    equal(latest.result, 2.25)
    equal(micros(latest.phenomenon_time.replace("+00:00", "Z")), start + 9_000_000)
    # Sent twice is there once: an Observation is named by its Datastream, its time and its feature.
    service.create(fsc.Observation(result=2.25, phenomenon_time=stamp(start + 9_000_000), datastream=fsc.Datastream(id=stream.id)))
    equal(stream.get_observations().query().count().top(0).list().count, 10)
    return stream


def array(stream):
    def run():
        value = DataArrayValue()
        value.datastream = fsc.Datastream(id=stream.id)
        value.components = {DataArrayValue.Property.PHENOMENON_TIME, DataArrayValue.Property.RESULT}
        start = now() - 1_800_000_000
        for n in range(500):
            value.add_observation(fsc.Observation(phenomenon_time=stamp(start + n * 1_000_000), result=float(n)))
        document = DataArrayDocument()
        document.add_data_array_value(value)
        links = service.observations().create(document)
        equal(len(links), 500)
        found = [o.result for o in stream.get_observations().query().filter("result ge 250").orderby("phenomenonTime", "asc").top(100).list()]
        equal(found, [float(n) for n in range(250, 500)])

    return run


def filters():
    def names(text):
        return [t.name for t in service.things().query().filter(text).list()]

    equal(names(f"name eq '{mark}' and properties/height gt 2"), [mark])
    equal(names(f"startswith(name,'{mark}') and properties/height mul 2 eq 6"), [mark])
    equal(names(f"name eq '{mark}' and st_within(Locations/location,geography'POLYGON((114 22,115 22,115 23,114 23,114 22))')"), [mark])
    equal(names(f"name eq '{mark}' and geo.distance(Locations/location,geography'POINT(114.17 22.32)') lt 0.001"), [mark])
    equal(names(f"name eq '{mark}' and Datastreams/Observations/result gt 1000"), [])
    equal(names(f"name eq '{mark}' and not (Datastreams/unitOfMeasurement/symbol eq 'm')"), [])


def pages():
    """Every Datastream of the city, three to a page, none twice and none missing."""
    ids = [d.id for d in service.datastreams().query().top(3).select("id").list()]
    equal(len(ids), len(set(ids)))
    equal(len(ids), service.datastreams().query().count().top(0).list().count)


def patch():
    service.patch(made, [{"op": "replace", "path": "/description", "value": "Painted"}])
    equal(service.things().find(made.id).description, "Painted")
    http.ask("PATCH", f"/v1.1/Things({made.id})", {"properties": {"mark": mark, "height": 4}})
    found = service.things().find(made.id)
    equal((found.description, found.properties["height"]), ("Painted", 4))


def private():
    http_other = Http(BASE, OTHER)
    for caller in (anonymous, http_other):
        caller.refuses(404, "GET", f"/v1.1/Things({made.id})")
        equal(caller.get(f"/v1.1/Things?$filter=name eq '{mark}'")["value"], [])
    http_other.refuses(404, "PATCH", f"/v1.1/Things({made.id})", {"description": "stolen"})
    http_other.refuses(404, "DELETE", f"/v1.1/Things({made.id})")
    anonymous.refuses(401, "POST", "/v1.1/Things", thing("nobody's", ["level"]))
    equal(service.things().find(made.id).description, "Painted")


def mistakes():
    refused = http.refuses(400, "GET", "/v1.1/Things?$filter=name eq")
    assert '"type":"/problems/' in refused.body, refused.body
    http.refuses(400, "POST", "/v1.1/Things", {"name": "without a description", "nonsense": 1})
    http.refuses(400, "POST", "/v1.1/Things", b'{"name": ')
    http.refuses(404, "GET", "/v1.1/Things(999999999)")
    http.refuses(404, "GET", "/v1.1/Nonsense")


def link():
    unbound = http.create("/v1.1/Locations", {"name": f"{mark} there", "description": "elsewhere", "encodingType": "application/geo+json", "location": {"type": "Point", "coordinates": [114.2, 22.3]}})
    http.ask("PATCH", f"/v1.1/Things({made.id})", {"Locations": [{"@iot.id": unbound}]})
    equal([l["@iot.id"] for l in http.get(f"/v1.1/Things({made.id})/Locations")["value"]], [unbound])
    history = http.get(f"/v1.1/Things({made.id})/HistoricalLocations?$expand=Locations")["value"]
    equal(len(history), 2)


def delete(stream):
    def run():
        service.delete(made)
        http.refuses(404, "GET", f"/v1.1/Things({made.id})")
        http.refuses(404, "GET", f"/v1.1/Datastreams({stream.id})")
        equal(http.get(f"/v1.1/Observations?$filter=Datastream/id eq {stream.id}&$count=true&$top=0")["@iot.count"], 0)

    return run


check("sta: create a Thing with location, Datastream, Sensor and ObservedProperty in one request", create)
check("sta: read it", read)
check("sta: expand what lies below it", deep)
stream = check("sta: Observations one by one; the same again changes nothing", observe)
if stream:
    check("sta: 500 Observations as a data array, and paging through them", array(stream))
check("sta: filters by text, number, place and across entities", filters)
check("sta: paging through a collection loses and doubles nothing", pages)
check("sta: PATCH by JSON Patch and by merge", patch)
check("sta: link to another Location, with history", link)
check("sta: another department and the public see nothing of it", private)
check("sta: mistakes are refused with a problem that says what", mistakes)
if stream:
    check("sta: delete it, and what belongs to it", delete(stream))
finish()
