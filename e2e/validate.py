"""Somebody else's validator (ogc-sta-schema-validator) over what this server answers, against schemas of the entities of 18-088, clause 8.2.

The schemas are written here from the tables of the standard: which properties are mandatory, of which type, and which codes a list has. What the
validator is worth is shown first: an entity that breaks a schema must be found.

    python validate.py <program>
"""

import json
import os
import pathlib
import subprocess
import sys

from common import Http, Server, check, equal, finish, stamp, streams_of, thing

PROGRAM = sys.argv[1]
# Entities of a kind that are looked at: pages of the validator's own size, so that links to next pages are followed too.
LIMIT = 250

TEXT = {"type": "string", "minLength": 1}
LINK = {"type": "string", "format": "uri", "pattern": "^https?://"}
# ISO 8601, an instant in UTC or an interval of two.
INSTANT = r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z"
TIME = {"type": "string", "pattern": f"^{INSTANT}(/{INSTANT})?$"}
UNIT = {
    "type": "object",
    "required": ["name", "symbol", "definition"],
    "properties": {name: {"type": ["string", "null"]} for name in ("name", "symbol", "definition")},
}
KINDS = [
    f"http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_{kind}"
    for kind in ("CategoryObservation", "CountObservation", "Measurement", "Observation", "TruthObservation", "ComplexObservation")
]


def schema(title, navigation, **properties):
    """An entity: its control information, what it must have, and a link for each of its relations (clause 8.1)."""
    links = {f"{link}@iot.navigationLink": LINK for link in navigation}
    optional = {key[1:]: value for key, value in properties.items() if key.startswith("_")}
    mandatory = {key: value for key, value in properties.items() if not key.startswith("_")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "required": ["@iot.id", "@iot.selfLink", *links, *mandatory],
        "properties": {"@iot.id": {"type": ["integer", "string"]}, "@iot.selfLink": LINK, **links, **mandatory, **optional},
    }


BOTH = {"name": TEXT, "description": TEXT, "_properties": {"type": "object"}}
CODED = {"encodingType": TEXT}
SCHEMAS = {
    "Things": schema("Thing", ["Locations", "HistoricalLocations", "Datastreams"], **BOTH),
    "Locations": schema("Location", ["Things", "HistoricalLocations"], location={"type": "object"}, **BOTH, **CODED),
    "HistoricalLocations": schema("HistoricalLocation", ["Thing", "Locations"], time=TIME),
    "Datastreams": schema(
        "Datastream", ["Thing", "Sensor", "ObservedProperty", "Observations"],
        unitOfMeasurement=UNIT, observationType={"enum": KINDS}, _phenomenonTime=TIME, _resultTime=TIME,
        _observedArea={"type": "object", "required": ["type", "coordinates"]}, **BOTH,
    ),
    "Sensors": schema("Sensor", ["Datastreams"], metadata={}, **BOTH, **CODED),
    "ObservedProperties": schema("ObservedProperty", ["Datastreams"], definition=TEXT, **BOTH),
    "Observations": schema(
        "Observation", ["FeatureOfInterest"],
        phenomenonTime=TIME, resultTime={"anyOf": [TIME, {"type": "null"}]}, result={},
        _validTime=TIME, _parameters={"type": "object"},
    ),
    "FeaturesOfInterest": schema("FeatureOfInterest", ["Observations"], feature={"type": "object"}, **BOTH, **CODED),
}


server = Server(PROGRAM, settings=["log.level=warn"])


def validated(entity, schema, limit=LIMIT):
    """The validator's report on the entities of a kind."""
    place, report = server.folder / f"{entity}.json", server.folder / f"{entity}-report.json"
    place.write_text(json.dumps(schema))
    report.unlink(missing_ok=True)
    program = pathlib.Path(sys.executable).with_name("ogc-sta-validate")
    done = subprocess.run(
        [str(program), "--server-url", f"{server.base}/v1.1", "validate", "--entity-type", entity, "--schema", str(place),
         "--limit", str(limit), "--output-format", "json", "--output-file", str(report)],
        cwd=server.folder, capture_output=True, text=True, timeout=300,
    )
    assert report.exists(), f"no report, {done.returncode}: {done.stdout[-300:]} {done.stderr[-500:]}"
    return json.loads(report.read_text())


def valid(entity):
    def run():
        summary = validated(entity, SCHEMAS[entity])
        found = summary["summary"]
        wrong = [result for result in summary["results"] if result.get("errors")]
        assert found["total_entities"] > 0, "there are none to look at"
        equal((found["total_errors"], wrong[:1]), (0, []))

    check(f"validate: {entity} are as 18-088 has them, to ogc-sta-schema-validator", run)


def found():
    """A validator that finds nothing wrong with anything says nothing."""
    never = {**SCHEMAS["Things"], "required": [*SCHEMAS["Things"]["required"], "nothing-is-called-this"]}
    summary = validated("Things", never, 3)["summary"]
    assert summary["total_errors"] >= 3, summary


def observed(http):
    """Something of each kind that the pack alone does not make: Observations of several types, two hundred of one, and where a Thing was before."""
    made = http.create("/v1.1/Things", thing("validated", ["level", "flow"], public=True))
    level, flow = streams_of(http, made)
    rows = [[stamp(1_767_225_600_000_000 + n * 60_000_000), n / 4] for n in range(200)]
    body = [{"Datastream": {"@iot.id": level}, "components": ["phenomenonTime", "result"], "dataArray": rows}]
    http.ask("POST", "/v1.1/CreateObservations", body)
    for more in (
        {"phenomenonTime": "2026-01-01T00:00:00Z/2026-01-01T01:00:00Z", "result": 1.5},
        {"phenomenonTime": "2026-01-02T00:00:00Z", "resultTime": "2026-01-02T00:00:01Z", "result": 2, "parameters": {"depth": 3}},
        {"phenomenonTime": "2026-01-03T00:00:00Z", "result": 2, "validTime": "2026-01-03T00:00:00Z/2026-01-04T00:00:00Z"},
    ):
        http.ask("POST", f"/v1.1/Datastreams({flow})/Observations", more)


try:
    server.start()
    check("validate: there is something of each kind", lambda: observed(Http(server.base, server.admin_key("dsd", "admin"))))
    check("validate: what is not there is found missing", found)
    for kind in SCHEMAS:
        valid(kind)
finally:
    server.close()
finish()
