"""The entity model of 18-088 section 8.2 as far as the tests look at it, and bodies to make entities with."""

MEASUREMENT = "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement"

# Entity set: mandatory properties, navigation to one, navigation to many.
SETS = {
    "Things": (["name", "description"], [], ["Locations", "HistoricalLocations", "Datastreams"]),
    "Locations": (["name", "description", "encodingType", "location"], [], ["Things", "HistoricalLocations"]),
    "HistoricalLocations": (["time"], ["Thing"], ["Locations"]),
    "Datastreams": (
        ["name", "description", "unitOfMeasurement", "observationType"],
        ["Thing", "Sensor", "ObservedProperty"],
        ["Observations"],
    ),
    "Sensors": (["name", "description", "encodingType", "metadata"], [], ["Datastreams"]),
    "ObservedProperties": (["name", "definition", "description"], [], ["Datastreams"]),
    "Observations": (["phenomenonTime", "result", "resultTime"], ["Datastream", "FeatureOfInterest"], []),
    "FeaturesOfInterest": (["name", "description", "encodingType", "feature"], [], ["Observations"]),
}


def point(x, y):
    return {"type": "Point", "coordinates": [x, y]}


class Bodies:
    """What the tests create. Everything carries the mark in its name, so that it can be found and taken away."""

    def __init__(self, mark):
        self.mark = mark

    def thing(self, name="thing", **more):
        body = {"name": f"{self.mark} {name}", "description": "Made by a conformance test"}
        return {**body, "properties": {"mark": self.mark, "deep": {"number": 7}}, **more}

    def location(self, name="location", x=30.0, y=10.0, **more):
        body = {"name": f"{self.mark} {name}", "description": "Made by a conformance test"}
        return {**body, "encodingType": "application/geo+json", "location": point(x, y), **more}

    def sensor(self, name="sensor", **more):
        body = {"name": f"{self.mark} {name}", "description": "Made by a conformance test"}
        return {**body, "encodingType": "text/html", "metadata": "https://example.org/sensor.html", **more}

    def observed_property(self, name="property", **more):
        body = {"name": f"{self.mark} {name}", "description": "Made by a conformance test"}
        return {**body, "definition": "https://example.org/property", **more}

    def datastream(self, name="stream", **more):
        body = {"name": f"{self.mark} {name}", "description": "Made by a conformance test", "observationType": MEASUREMENT}
        unit = {"name": "degree Celsius", "symbol": "degree", "definition": "ucum:Cel"}
        return {**body, "unitOfMeasurement": unit, **more}

    def feature(self, name="feature", x=30.0, y=10.0, **more):
        body = {"name": f"{self.mark} {name}", "description": "Made by a conformance test"}
        return {**body, "encodingType": "application/geo+json", "feature": point(x, y), **more}

    def deep_datastream(self, name="stream", **more):
        return self.datastream(name, Sensor=self.sensor(f"{name} sensor"), ObservedProperty=self.observed_property(f"{name} property"), **more)

    def without(self, body, *names):
        return {name: value for name, value in body.items() if name not in names}
