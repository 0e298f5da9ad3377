import { compact } from "../shared/format";
import { el, reducedMotion } from "../shared/island";
import type { Collection } from "./features";

/** What the page says of the period that is played. */
export interface Playback {
  /** RFC 3339 ends, and where it begins. */
  from: string;
  to: string;
  at: string;
  /** Addresses of the tracks and of the fences. */
  tracks: string;
  fences?: string;
}

/** Milliseconds, longitude, latitude. */
export type Fix = readonly [number, number, number];

/** A thing's way in pieces without gaps. */
export interface Track {
  id: string;
  name: string;
  legs: Fix[][];
  /** Milliseconds for which it is taken to be still after its newest fix. */
  gap: number;
}

const isFix = (fix: unknown): fix is Fix => Array.isArray(fix) && fix.length === 3 && fix.every((n) => Number.isFinite(n));

/** What an answer holds of tracks; what is none is left out. */
export function tracksOf(raw: unknown): Map<string, Track> {
  const list = (raw as { tracks?: unknown } | null)?.tracks;
  const tracks = new Map<string, Track>();
  for (const one of Array.isArray(list) ? list : []) {
    const { id, name, legs, gap } = (one ?? {}) as { id?: unknown; name?: unknown; legs?: unknown; gap?: unknown };
    if (id === undefined || id === null || !Array.isArray(legs)) continue;
    const pieces = legs.map((leg) => (Array.isArray(leg) ? leg.filter(isFix) : [])).filter((leg) => leg.length > 0);
    tracks.set(String(id), { id: String(id), name: String(name ?? ""), legs: pieces, gap: typeof gap === "number" ? gap * 1_000 : 0 });
  }
  return tracks;
}

/** Where it was: between two fixes on the straight way at an even speed; nowhere in a gap, before the first and after the last. */
export function positionAt(legs: readonly (readonly Fix[])[], at: number): [number, number] | null {
  for (const leg of legs) {
    const first = leg[0];
    const last = leg[leg.length - 1];
    if (first === undefined || last === undefined || at < first[0] || at > last[0]) continue;
    // The first fix that is not earlier, by halving.
    let [low, high] = [0, leg.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((leg[middle] as Fix)[0] < at) low = middle + 1;
      else high = middle;
    }
    const after = leg[low] as Fix;
    const before = leg[low - 1];
    if (after[0] === at || before === undefined) return [after[1], after[2]];
    const part = (at - before[0]) / (after[0] - before[0]);
    return [before[1] + (after[1] - before[1]) * part, before[2] + (after[2] - before[2]) * part];
  }
  return null;
}

/** The same, and still at its newest fix for as long as it may be silent. */
export function whereabouts(track: Track, at: number): [number, number] | null {
  const last = track.legs[track.legs.length - 1]?.slice(-1)[0];
  const still = last !== undefined && at > last[0] && at - last[0] <= track.gap;
  return still ? [last[1], last[2]] : positionAt(track.legs, at);
}

/** Puts what moves where it was. What nobody knows the place of stays where it was last and is shown pale. Returns whether anything changed. */
export function place(collection: Collection, tracks: Map<string, Track>, at: number): boolean {
  let changed = false;
  for (const feature of collection.features) {
    const track = tracks.get(feature.properties.id);
    if (track === undefined) continue;
    const there = whereabouts(track, at);
    if (there !== null) feature.geometry.coordinates = there;
    feature.properties.stale = there === null;
    changed = true;
  }
  return changed;
}

/** The ways as lines; a way of one place is a line of no length. */
export function lines(tracks: Map<string, Track>): GeoJSON.FeatureCollection<GeoJSON.LineString> {
  const features = [...tracks.values()].flatMap(({ id, legs }) =>
    legs.map((leg): GeoJSON.Feature<GeoJSON.LineString> => {
      const coordinates = leg.map(([, lon, lat]) => [lon, lat]);
      const [first] = coordinates;
      return { type: "Feature", properties: { id }, geometry: { type: "LineString", coordinates: first && coordinates.length === 1 ? [first, first] : coordinates } };
    }),
  );
  return { type: "FeatureCollection", features };
}

const SPEEDS = [60, 300, 900, 3_600];
/** The period should be over in about so many seconds. */
const PLEASANT = 45;
/** Steps of the slider. */
const STEPS = 360;
/** Between two pictures: eyes see no more, and every picture sorts the shapes anew. */
const FRAME_MS = 100;

/** Play and pause, how fast, and a slider; all of it by keyboard as well. `moved` hears of every moment that is shown, and whether it comes of playing. */
export function controls(playback: Playback, at: number, zone: string, words: (key: string) => string, moved: (at: number, playing: boolean) => void): HTMLElement {
  const [from, to] = [Date.parse(playback.from), Date.parse(playback.to)];
  const step = Math.max(1_000, Math.round((to - from) / STEPS / 1_000) * 1_000);
  const input = el("input", { type: "range", min: String(from), max: String(to), step: String(step), "aria-label": words("playTime") });
  const output = el("output", { class: "number" });
  const play = el("button", { type: "button", class: "button" }, words("play"));
  const faster = el("select", { "aria-label": words("speed") });
  const usual = SPEEDS.find((s) => (to - from) / 1_000 / s <= PLEASANT) ?? (SPEEDS[SPEEDS.length - 1] as number);
  for (const speed of SPEEDS) {
    const option = el("option", { value: String(speed) }, `${speed}×`);
    option.selected = speed === usual;
    faster.append(option);
  }
  let now = Math.min(to, Math.max(from, at));
  let timer = 0;
  const show = () => {
    const text = compact(now, zone);
    input.value = String(now);
    output.textContent = text;
    input.setAttribute("aria-valuetext", text);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = words("play");
  };
  const set = (moment: number, playing: boolean) => {
    now = Math.min(to, Math.max(from, moment));
    show();
    moved(now, playing);
  };
  input.addEventListener("input", () => {
    stop();
    set(Number(input.value), false);
  });
  play.addEventListener("click", () => {
    if (timer !== 0) {
      stop();
      moved(now, false);
      return;
    }
    if (now >= to) set(from, true);
    play.textContent = words("pause");
    // Whoever wants little motion gets a picture a second.
    const pause = reducedMotion() ? 1_000 : FRAME_MS;
    let last = performance.now();
    timer = window.setInterval(() => {
      const time = performance.now();
      set(now + (time - last) * Number(faster.value), true);
      last = time;
      if (now >= to) {
        stop();
        moved(now, false);
      }
    }, pause);
  });
  show();
  return el("div", { class: "map-time" }, play, faster, input, output);
}
