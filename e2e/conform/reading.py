"""A.1 and A.2: the data model, resource paths, and asking for data."""

from .client import equal, key, need
from .model import SETS
from .registry import test
from .world import RESULTS, inspected

CORE = "datamodel"
VALUES = [result for result, _ in RESULTS]


@test("datamodel/entity-control-information/common-control-information", CORE, "A.1.1")
def control_information(world):
    for name in SETS:
        for row in inspected(world, name):
            need("@iot.id" in row, f"{name}: an entity has no @iot.id")
            need(isinstance(row.get("@iot.selfLink"), str), f"{name}: an entity has no @iot.selfLink")
            again = world.service.get(row["@iot.selfLink"])
            equal(again["@iot.id"], row["@iot.id"], f"{name}: the selfLink leads to another entity")


def valid(world, name):
    properties, ones, manys = SETS[name]
    for row in inspected(world, name):
        for wanted in properties:
            need(wanted in row, f"{name}({row.get('@iot.id')}): the mandatory property {wanted} is missing")
        for wanted in ones + manys:
            link = row.get(f"{wanted}@iot.navigationLink")
            need(isinstance(link, str), f"{name}({row.get('@iot.id')}): {wanted}@iot.navigationLink is missing")
            found = world.service.get(link)
            need(("value" in found) == (wanted in manys), f"{link}: {wanted} is {'many' if wanted in manys else 'one'}")


for number, (set_name, requirement) in enumerate(
    [
        ("Things", "thing/thing-valid"),
        ("Locations", "location/location-valid"),
        ("HistoricalLocations", "historical-location/historical-location-valid"),
        ("Datastreams", "datastream/datastream-valid"),
        ("Sensors", "sensor/sensor-valid"),
        ("ObservedProperties", "observed-property/observed-property-valid"),
        ("Observations", "observation/observation-valid"),
        ("FeaturesOfInterest", "feature-of-interest/feature-of-interest-valid"),
    ]
):
    test(f"datamodel/{requirement}", CORE, f"A.1.{number + 2}")(lambda world, name=set_name: valid(world, name))


@test("resource-path/resource-path-to-entities", "resource-path", "A.1.10")
def resource_path(world):
    service = world.service
    listed = {entry["name"]: entry["url"] for entry in world.root["value"]}
    for name in SETS:
        need(name in listed, f"the root does not list {name}")
        need(isinstance(service.get(listed[name]).get("value"), list), f"{listed[name]} is no collection")
        row = inspected(world, name)[0]
        path = f"{name}({key(row['@iot.id'])})"
        equal(service.get(path)["@iot.id"], row["@iot.id"], path)
        properties, ones, manys = SETS[name]
        first = next(p for p in properties if row[p] is not None)
        equal(service.get(f"{path}/{first}"), {first: row[first]}, f"{path}/{first}")
        raw = service.ask("GET", f"{path}/{first}/$value").has(200).text
        if isinstance(row[first], str):
            equal(raw, row[first], f"{path}/{first}/$value")
        for navigation in manys:
            rows = service.values(f"{path}/{navigation}?$top=2")
            links = service.values(f"{path}/{navigation}/$ref?$top=2")
            equal([link["@iot.selfLink"] for link in links], [r["@iot.selfLink"] for r in rows], f"{path}/{navigation}/$ref")
        for navigation in ones:
            need("@iot.id" in service.get(f"{path}/{navigation}"), f"{path}/{navigation} is no entity")
        service.ask("GET", f"{path}/thisIsNoProperty").has(404, 400)
    refs = service.values("Things/$ref?$top=3")
    need(refs and all("@iot.selfLink" in ref for ref in refs), "Things/$ref: an association link has no @iot.selfLink")
    data = world.data() if world.declares("create-update-delete") else None
    if data:
        nested = f"{data.things}/{data.first_path}/Observations({key(data.observations[0]['@iot.id'])})"
        equal(service.get(f"{nested}/FeatureOfInterest/name")["name"][: len(world.mark)], world.mark, nested)
        equal(service.get(f"{nested}/Datastream/Thing")["@iot.id"], data.thing_id, f"{nested}/Datastream/Thing")


