import assert from "node:assert/strict";
import { test } from "node:test";
import { ago, compact, number, quantity } from "../src/shared/format";
import { liveAddress } from "../src/shared/live";
import { parseObservation } from "../src/shared/observation";

test("numbers and times as the server writes them", () => {
  assert.equal(number(-1234.5, 1), "−1,234.5");
  assert.equal(number(-0.04, 1), "0.0");
  assert.equal(quantity(27.5, "°C", "none"), "27.5\u202f°C");
  assert.equal(quantity(83, "%", "none"), "83%");
  assert.equal(quantity(null, "%", "none"), "none");
  assert.equal(compact(Date.parse("2026-11-21T16:05:00Z"), "Asia/Hong_Kong"), "2026-11-22 00:05");
  assert.equal(ago(0, 300_000, "en-HK"), "5 minutes ago");
  assert.match(ago(0, 300_000, "zh-Hant-HK"), /5 ?分鐘前/);
});

test("only well-formed observations are taken", () => {
  const at = "2026-11-22T09:00:00Z";
  assert.deepEqual(parseObservation(JSON.stringify({ datastream: 7, thing: "12", value: 2.5, at })), {
    datastream: "7",
    thing: "12",
    value: 2.5,
    at: Date.parse(at),
  });
  assert.equal(parseObservation(JSON.stringify({ datastream: "7", value: "text", at }))?.value, null);
  for (const bad of ["", "null", "[]", "{}", '{"datastream":"7"}', '{"datastream":"7","at":"soon"}']) assert.equal(parseObservation(bad), null);
});

test("one connection asks for what all islands want", () => {
  assert.equal(liveAddress("/api/live", [new Set(["b", "a"]), new Set(["a"])]), "/api/live?datastreams=a,b");
  assert.equal(liveAddress("/api/live", [new Set(["a"]), null]), "/api/live");
  assert.equal(liveAddress("/api/live?x=1", [new Set(["a&b"])]), "/api/live?x=1&datastreams=a%26b");
});
