"""The abstract test suites of OGC SensorThings API 1.1 (18-088 annex A) and of its Part 2, Tasking Core (17-079 annex A, here B), against any service.

    python -m conform URL [--user NAME --password WORD | --token TOKEN] [--mqtt-user NAME --mqtt-password WORD] [--only TEXT]

URL is the root of the service with its version: https://example.org/v1.1. A test is run when the service declares its class in
serverSettings; the core (data model, resource paths) is asked for always. What the tests create carries a mark in its name and is taken
away again. Only the Python standard library is needed, and paho-mqtt where MQTT is declared.
"""

import argparse
import sys
import traceback

from . import extensions, mqtt, reading, tasking, writing  # noqa: F401  In the order of annex A: each registers its tests.
from .client import Service, Wrong
from .registry import TESTS
from .world import World

# What makes a service one at all is not a matter of what it declares.
ALWAYS = {"datamodel", "resource-path"}


def arguments():
    parser = argparse.ArgumentParser(prog="cargo xtask conform", description="The abstract test suite of OGC SensorThings API 1.1.")
    parser.add_argument("url", help="the root of the service, such as https://example.org/v1.1")
    parser.add_argument("--user", help="for HTTP Basic, and for MQTT unless that has its own")
    parser.add_argument("--password", default="")
    parser.add_argument("--token", help="a bearer token; for MQTT it is the password")
    parser.add_argument("--mqtt-user", help="where MQTT knows others than HTTP, such as devices")
    parser.add_argument("--mqtt-password", default="")
    parser.add_argument("--only", default="", help="run the tests whose name contains this")
    return parser.parse_args()


def run(world, only):
    rows = []
    # A.4 to A.8 follow A.1 to A.3 whatever module was read first, and Tasking follows Sensing.
    for name, needs, section, test in sorted(TESTS, key=lambda entry: (entry[2][0], [int(n) for n in entry[2][2:].split(".")])):
        if only not in name:
            continue
        if needs not in ALWAYS and not world.declares(needs):
            rows.append((section, name, "not declared", ""))
        else:
            try:
                test(world)
                rows.append((section, name, "passed", ""))
            except Wrong as error:
                rows.append((section, name, "failed", str(error)))
            except Exception as error:  # An answer of another shape than the test expects: the other tests still run.
                place = traceback.extract_tb(error.__traceback__)[-1]
                detail = f"{type(error).__name__}: {error} ({place.filename.rsplit('/', 1)[-1]}:{place.lineno})"
                rows.append((section, name, "failed", detail))
        section, name, how, why = rows[-1]
        print(f"{section:<9}{name:<72}{how}" + (f"\n         {why}" if why else ""), flush=True)
    return rows


def main():
    options = arguments()
    service = Service(options.url, options.user, options.password, options.token)
    try:
        world = World(service, options)
    except Wrong as error:
        print(f"{options.url} is not the root of a SensorThings service: {error}")
        return 2
    print(f"{options.url} declares {len(world.requirements)} requirements of 18-088 and 17-079.\n")
    try:
        rows = run(world, options.only)
    finally:
        left = world.clean()
        for trouble in left:
            print(f"could not be taken away: {trouble}")
    count = lambda how: sum(row[2] == how for row in rows)
    print(f"\n{count('passed')} passed, {count('failed')} failed, {count('not declared')} not declared")
    return 1 if count("failed") or left or not count("passed") else 0


if __name__ == "__main__":
    sys.exit(main())