@test("request-data/order", "request-data", "A.2.1.1")
def order(world):
    data, service = world.data(), world.service
    path = (
        f"{data.first_path}/Observations?$select=result&$expand=Datastream($select=name)&$top=2&$skip=1"
        "&$orderby=result desc&$count=true&$filter=result gt 3"
    )
    page = service.get(path)
    equal(page.get("@iot.count"), 5, "$count is taken after $filter and before $skip and $top")
    equal([row["result"] for row in page["value"]], [32.4, 20.0], "$filter, then $orderby, then $skip, then $top")
    for row in page["value"]:
        equal(row["Datastream"], {"name": data.first["name"]}, "$expand and $select are taken last")


@test("request-data/expand-and-select", "request-data", "A.2.1.2")
def expand_and_select(world):
    data, service = world.data(), world.service
    one = service.get(f"{data.first_path}?$expand=Thing,ObservedProperty")
    equal(one["Thing"]["@iot.id"], data.thing_id, "$expand=Thing")
    need("@iot.id" in one["ObservedProperty"], "$expand of two navigation properties")
    deep = service.get(f"{data.things}?$expand=Datastreams/Observations,Locations")
    equal(len(deep["Datastreams"]), 2, "$expand=Datastreams/Observations")
    counts = sorted(len(stream["Observations"]) for stream in deep["Datastreams"])
    equal(counts, [1, 6], "Observations of $expand=Datastreams/Observations")
    equal(len(deep["Locations"]), 1, "$expand=…,Locations")
    inner = service.get(f"{data.first_path}?$expand=Observations($filter=result gt 3;$select=result;$orderby=result desc;$skip=1;$top=2;$count=true)")
    equal(inner["Observations"], [{"result": 32.4}, {"result": 20.0}], "options of an expansion")
    equal(inner.get("Observations@iot.count"), 5, "$count of an expansion")
    chosen = service.get(f"{data.things}?$select=name,description")
    equal(chosen, {"name": data.thing["name"], "description": "Sensor Things"}, "$select=name,description")
    rows = service.values(f"{data.first_path}/Observations?$select=result,phenomenonTime&$top=1")
    equal(sorted(rows[0]), ["phenomenonTime", "result"], "$select of a collection")
    navigation = service.get(f"{data.things}?$select=id,Datastreams")
    equal(sorted(navigation), ["@iot.id", "Datastreams@iot.navigationLink"], "$select of a navigation property")


@test("request-data/status-codes", "request-data", "A.2.1.3")
def status_codes(world):
    service = world.service
    for name in SETS:
        missing = key("2147483600-1-1") if name == "Observations" else "2147483600"
        service.ask("GET", f"{name}({missing})").has(404, 410)
    service.ask("GET", "ThisIsNoEntitySet").has(404, 400)
    service.ask("GET", "Things?$thisIsNoOption=1").has(501)
    service.ask("GET", "Things?$filter=name eq").has(400)
    service.ask("GET", "Things?$top=-1").has(400)


@test("request-data/sorting", "request-data", "A.2.1.4")
def sorting(world):
    data, service = world.data(), world.service
    path = f"{data.first_path}/Observations?$orderby="
    got = lambda orderby: [row["result"] for row in service.values(path + orderby)]
    equal(got("result"), VALUES, "$orderby=result")
    equal(got("result asc"), VALUES, "$orderby=result asc")
    equal(got("result desc"), VALUES[::-1], "$orderby=result desc")
    equal(got("phenomenonTime desc"), VALUES[::-1], "$orderby=phenomenonTime desc")
    equal(got("Datastream/name,result desc"), VALUES[::-1], "$orderby by a navigation property, then by another")
    names = [row["name"] for row in service.values(f"{data.things}/Datastreams?$orderby=name desc")]
    equal(names, [data.second["name"], data.first["name"]], "$orderby=name desc")


