import type { Observation } from "../shared/observation";
import { RANK, asState } from "../shared/shapes";

/** What a layer's GeoJSON says of each thing. */
export interface Properties {
  id: string;
  /** The Datastream behind `value`; without it the feature does not follow live values. */
  datastream?: string | number | null;
  name: string;
  value: number | null;
  unit: string;
  state: string;
  asOf: string | null;
  simulated: boolean;
  stale: boolean;
  href: string;
  /** Added here, for clusters. */
  rank?: number;
  /** How many places this stands for: one, unless the server has gathered what stands close together. */
  things?: number;
  /** There are more than `things`. */
  more?: boolean;
}

export type Feature = GeoJSON.Feature<GeoJSON.Point, Properties>;
export type Collection = GeoJSON.FeatureCollection<GeoJSON.Point, Properties>;

/** Points with what MapLibre needs to cluster and draw them; other geometries are left to the list beside the map. */
export function prepare(raw: unknown): Collection {
  const features = (raw as { features?: unknown[] } | null)?.features;
  const points = (Array.isArray(features) ? features : []).filter(
    (f): f is Feature =>
      (f as Feature)?.geometry?.type === "Point" && (typeof (f as Feature)?.properties?.name === "string" || gathered(f as Feature)),
  );
  return {
    type: "FeatureCollection",
    features: points.map((f) => {
      const state = asState(f.properties.state);
      const things = f.properties.things ?? 1;
      return { ...f, properties: { ...f.properties, id: String(f.properties.id), state, rank: RANK[state], things, more: f.properties.more === true } };
    }),
  };
}

function gathered(feature: Feature): boolean {
  return Number.isInteger(feature.properties?.things);
}

/** Whether every place of the layer that is in sight is a feature of its own. */
export function isComplete(raw: unknown): boolean {
  return (raw as { complete?: unknown } | null)?.complete !== false;
}

/** Puts a live value into every feature that follows its Datastream. An older value never replaces a newer one. Returns whether anything changed. */
export function merge(collection: Collection, observation: Observation): boolean {
  let changed = false;
  for (const feature of collection.features) {
    const p = feature.properties;
    if (p.datastream === undefined || p.datastream === null || String(p.datastream) !== observation.datastream) continue;
    if (p.asOf !== null && Date.parse(p.asOf) >= observation.at) continue;
    p.value = observation.value;
    p.asOf = new Date(observation.at).toISOString();
    p.stale = false;
    if (observation.state !== undefined) {
      p.state = asState(observation.state);
      p.rank = RANK[asState(observation.state)];
    }
    changed = true;
  }
  return changed;
}

/** The address of a layer at a moment, and within a window (west, south, east, north) where it has too many places to ask for all. */
export function layerUrl(url: string, at: string | null, window: readonly number[] | null = null): string {
  const query: string[] = [];
  if (at !== null) query.push(`at=${encodeURIComponent(at)}`);
  if (window !== null) query.push(`bbox=${window.map((degrees) => degrees.toFixed(5)).join(",")}`);
  if (query.length === 0) return url;
  return `${url}${url.includes("?") ? "&" : "?"}${query.join("&")}`;
}
