"""A.4 to A.6: batch requests, MultiDatastreams, data arrays."""

import json
import re

from .client import equal, key, need
from .registry import test


def part(request, body=None, content_id=None):
    lines = ["Content-Type: application/http", "Content-Transfer-Encoding: binary"]
    if content_id:
        lines.append(f"Content-ID: {content_id}")
    lines += ["", f"{request} HTTP/1.1", "Host: example.org"]
    if body is not None:
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", json.dumps(body) if body is not None else ""]) + "\r\n"


def multipart(boundary, parts):
    return "".join(f"--{boundary}\r\n{one}" for one in parts) + f"--{boundary}--\r\n"


def change_set(parts):
    return "Content-Type: multipart/mixed;boundary=changeset_77162fcd\r\n\r\n" + multipart("changeset_77162fcd", parts)


def send(service, parts):
    """The answer's text, the statuses in it in order, and its Location headers."""
    kind = "multipart/mixed;boundary=batch_36522ad7-fc75-4b56-8c71-56071383e77b"
    body = multipart("batch_36522ad7-fc75-4b56-8c71-56071383e77b", parts)
    answer = service.ask("POST", "$batch", body.encode(), {"Content-Type": kind}).has(200, 202)
    need("multipart/mixed" in answer.headers.get("Content-Type", ""), f"the answer of a batch is {answer.headers.get('Content-Type')}")
    statuses = [int(n) for n in re.findall(r"^HTTP/1\.1 (\d{3})", answer.text, re.MULTILINE)]
    links = [link.strip() for link in re.findall(r"^[Ll]ocation: *(.*)$", answer.text, re.MULTILINE)]
    return answer.text, statuses, links


@test("batch-request/batch-request", "batch-request", "A.4.1.1")
def batch(world):
    service, make, data = world.service, world.make, world.data()
    root = "/" + service.root.split("/", 3)[3]
    # Examples 2 and 4: a query, a change set of an insert and an update, a query for what is not there.
    text, statuses, links = send(
        service,
        [
            part(f"GET {root}/{data.things}"),
            change_set(
                [
                    part(f"POST {root}/Things", make.thing("batch"), "1"),
                    part(f"PATCH {root}/{data.second_path}", {"description": "changed in a batch"}, "2"),
                ]
            ),
            part(f"GET {root}/Things(2147483600)"),
        ],
    )
    need(len(statuses) == 4, f"a batch of four requests was answered {statuses}: {text[:500]}")
    equal(statuses[:2], [200, 201], "statuses of the query and the insert")
    need(statuses[2] in (200, 204), f"status of the update: {statuses[2]}")
    equal(statuses[3], 404, "status of the query for what is not there")
    need(re.search(r"Content-ID: *1\b", text, re.IGNORECASE), "an answer in a change set does not repeat its Content-ID")
    equal(service.get(links[0])["name"], f"{world.mark} batch", "what the change set created")
    equal(service.get(data.second_path)["description"], "changed in a batch", "what the change set changed")
    # Example 3: a new Sensor, named by its Content-ID in the body of a Datastream.
    stream = make.datastream("batch", Sensor={"@iot.id": "$sensor1"}, ObservedProperty=make.observed_property("batch"))
    _, statuses, links = send(
        service,
        [change_set([part(f"POST {root}/Sensors", make.sensor("batch"), "sensor1"), part(f"POST {root}/{data.things}/Datastreams", stream)])],
    )
    equal(statuses, [201, 201], "statuses of a change set whose second request names the first one's entity")
    equal(service.get(f"{links[1]}/Sensor")["name"], f"{world.mark} batch", "the Sensor that was named by its Content-ID")
    # A change set is done whole or not at all, and one answer then stands for it.
    bad = [part(f"POST {root}/Sensors", make.sensor("undone")), part(f"POST {root}/Sensors", {"name": f"{world.mark} undone"})]
    _, statuses, _ = send(service, [change_set(bad)])
    need(len(statuses) == 1 and 400 <= statuses[0] < 500, f"a change set that fails was answered {statuses}")
    equal(service.values(f"Sensors?$filter=name eq '{world.mark} undone'"), [], "what a failed change set leaves behind")
    service.ask("POST", "$batch", b"nothing", {"Content-Type": "multipart/mixed;boundary=x"}).has(400)