@test("request-data/client-driven-pagination", "request-data", "A.2.1.5")
def client_driven(world):
    data, service = world.data(), world.service
    path = f"{data.first_path}/Observations?$orderby=result"
    got = lambda more: [row["result"] for row in service.values(path + more)]
    equal(got("&$top=2"), VALUES[:2], "$top=2")
    equal(got("&$top=0"), [], "$top=0")
    equal(got("&$skip=4"), VALUES[4:], "$skip=4")
    equal(got("&$skip=1&$top=2"), VALUES[1:3], "$skip=1&$top=2")
    equal(got("&$skip=100"), [], "$skip behind the end")
    equal(service.get(path + "&$count=true").get("@iot.count"), 6, "$count=true")
    equal(service.get(path + "&$count=true&$top=1&$skip=2").get("@iot.count"), 6, "$count with $top and $skip")
    need("@iot.count" not in service.get(path + "&$count=false"), "$count=false shows a count")


# Filter, and the results that it lets through. Table 22 of 18-088, pairs of adjacent precedence, and table 23.
FILTERS = [
    ("result eq 20", [20.0]),
    ("result ne 20", [2.0, 3.5, 12.0, 32.4, 100.0]),
    ("result gt 20.0", [32.4, 100.0]),
    ("result ge 20.0", [20.0, 32.4, 100.0]),
    ("result lt 3.5", [2.0]),
    ("result le 3.5", [2.0, 3.5]),
    ("result gt 3 and result lt 4", [3.5]),
    ("result gt 20 or result le 3.5", [2.0, 3.5, 32.4, 100.0]),
    ("not (result gt 3.5)", [2.0, 3.5]),
    ("result add 5 gt 37", [32.4, 100.0]),
    ("result sub 5 gt 10", [20.0, 32.4, 100.0]),
    ("result mul 2 gt 64", [32.4, 100.0]),
    ("result div 2 gt 10", [32.4, 100.0]),
    ("result mod 2 eq 0", [2.0, 12.0, 20.0, 100.0]),
    ("(result sub 5) gt 10", [20.0, 32.4, 100.0]),
    ("result add 2 mul 5 eq 12", [2.0]),
    ("result sub 6 div 2 eq 9", [12.0]),
    ("result sub 7 mod 4 eq 9", [12.0]),
    ("result add 2 gt 34", [32.4, 100.0]),
    ("result gt 3 and result lt 4 or result eq 100", [3.5, 100.0]),
    ("result eq 2 or result eq 12 and result eq 20", [2.0]),
    ("not (result gt 3.5) and result gt 2", [3.5]),
    ("year(resultTime) eq 2015 and result lt 3", [2.0]),
    ("month(resultTime) eq 12 and result lt 3", [2.0]),
    ("day(resultTime) eq 8 and result lt 3", [2.0]),
    ("hour(resultTime) eq 1", [3.5]),
    ("minute(resultTime) eq 30 and result lt 3", [2.0]),
    ("second(resultTime) eq 15 and result lt 3", [2.0]),
    ("fractionalseconds(resultTime) eq 0.25 and result lt 3", [2.0]),
    ("date(resultTime) eq date(validTime) and result lt 3", [2.0]),
    ("time(resultTime) lt time(2015-12-08T01:00:00Z)", [2.0]),
    ("totaloffsetminutes(resultTime) eq 0 and result lt 3", [2.0]),
    ("resultTime ge now()", []),
    ("resultTime lt now() and result lt 3", [2.0]),
    ("resultTime gt mindatetime() and result lt 3", [2.0]),
    ("resultTime lt maxdatetime() and result lt 3", [2.0]),
    ("phenomenonTime ge 2015-12-08T04:00:00Z", [32.4, 100.0]),
    ("resultTime sub duration'PT1H' gt 2015-12-08T04:00:00Z", [100.0]),
    ("round(result) eq 32", [32.4]),
    ("floor(result) eq 32", [32.4]),
    ("ceiling(result) eq 33", [32.4]),
    ("parameters/run eq 2", [12.0]),
]

