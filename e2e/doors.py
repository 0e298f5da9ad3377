"""The further doors as other people's programs see them: `influxdb-client` writes line protocol, a network server of LoRaWAN sends messages, a controller of
`pymodbus` is polled, and a table is brought.

    python doors.py <program>
"""

import asyncio
import json
import sys
import threading
import time

from influxdb_client import InfluxDBClient, Point, WritePrecision
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import ModbusTcpServer

from common import Http, Refused, Server, check, equal, finish, free_port

PROGRAM = sys.argv[1]
PATIENCE = 60
REGISTERS = free_port()

CONNECTOR = f"""
[[connector]]
key = "e2e-registers"
tenant = "dsd"
name = {{ en = "Registers", zh-hant = "寄存器", zh-hans = "寄存器" }}
every = "PT1S"

[connector.source]
format = "modbus"

[connector.source.modbus]
address = "127.0.0.1:{REGISTERS}"
unit = 1
register = [
  {{ name = "level", address = 0, type = "f32" }},
  {{ name = "volts", table = "input", address = 2 }},
]

[[connector.value]]
field = "level"
datastream = "flood-san-tin.level"
[[connector.value]]
field = "volts"
datastream = "flood-san-tin.battery"
scale = 0.1
"""


def controller():
    """Holding 0 and 1: 0.75 as a float; input 2: 124."""
    holding = ModbusSequentialDataBlock(1, [0x3F40, 0x0000, 0, 0])
    inputs = ModbusSequentialDataBlock(1, [0, 0, 124, 0])
    device = ModbusDeviceContext(hr=holding, ir=inputs)
    context = ModbusServerContext(devices={1: device}, single=False)

    async def serve():
        await ModbusTcpServer(context, address=("127.0.0.1", REGISTERS)).serve_forever()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()


def wait_for(what, run):
    until, last = time.monotonic() + PATIENCE, None
    while time.monotonic() < until:
        last = run()
        if last:
            return last
        time.sleep(0.1)
    raise AssertionError(f"{what}: not after {PATIENCE} s, the last answer was {last}")


def stream(http, key):
    thing, _, last = key.partition(".")
    found = http.get(f"/v1.1/Datastreams?$filter=properties/key eq '{key}'")["value"]
    assert len(found) == 1, f"{key}: {found}"
    return found[0]["@iot.id"]


def results(http, key):
    found = http.every(f"/v1.1/Datastreams({stream(http, key)})/Observations?$orderby=phenomenonTime asc&$top=1000")
    return [(row["phenomenonTime"], row["result"]) for row in found]


def influx_writes():
    with InfluxDBClient(url=server.base, token=ha_key, org="ward", enable_gzip=True) as client:
        write = client.write_api(write_options=SYNCHRONOUS)
        points = [
            Point("hepa").tag("unit", "qmh-01").field("pressure", -8.25).field("fan", 1450).field("colour", "red").time(at, WritePrecision.S)
            for at in range(1_700_000_000, 1_700_000_300, 60)
        ]
        write.write(bucket="wards", record=points, write_precision=WritePrecision.S)
        # Once more: nothing is there twice.
        write.write(bucket="wards", record=points, write_precision=WritePrecision.S)
        equal([value for _, value in results(ha, "hepa-qmh-01.pressure")], [-8.25] * 5)
        equal(results(ha, "hepa-qmh-01.fan")[0], ("2023-11-14T22:13:20Z", 1450))
        try:
            good = Point("hepa").tag("unit", "qmh-02").field("pressure", 1.5).time(1_700_000_000, WritePrecision.S)
            bad = Point("hepa").tag("unit", "no such").field("pressure", 1.0).time(1_700_000_000, WritePrecision.S)
            write.write(bucket="wards", record=[good, bad], write_precision=WritePrecision.S)
        except ApiException as error:
            equal(error.status, 400)
            told = json.loads(error.body)
            equal(told["code"], "invalid")
            assert "line 2" in told["message"] and "partial write: 1 of 2" in told["message"], told
        else:
            raise AssertionError("a line of nobody was taken")
        equal([value for _, value in results(ha, "hepa-qmh-02.pressure")], [1.5])


def influx_is_refused():
    with InfluxDBClient(url=server.base, token="lpk_aaaaaaaaaa_0123456789012345678901234567890123456789012", org="ward") as client:
        try:
            client.write_api(write_options=SYNCHRONOUS).write(bucket="wards", record=Point("hepa").tag("unit", "qmh-01").field("pressure", 1.0))
        except ApiException as error:
            equal(error.status, 401)
        else:
            raise AssertionError("a wrong token was taken")


