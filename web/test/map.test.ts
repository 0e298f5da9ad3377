import assert from "node:assert/strict";
import { test } from "node:test";
import { isComplete, layerUrl, merge, prepare } from "../src/map/features";
import { readView, writeView } from "../src/map/state";

test("an address and a view say the same", () => {
  const view = readView("?q=x&layers=a,b&at=2026-11-22T09:00:00Z", "#12.50/22.3193/114.1694");
  assert.deepEqual(view, { layers: ["a", "b"], at: "2026-11-22T09:00:00Z", place: { zoom: 12.5, lat: 22.3193, lon: 114.1694 } });
  const written = writeView("?q=x&layers=old", view);
  assert.equal(written.search, "?q=x&layers=a,b&at=2026-11-22T09:00:00Z");
  assert.equal(written.hash, "#12.50/22.3193/114.1694");
  assert.deepEqual(readView(written.search, written.hash), view);
});

test("a hostile address is ignored", () => {
  assert.deepEqual(readView("?at=yesterday", "#99/95.1/1"), { layers: null, at: null, place: null });
  assert.deepEqual(readView("?layers=", "#12/<script>/1"), { layers: [], at: null, place: null });
  assert.equal(writeView("?layers=a&at=x", { layers: null, at: null, place: null }).search, "");
});

const collection = () =>
  prepare({
    type: "FeatureCollection",
    features: [
      { type: "Feature", geometry: { type: "Point", coordinates: [114, 22] }, properties: { id: 1, datastream: 7, name: "A", value: 1, unit: "m", state: "good", asOf: "2026-11-22T09:00:00Z", simulated: false, stale: true, href: "/en/things/1" } },
      { type: "Feature", geometry: { type: "LineString", coordinates: [] }, properties: { id: 2, name: "line" } },
      { type: "Feature", geometry: { type: "Point", coordinates: [114, 22] }, properties: { id: 3, name: "B", state: "<b>", value: null, asOf: null, unit: "", simulated: true, stale: false, href: "" } },
    ],
  });

test("only points with a name are drawn, unknown states are unknown", () => {
  const { features } = collection();
  assert.deepEqual(features.map((f) => [f.properties.id, f.properties.state, f.properties.rank]), [["1", "good", 1], ["3", "unknown", 0]]);
  assert.equal(prepare(null).features.length, 0);
});

test("a live value replaces an older one and never a newer one", () => {
  const data = collection();
  const at = Date.parse("2026-11-22T09:01:00Z");
  assert.equal(merge(data, { datastream: "7", thing: "1", value: 2, at, state: "alarm" }), true);
  assert.deepEqual(
    [data.features[0]?.properties.value, data.features[0]?.properties.state, data.features[0]?.properties.rank, data.features[0]?.properties.stale],
    [2, "alarm", 5, false],
  );
  assert.equal(merge(data, { datastream: "7", thing: "1", value: 3, at }), false, "the same moment again");
  assert.equal(merge(data, { datastream: "7", thing: "1", value: 3, at: at - 1 }), false, "a late one");
  assert.equal(merge(data, { datastream: "8", thing: "1", value: 3, at: at + 1 }), false, "another Datastream of the thing");
  assert.equal(data.features[0]?.properties.value, 2);
});

test("a layer is asked for at a moment", () => {
  assert.equal(layerUrl("/l.geojson", null), "/l.geojson");
  assert.equal(layerUrl("/l.geojson?x=1", "2026-11-22T09:00:00Z"), "/l.geojson?x=1&at=2026-11-22T09%3A00%3A00Z");
});

test("what the server has gathered keeps its number", () => {
  const answer = {
    type: "FeatureCollection",
    complete: false,
    features: [
      { type: "Feature", geometry: { type: "Point", coordinates: [114, 22] }, properties: { id: "cluster-0", things: 500, more: true } },
      { type: "Feature", geometry: { type: "Point", coordinates: [114, 22] }, properties: { id: 1, name: "A", state: "alarm" } },
    ],
  };
  const shown = prepare(answer).features.map((f) => [f.properties.id, f.properties.things, f.properties.more, f.properties.rank]);
  assert.deepEqual(shown[0], ["cluster-0", 500, true, 0]);
  assert.deepEqual(shown[1]?.slice(0, 3), ["1", 1, false]);
  assert.equal(isComplete(answer), false);
  assert.equal(isComplete({ features: [] }), true);
});

test("a large layer is asked for by window", () => {
  assert.equal(layerUrl("/l?lang=en", null, [114, 22.1, 114.5, 22.51234567]), "/l?lang=en&bbox=114.00000,22.10000,114.50000,22.51235");
  assert.equal(layerUrl("/l", "2026-11-22T09:00:00Z", [1, 2, 3, 4]), "/l?at=2026-11-22T09%3A00%3A00Z&bbox=1.00000,2.00000,3.00000,4.00000");
});