THINGS = [
    ("substringof('Sensor Things',description)", True),
    ("substringof('nothing of it',description)", False),
    ("endswith(description,'Things')", True),
    ("startswith(description,'Sensor')", True),
    ("not startswith(description,'test')", True),
    ("length(description) eq 13", True),
    ("indexof(description,'Things') eq 7", True),
    ("substring(description,1) eq 'ensor Things'", True),
    ("substring(description,2,4) eq 'nsor'", True),
    ("tolower(description) eq 'sensor things'", True),
    ("toupper(description) eq 'SENSOR THINGS'", True),
    ("trim(description) eq 'Sensor Things'", True),
    ("concat(description,'!') eq 'Sensor Things!'", True),
    ("properties/deep/number eq 7", True),
    ("Datastreams/ObservedProperty/name eq 'no such name'", False),
    ("Datastreams/unitOfMeasurement/name eq 'degree Celsius'", True),
]

PLACES = [
    ("geo.distance(location, geography'POINT (30 10)') lt 0.01", True),
    ("geo.distance(location, geography'POINT (33 14)') lt 0.01", False),
    ("geo.length(geography'LINESTRING (30 10, 10 30, 40 40)') gt 0", True),
    ("geo.intersects(location, geography'POLYGON ((29 9, 31 9, 31 11, 29 11, 29 9))')", True),
    ("st_equals(location, geography'POINT (30 10)')", True),
    ("st_disjoint(location, geography'POLYGON ((29 9, 31 9, 31 11, 29 11, 29 9))')", False),
    ("st_touches(location, geography'LINESTRING (30 10, 10 30, 40 40)')", True),
    ("st_within(location, geography'POLYGON ((29 9, 31 9, 31 11, 29 11, 29 9))')", True),
    ("st_overlaps(location, geography'POLYGON ((29 9, 31 9, 31 11, 29 11, 29 9))')", False),
    ("st_crosses(location, geography'LINESTRING (29 9, 31 11)')", False),
    ("st_intersects(location, geography'LINESTRING (29 9, 31 11)')", True),
    ("st_contains(location, geography'POINT (30 10)')", True),
    ("st_relate(location, geography'POLYGON ((29 9, 31 9, 31 11, 29 11, 29 9))', 'T********')", True),
]


@test("request-data/filter-query-options", "request-data", "A.2.1.6")
def filters(world):
    data, service = world.data(), world.service
    for text, expect in FILTERS:
        equal(data.results(service, text), expect, f"$filter={text}")
    feature = service.get(f"{data.first_path}/Observations({key(data.observations[0]['@iot.id'])})/FeatureOfInterest")
    wanted = f"result le 3.5 and FeatureOfInterest/id eq {key(feature['@iot.id'])}"
    equal(data.results(service, wanted), [2.0, 3.5], f"$filter={wanted}")
    own = f"startswith(name,'{world.mark} sample')"
    for name, rows in (("Things", THINGS), ("Locations", PLACES)):
        for text, expect in rows:
            found = service.values(f"{name}?$filter={text} and {own}")
            equal(len(found) == 1, expect, f"{name}?$filter={text}")
    ordered = service.values(f"Datastreams?$filter={own}&$orderby=length(name) desc,name&$select=name")
    equal([row["name"] for row in ordered], [data.second["name"], data.first["name"]], "$orderby by a function")


@test("request-data/server-driven-pagination", "request-data", "A.2.1.7")
def server_driven(world):
    data, service = world.data(), world.service
    path, rows, pages = f"{data.first_path}/Observations?$orderby=result&$top=4", [], 0
    while path:
        page = service.get(path)
        rows += [row["result"] for row in page["value"]]
        path = page.get("@iot.nextLink")
        pages += 1
        need(pages <= 10, "the next links do not end")
    equal(rows, VALUES, "the pages behind the next links")
    need(pages >= 2, "a page of four of six has no @iot.nextLink")
    whole = service.get(f"{data.second_path}/Observations")
    need("@iot.nextLink" not in whole, "the last page has an @iot.nextLink")
