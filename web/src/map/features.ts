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
}

export type Feature = GeoJSON.Feature<GeoJSON.Point, Properties>;
export type Collection = GeoJSON.FeatureCollection<GeoJSON.Point, Properties>;

/** Points with what MapLibre needs to cluster and draw them; other geometries are left to the list beside the map. */
export function prepare(raw: unknown): Collection {
  const features = (raw as { features?: unknown[] } | null)?.features;
  const points = (Array.isArray(features) ? features : []).filter(
    (f): f is Feature => (f as Feature)?.geometry?.type === "Point" && typeof (f as Feature)?.properties?.name === "string",
  );
  return {
    type: "FeatureCollection",
    features: points.map((f) => {
      const state = asState(f.properties.state);
      return { ...f, properties: { ...f.properties, id: String(f.properties.id), state, rank: RANK[state] } };
    }),
  };
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

/** The address of a layer at a moment. */
export function layerUrl(url: string, at: string | null): string {
  return at === null ? url : `${url}${url.includes("?") ? "&" : "?"}at=${encodeURIComponent(at)}`;
}