@test("multi-datastream/multi-datastream-valid", "multi-datastream", "A.5.1.1")
def multi_datastream(world):
    service, make, data = world.service, world.make, world.data()
    unit = {"name": "degree Celsius", "symbol": "degree", "definition": "ucum:Cel"}
    measurement = "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement"
    body = {
        "name": f"{world.mark} multi",
        "description": "Made by a conformance test",
        "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_ComplexObservation",
        "multiObservationDataTypes": [measurement, measurement],
        "unitOfMeasurements": [unit, unit],
        "Thing": {"@iot.id": data.thing_id},
        "Sensor": make.sensor("multi"),
        "ObservedProperties": [make.observed_property("multi one"), make.observed_property("multi two")],
    }
    link, made = service.create("MultiDatastreams", body)
    for name in ("name", "description", "observationType", "multiObservationDataTypes", "unitOfMeasurements"):
        equal(made.get(name), body[name], f"{name} of a MultiDatastream")
    for name in ("Thing", "Sensor", "ObservedProperties", "Observations"):
        need(isinstance(made.get(f"{name}@iot.navigationLink"), str), f"a MultiDatastream has no {name}@iot.navigationLink")
        service.get(made[f"{name}@iot.navigationLink"])
    names = [row["name"] for row in service.values(f"{link}/ObservedProperties")]
    equal(names, [p["name"] for p in body["ObservedProperties"]], "ObservedProperties keep the order of the results")
    _, observation = service.create(f"{link}/Observations", {"result": [1.5, 2.5], "phenomenonTime": "2016-01-01T00:00:00Z"})
    equal(observation["result"], [1.5, 2.5], "the result of an Observation of a MultiDatastream")
    service.ask("POST", f"{link}/Observations", {"result": [1.5]}).has(400)
    service.ask("POST", "MultiDatastreams", {**body, "unitOfMeasurements": [unit]}).has(400)


@test("data-array/data-array-valid", "data-array", "A.6.1.1")
def data_array(world):
    service, data = world.service, world.data()
    page = service.get(f"{data.first_path}/Observations?$resultFormat=dataArray&$select=result,phenomenonTime&$orderby=phenomenonTime&$count=true")
    equal(page.get("@iot.count"), 6, "@iot.count of a data array")
    (group,) = page["value"]
    link = group.get("Datastream@iot.navigationLink")
    equal(service.get(link)["@iot.id"], data.first["@iot.id"], "Datastream@iot.navigationLink of a data array")
    need({"result", "phenomenonTime"} <= set(group["components"]), f"components: {group['components']}")
    need(all(len(row) == len(group["components"]) for row in group["dataArray"]), "a row has as many values as there are components")
    at = group["components"].index("result")
    equal([row[at] for row in group["dataArray"]], [2.0, 3.5, 12.0, 20.0, 32.4, 100.0], "results of a data array")
    if "dataArray@iot.count" in group:
        equal(group["dataArray@iot.count"], 6, "dataArray@iot.count")
    streams = " or ".join(f"Datastream/id eq {key(stream['@iot.id'])}" for stream in (data.first, data.second))
    both = service.get(f"Observations?$resultFormat=dataArray&$filter={streams}")
    links = {group["Datastream@iot.navigationLink"] for group in both["value"]}
    equal(len(links), 2, "Observations of two Datastreams in one data array")
    # Creating: two Datastreams, and a row that does not fit.
    body = [
        {
            "Datastream": {"@iot.id": stream["@iot.id"]},
            "components": ["phenomenonTime", "result"],
            "dataArray@iot.count": 2,
            "dataArray": [["2017-01-01T00:00:00Z", 1], ["2017-01-02T00:00:00Z", 2]],
        }
        for stream in (data.first, data.second)
    ]
    body[1]["dataArray"][1][0] = "this is no time"
    answer = service.ask("POST", "CreateObservations", body).has(201)
    made = answer.json()
    equal(len(made), 4, "one answer for each row")
    equal(made[3], "error", "the answer for a row that does not fit")
    for link in made[:3]:
        need(service.get(link)["result"] in (1, 2), f"{link} is not what was sent")
        service.ask("DELETE", link).has(200, 204)