def version_one_writes():
    body = b"pumping_station,station=Sha\\ Tin level=1.25 1700000000"
    dsd.ask("POST", "/write?db=field&precision=s", body, {"Content-Type": "text/plain"})
    equal(results(dsd, "pumping-station-sha-tin.level"), [("2023-11-14T22:13:20Z", 1.25)])


def lorawan_speaks():
    info = {"devEui": "24e124ffff000001", "deviceName": "stanley", "deviceProfileName": "toilet-module-lorawan"}
    up = {"time": "2026-01-01T00:00:00.5Z", "fCnt": 3, "fPort": 1, "deviceInfo": info, "data": "AQIAfQIAAw==", "rxInfo": [{"rssi": -90}]}
    for _ in range(2):
        answer = json.loads(fehd.ask("POST", "/api/ingest/chirpstack?event=up", up)[2])
        equal((answer["thing"], answer["recorded"]), ("toilet-stanley-market", 2))
    equal(results(fehd, "toilet-stanley-market.ammonia"), [("2026-01-01T00:00:00.500Z", 1.25)])
    strange = dict(up, deviceInfo=dict(info, devEui="24e124ffff00ffff"))
    refused = fehd.refuses(404, "POST", "/api/ingest/chirpstack?event=up", strange)
    equal(json.loads(refused.body)["type"], "/problems/unknown-device")
    equal([s["devEui"] for s in fehd.get("/api/ingest/unknown")["value"]], ["24e124ffff00ffff"])


def registers_are_polled():
    found = wait_for("the registers are read", lambda: results(dsd, "flood-san-tin.level"))
    equal(found[0][1], 0.75)
    equal(round(results(dsd, "flood-san-tin.battery")[0][1], 6), 12.4)


def a_table_is_brought():
    target = stream(hko, "weather-hko.temperature")
    table = "日期,氣溫\n13/1/2020 08:00,15.5\n13/1/2020 09:00,N.A.\n13/1/2020 10:00,warm\n".encode("big5")
    address = f"/api/ingest/csv?datastream={target}"
    tried = json.loads(hko.ask("POST", address, table, {"Content-Type": "text/csv"})[2])
    equal((tried["committed"], tried["guess"]["encoding"], tried["report"]["written"], tried["report"]["rejected"]), (False, "big5", 2, 1))
    hko.ask("POST", address + "&commit=true", table, {"Content-Type": "text/csv"})
    found = hko.get(f"/v1.1/Datastreams({target})/Observations?$filter=phenomenonTime lt 2020-02-01T00:00:00Z&$orderby=phenomenonTime asc")["value"]
    equal([(row["phenomenonTime"], row["result"]) for row in found], [("2020-01-13T00:00:00Z", 15.5), ("2020-01-13T01:00:00Z", None)])


def figures_are_counted():
    # Where a department is sealed, figures are for who may see the city's operation.
    text = Http(server.base, server.admin_key("city", "operator")).ask("GET", "/metrics")[2]
    for door in ("chirpstack", "line", "csv"):
        line = [row for row in text.splitlines() if row.startswith("lamppost_sensing_ingest_observations_total") and f'door="{door}"' in row]
        assert line and float(line[0].split()[-1]) > 0, f"{door}: {line}"


server = Server(PROGRAM, settings=[f"outgoing.allow=127.0.0.1:{REGISTERS}"])
(server.pack / "connectors" / "zz-e2e.toml").write_text(CONNECTOR)
try:
    controller()
    if check("the server starts with the pack's doors", lambda: (server.start(), True)[1]):
        keys = {tenant: server.admin_key(tenant, "admin") for tenant in ("ha", "dsd", "fehd", "hko")}
        ha_key = keys["ha"]
        ha, dsd, fehd, hko = (Http(server.base, keys[tenant]) for tenant in ("ha", "dsd", "fehd", "hko"))
        check("influxdb-client writes, and is told by line what was wrong", influx_writes)
        check("a wrong token of influxdb-client is refused", influx_is_refused)
        check("version 1 writes, and a declared Thing is made", version_one_writes)
        check("a LoRaWAN device speaks through ChirpStack, and a strange one is listed", lorawan_speaks)
        check("a controller of pymodbus is polled", registers_are_polled)
        check("a table in Big5 is tried and recorded", a_table_is_brought)
        check("the doors count", figures_are_counted)
finally:
    server.close()
finish()
