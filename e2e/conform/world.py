"""What the tests stand on: the service, what it declares, and entities of their own where they may make some."""

import random

from .client import Wrong, key, need
from .model import SETS, Bodies

# (result, hour) of the Observations that questions are asked about.
RESULTS = [(2.0, 0), (3.5, 1), (12.0, 2), (20.0, 3), (32.4, 4), (100.0, 5)]


class World:
    def __init__(self, service, options):
        self.service, self.options = service, options
        self.root, self.requirements = service.declared()
        self.mark = f"conform-{random.randrange(16**10):010x}"
        self.make = Bodies(self.mark)
        self.sample = None
        self.light = None

    def declares(self, name):
        """Whether a requirements class, or one of its requirements, is declared."""
        return any(r == name or r.startswith(name + "/") for r in self.requirements)

    def data(self):
        """A Thing with two Datastreams, the first of which has Observations; made once, found again by every test."""
        if self.sample is None:
            if not self.declares("create-update-delete"):
                raise Wrong("the service has to hold entities to look at, and declares no way to make them")
            self.sample = Sample(self)
        return self.sample

    def clean(self):
        """Takes away everything that carries the mark. What is left is told."""
        if not self.declares("create-update-delete"):
            return []
        trouble = []
        # Things take their Datastreams, Observations and HistoricalLocations along (18-088 table 25).
        for name in ["TaskingCapabilities", "Actuators", "MultiDatastreams", "Datastreams", "Things", "Locations", "Sensors", "ObservedProperties", "FeaturesOfInterest"]:
            if name == "MultiDatastreams" and not self.declares("multi-datastream"):
                continue
            if name in ("TaskingCapabilities", "Actuators") and not self.declares("tasking"):
                continue
            try:
                for row in self.service.every(f"{name}?$filter=startswith(name,'{self.mark}')&$select=id"):
                    answer = self.service.ask("DELETE", f"{name}({key(row['@iot.id'])})")
                    if answer.status not in (200, 204, 404):
                        trouble.append(f"{answer.asked}: {answer.status}")
            except Wrong as error:
                trouble.append(str(error))
        return trouble


class Sample:
    def __init__(self, world):
        service, make = world.service, world.make
        body = make.thing(
            "sample",
            description="Sensor Things",
            Locations=[make.location("sample location")],
            Datastreams=[make.deep_datastream("sample first"), make.deep_datastream("sample second")],
        )
        link, self.thing = service.create("Things", body)
        self.thing_id = self.thing["@iot.id"]
        self.things = f"Things({key(self.thing_id)})"
        streams = service.values(f"{self.things}/Datastreams?$orderby=name")
        need(len(streams) == 2, "a Thing with two Datastreams in its body has not two Datastreams")
        self.first, self.second = streams
        self.first_path = f"Datastreams({key(self.first['@iot.id'])})"
        self.second_path = f"Datastreams({key(self.second['@iot.id'])})"
        self.observations = []
        for result, hour in RESULTS:
            observation = {
                "result": result,
                "phenomenonTime": f"2015-12-08T{hour:02}:00:00Z",
                "resultTime": f"2015-12-08T{hour:02}:30:15.250Z",
                "validTime": f"2015-12-08T{hour:02}:00:00Z/2015-12-09T00:00:00Z",
                "parameters": {"run": hour},
            }
            _, made = service.create(f"{self.first_path}/Observations", observation)
            self.observations.append(made)
        service.create(f"{self.second_path}/Observations", {"result": 1, "phenomenonTime": "2015-12-08T00:00:00Z"})

    def results(self, service, filter_text, more=""):
        """The results of the first Datastream that a filter lets through."""
        rows = service.values(f"{self.first_path}/Observations?$filter={filter_text}&$orderby=phenomenonTime&$top=100{more}")
        return [row["result"] for row in rows]


def inspected(world, name):
    """Some entities of a set, among them the tests' own where they could make some."""
    need(name in SETS, name)
    if world.declares("create-update-delete"):
        world.data()
    rows = world.service.values(f"{name}?$top=5")
    need(rows, f"there are no {name} to look at")
    return rows
