import assert from "node:assert/strict";
import { test } from "node:test";
import { prepare } from "../src/map/features";
import { type Fix, lines, place, positionAt, tracksOf } from "../src/map/playback";

const legs: Fix[][] = [
  [
    [0, 114, 22],
    [1_000, 115, 22],
    [3_000, 115, 24],
  ],
  [[10_000, 116, 25]],
];

test("between two fixes it is on the way, in a gap it is nowhere", () => {
  assert.deepEqual(positionAt(legs, 0), [114, 22]);
  assert.deepEqual(positionAt(legs, 500), [114.5, 22]);
  assert.deepEqual(positionAt(legs, 2_000), [115, 23]);
  assert.deepEqual(positionAt(legs, 3_000), [115, 24]);
  assert.deepEqual(positionAt(legs, 10_000), [116, 25]);
  for (const at of [-1, 3_001, 9_999, 10_001]) assert.equal(positionAt(legs, at), null);
  assert.equal(positionAt([], 5), null);
});

test("an answer that is none has no tracks", () => {
  for (const raw of [null, {}, { tracks: 3 }, { tracks: [null, { id: 1 }, { legs: [] }] }]) assert.equal(tracksOf(raw).size, 0);
  const tracks = tracksOf({ tracks: [{ id: 7, name: "A", legs: [[[0, 1, 2], ["x", 1, 2], [5, 1]], [], "leg"] }] });
  assert.deepEqual(tracks.get("7")?.legs, [[[0, 1, 2]]]);
  assert.deepEqual(lines(tracks).features[0]?.geometry.coordinates, [[1, 2], [1, 2]]);
});

test("what moves is put where it was, and is pale where nobody knows", () => {
  const feature = (id: number) => ({ type: "Feature", geometry: { type: "Point", coordinates: [1, 1] }, properties: { id, name: "A", value: null, unit: "", state: "good", asOf: null, simulated: true, stale: false, href: "" } });
  const data = prepare({ type: "FeatureCollection", features: [feature(7), feature(8)] });
  const tracks = tracksOf({ tracks: [{ id: 7, name: "A", legs }] });
  assert.equal(place(data, tracks, 500), true);
  assert.deepEqual(data.features.map((f) => [f.geometry.coordinates, f.properties.stale]), [[[114.5, 22], false], [[1, 1], false]]);
  place(data, tracks, 5_000);
  assert.deepEqual(data.features.map((f) => [f.geometry.coordinates, f.properties.stale]), [[[114.5, 22], true], [[1, 1], false]]);
  assert.equal(place(data, new Map(), 0), false);
  const still = tracksOf({ tracks: [{ id: 7, name: "A", legs, gap: 5 }] });
  place(data, still, 14_000);
  assert.deepEqual([data.features[0]?.geometry.coordinates, data.features[0]?.properties.stale], [[116, 25], false]);
  place(data, still, 16_000);
  assert.equal(data.features[0]?.properties.stale, true);
});
