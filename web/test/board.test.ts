import assert from "node:assert/strict";
import { test } from "node:test";

import { fill, limit, stateOf, turnAt } from "../src/board/state";

test("what nobody has answered for two looks is not live", () => {
  const contact = { heard: 1_000_000, over: false };
  assert.equal(stateOf(contact, 1_000_000, 10), "live");
  assert.equal(stateOf(contact, 1_000_000 + limit(10), 10), "live");
  assert.equal(stateOf(contact, 1_000_001 + limit(10), 10), "lost");
  assert.equal(stateOf(contact, 1_000_000 - limit(10) - 1, 10), "lost", "a clock that was set back proves nothing");
  assert.equal(stateOf({ ...contact, over: true }, 1_000_000, 10), "over");
});

test("turns follow each other however long the page slept", () => {
  const at = (seconds: number) => turnAt(seconds * 1_000, 0, 20, 3, 1);
  assert.deepEqual([0, 19, 20, 40, 60, 6_000].map(at), [1, 1, 2, 0, 1, 1]);
  assert.equal(turnAt(1_000_000, 0, null, 3, 2), 2, "paused");
  assert.equal(turnAt(1_000_000, 0, 5, 1, 0), 0, "alone");
  assert.equal(turnAt(-5_000, 0, 5, 3, 0), 0);
});

test("a text is filled with what is known", () => {
  assert.equal(fill("since {time}, {other}", { time: "12:00" }), "since 12:00, {other}");
});
