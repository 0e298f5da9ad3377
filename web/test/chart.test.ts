import assert from "node:assert/strict";
import { test } from "node:test";
import { align, append, openGaps, periodUrl, readPoints, spread, zoom } from "../src/chart/data";

test("series share one axis and keep their own gaps", () => {
  const [times, a, b] = align([[[0, 1], [10_000, 2], [90_000, 3]], [[5_000, 7], [10_000, null]]], 20_000);
  assert.deepEqual(times, [0, 5, 10, 10.001, 90]);
  assert.deepEqual(a, [1, undefined, 2, null, 3]);
  assert.deepEqual(b, [undefined, 7, null, undefined, undefined]);
});

test("a silence opens the line once", () => {
  assert.deepEqual(openGaps([[0, 1], [10, 1], [100, 1]], 50), [[0, 1], [10, 1], [11, null], [100, 1]]);
  assert.deepEqual(openGaps([[0, 1], [10, null], [100, 1]], 50), [[0, 1], [10, null], [100, 1]]);
  assert.deepEqual(openGaps([[0, 1], [100, 1]], null), [[0, 1], [100, 1]]);
});

test("live values fall into their place", () => {
  assert.deepEqual(append([[1, 1], [3, 3]], [2, 2], 10), [[1, 1], [2, 2], [3, 3]]);
  assert.deepEqual(append([[1, 1], [3, 3]], [3, 9], 10), [[1, 1], [3, 9]]);
  assert.deepEqual(append([[1, 1], [3, 3]], [4, 4], 2), [[3, 3], [4, 4]]);
  assert.deepEqual(append([], [4, 4], 2), [[4, 4]]);
});

test("labels keep their distance", () => {
  assert.deepEqual(spread([100, 101, 20], 18, 0, 280), [100, 118, 20]);
  assert.deepEqual(spread([279, 280], 18, 0, 280), [262, 280]);
});

test("zooming stays within the whole", () => {
  assert.deepEqual(zoom([0, 100], [0, 100], 0.5), [25, 75]);
  assert.deepEqual(zoom([0, 10], [0, 100], 4), [0, 40]);
  assert.deepEqual(zoom([40, 60], [0, 100], 100), [0, 100]);
});

test("periods and answers", () => {
  assert.equal(periodUrl("/s?n=1", 0, 1_000), "/s?n=1&from=1970-01-01T00%3A00%3A00.000Z&to=1970-01-01T00%3A00%3A01.000Z");
  assert.deepEqual(readPoints({ series: [{ points: [[1, 2], [3, null], ["x", 1], [4, "y"]] }] }, 2), [[[1, 2], [3, null]], []]);
  assert.deepEqual(readPoints("nonsense", 1), [[]]);
});
