/** What the address says about the map: which layers, which moment, where. A shared address shows the same map. */
export interface View {
  /** `null`: the layers that the page turns on by itself. */
  layers: string[] | null;
  /** RFC 3339, or `null` for now. */
  at: string | null;
  /** Zoom, latitude, longitude. */
  place: { zoom: number; lat: number; lon: number } | null;
}

export function readView(search: string, hash: string): View {
  const query = new URLSearchParams(search);
  const layers = query.get("layers");
  const at = query.get("at");
  const place = /^#(\d{1,2}(?:\.\d+)?)\/(-?\d{1,2}(?:\.\d+)?)\/(-?\d{1,3}(?:\.\d+)?)$/.exec(hash);
  const [zoom, lat, lon] = (place?.slice(1) ?? []).map(Number);
  const valid = zoom !== undefined && lat !== undefined && lon !== undefined && zoom <= 24 && Math.abs(lat) <= 90 && Math.abs(lon) <= 180;
  return {
    layers: layers === null ? null : layers.split(",").filter((id) => id !== ""),
    at: at !== null && Number.isFinite(Date.parse(at)) ? at : null,
    place: valid ? { zoom, lat, lon } : null,
  };
}

/** The query and fragment for a view; other parameters of the query stay. */
export function writeView(search: string, view: View): { search: string; hash: string } {
  const query = new URLSearchParams(search);
  const set = (name: string, value: string | null) => (value === null ? query.delete(name) : query.set(name, value));
  set("layers", view.layers === null ? null : view.layers.join(","));
  set("at", view.at);
  // Commas and colons are allowed in a query (RFC 3986 section 3.4) and an address that a person can read is worth it.
  const text = query.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
  const place = view.place;
  return {
    search: text === "" ? "" : `?${text}`,
    hash: place === null ? "" : `#${place.zoom.toFixed(2)}/${place.lat.toFixed(4)}/${place.lon.toFixed(4)}`,
  };
}

/** Replaces the address without a step in the history, and keeps the language switch leading to the same view. */
export function store(view: View): void {
  const { search, hash } = writeView(location.search, view);
  history.replaceState(history.state, "", `${location.pathname}${search}${hash}`);
  for (const link of document.querySelectorAll<HTMLAnchorElement>(".languages a")) {
    const url = new URL(link.href);
    url.search = search;
    url.hash = hash;
    link.href = url.href;
  }
}
