import { AttributionControl, type GeoJSONSource, Map, Marker, NavigationControl, Popup, setWorkerUrl } from "maplibre-gl";
import { compact, quantity } from "../shared/format";
import { el, onSchemeChange, reducedMotion, token } from "../shared/island";
import { subscribe } from "../shared/live";
import { PATHS, STATES, type State, asState, isOpen } from "../shared/shapes";
import { type Collection, type Feature, isComplete, layerUrl, merge, prepare } from "./features";
import { PIXEL_RATIO, draw } from "./icons";
import { type Playback, type Track, controls as player, lines, place, tracksOf } from "./playback";
import { type View, readView, store } from "./state";

declare const MAP_WORKER: string;

export interface Props {
  language: string;
  zone: string;
  /** Address of the GeoJSON outline of the land and its districts. */
  base: string;
  /** West, south, east, north. */
  bounds: [number, number, number, number];
  /** How far one may move away; without it the bounds with a margin. */
  maxBounds?: [number, number, number, number];
  /** `windowed`: the layer has too many places to ask for all of them at once. */
  layers: { id: string; name: string; url: string; on: boolean; windowed?: boolean }[];
  /** Names on the map, in the page's language. */
  places?: { name: string; lon: number; lat: number; zoom?: number }[];
  /** Address of the live stream. */
  live?: string;
  /** RFC 3339 ends and a step in seconds. */
  slider?: { from: string; to: string; step: number };
  /** The period that is played back, in place of the slider. */
  playback?: Playback;
  /** Words on the page's language; see `ui::map_labels`. */
  labels: Record<string, string> & { states: Record<string, string> };
  attribution?: string;
}

interface Layer {
  id: string;
  url: string;
  windowed: boolean;
  /** Every place in sight is drawn by itself. */
  complete: boolean;
  data: Collection;
  dirty: boolean;
  loading: AbortController | null;
}

/** The window must rest for so long before its places are asked for. */
const SETTLE_MS = 250;
/** Redrawing a source re-clusters it: once a second is enough for eyes. */
const REDRAW_MS = 1_000;

export async function start(element: HTMLElement, props: Props): Promise<void> {
  const words = (key: string) => (props.labels as Record<string, string>)[key] ?? key;
  const view = readView(location.search, location.hash);
  if (props.playback) view.at = props.playback.at;
  let tracks = new globalThis.Map<string, Track>();
  const shown = new Set(view.layers ?? props.layers.filter((l) => l.on).map((l) => l.id));
  const layers: Layer[] = props.layers.map((l) => ({
    id: l.id,
    url: l.url,
    windowed: l.windowed === true,
    complete: true,
    data: prepare(null),
    dirty: false,
    loading: null,
  }));

  const frame = el("div", { class: "map-frame" });
  const status = el("p", { class: "map-status", role: "status" });
  setWorkerUrl(new URL(`/assets/${MAP_WORKER}`, location.href).href);
  const [west, south, east, north] = props.bounds;
  const margin = Math.max(east - west, north - south);
  // The frame must be in the page to have a size; should there be no WebGL it goes again and what the server drew stays.
  element.prepend(frame);
  let map: Map;
  try {
    map = new Map({
      container: frame,
      style: { version: 8, sources: {}, layers: [] },
      ...(view.place
        ? { center: [view.place.lon, view.place.lat] as [number, number], zoom: view.place.zoom }
        : { bounds: props.bounds, fitBoundsOptions: { padding: 16 } }),
      maxBounds: props.maxBounds ?? [west - margin, south - margin, east + margin, north + margin],
      attributionControl: false,
      dragRotate: false,
      pitchWithRotate: false,
      touchPitch: false,
      maxZoom: 19,
      fadeDuration: reducedMotion() ? 0 : 200,
      locale: {
        "NavigationControl.ZoomIn": words("zoomIn"),
        "NavigationControl.ZoomOut": words("zoomOut"),
        "NavigationControl.ResetBearing": words("north"),
        "AttributionControl.ToggleAttribution": words("attribution"),
        "Map.Title": words("map"),
        "Popup.Close": words("close"),
      },
    });
  } catch (error) {
    frame.remove();
    throw error;
  }
  element.replaceChildren(frame, status);
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.addControl(new NavigationControl({ showCompass: false }), "top-right");
  if (props.attribution) map.addControl(new AttributionControl({ compact: true, customAttribution: props.attribution }));

  // ---- style: land and sea in two quiet tones, data loud -----------------------------------------
  map.setMissingStyleImageResolver((name) => {
    const image = draw(name);
    if (image !== null && !map.hasImage(name)) map.addImage(name, image, { pixelRatio: PIXEL_RATIO });
  });
  const paint = () => {
    map.setPaintProperty("sea", "background-color", token("--sea"));
    map.setPaintProperty("land", "fill-color", token("--land"));
    map.setPaintProperty("shore", "line-color", token("--shore"));
    if (map.getLayer("tracks")) map.setPaintProperty("tracks", "line-color", token("--action"));
    if (map.getLayer("fences")) map.setPaintProperty("fences", "line-color", token("--warning"));
  };
  await new Promise<void>((ready) => map.once("load", () => ready()));
  map.addLayer({ id: "sea", type: "background" });
  map.addSource("base", { type: "geojson", data: new URL(props.base, location.href).href, tolerance: 0.3 });
  map.addLayer({ id: "land", type: "fill", source: "base" });
  map.addLayer({ id: "shore", type: "line", source: "base", paint: { "line-width": 1 } });
  if (props.playback) {
    const empty: GeoJSON.FeatureCollection = { type: "FeatureCollection", features: [] };
    for (const id of ["fences", "tracks"]) map.addSource(id, { type: "geojson", data: empty });
    map.addLayer({ id: "fences", type: "line", source: "fences", paint: { "line-width": 1.5, "line-dasharray": [4, 3] } });
    map.addLayer({ id: "tracks", type: "line", source: "tracks", layout: { "line-cap": "round", "line-join": "round" }, paint: { "line-width": 2.5, "line-opacity": 0.7 } });
  }
  paint();
  onSchemeChange(() => {
    paint();
    for (const name of map.listImages()) {
      const image = draw(name);
      if (image !== null) map.updateImage(name, image);
    }
  });
  const places = (props.places ?? []).map((place) => {
    const label = el("span", { class: "map-place", "aria-hidden": "true" }, place.name);
    new Marker({ element: label, anchor: "center" }).setLngLat([place.lon, place.lat]).addTo(map);
    return { label, zoom: place.zoom ?? 9.5 };
  });
  const showPlaces = () => places.forEach((p) => (p.label.hidden = map.getZoom() < p.zoom));
  map.on("zoomend", showPlaces);
  showPlaces();

  // ---- layers: clusters, then shapes -------------------------------------------------------------
  for (const layer of layers) {
    map.addSource(layer.id, {
      type: "geojson",
      data: layer.data,
      cluster: true,
      clusterRadius: 36,
      clusterMaxZoom: 13,
      clusterProperties: {
        rank: ["max", ["get", "rank"]],
        things: ["+", ["get", "things"]],
        more: ["any", ["get", "more"]],
      },
      promoteId: "id",
    });
    const visibility = shown.has(layer.id) ? "visible" : "none";
    map.addLayer({
      id: `${layer.id}:cluster`,
      type: "symbol",
      source: layer.id,
      filter: [">", ["get", "things"], 1],
      layout: {
        visibility,
        "icon-image": [
          "concat",
          "cluster:",
          ["to-string", ["get", "rank"]],
          ":",
          ["case", [">=", ["get", "things"], 1_000], ["concat", ["to-string", ["round", ["/", ["get", "things"], 1_000]]], "k"], ["to-string", ["get", "things"]]],
          ["case", ["get", "more"], "+", ""],
        ],
        "icon-allow-overlap": true,
      },
    });
    map.addLayer({
      id: `${layer.id}:thing`,
      type: "symbol",
      source: layer.id,
      filter: ["<=", ["get", "things"], 1],
      layout: {
        visibility,
        "icon-image": [
          "concat",
          "thing:",
          ["get", "state"],
          ":",
          ["to-string", ["boolean", ["get", "simulated"], false]],
          ":",
          ["to-string", ["boolean", ["get", "stale"], false]],
        ],
        "icon-allow-overlap": true,
        "symbol-sort-key": ["get", "rank"],
      },
    });
  }

  const save = () => {
    const centre = map.getCenter();
    const on = props.layers.filter((l) => shown.has(l.id)).map((l) => l.id);
    const usual = props.layers.filter((l) => l.on).map((l) => l.id);
    const next: View = {
      layers: on.join() === usual.join() ? null : on,
      at: view.at,
      place: { zoom: map.getZoom(), lat: centre.lat, lon: centre.lng },
    };
    store(next);
  };
  map.on("moveend", save);

  const load = async (layer: Layer) => {
    layer.loading?.abort();
    const loading = (layer.loading = new AbortController());
    try {
      const response = await fetch(layerUrl(layer.url, view.at, layer.windowed ? map.getBounds().toArray().flat() : null), { signal: loading.signal, headers: { accept: "application/geo+json, application/json" } });
      if (!response.ok) throw new Error(`${layer.url} answered ${response.status}`);
      const answer: unknown = await response.json();
      layer.data = prepare(answer);
      layer.complete = isComplete(answer);
      if (props.playback && view.at !== null) place(layer.data, tracks, Date.parse(view.at));
      map.getSource<GeoJSONSource>(layer.id)?.setData(layer.data);
      tell();
      refreshPopup();
    } catch (error) {
      if (loading.signal.aborted) return;
      console.warn(error);
      status.textContent = words("failed");
    } finally {
      if (layer.loading === loading) layer.loading = null;
    }
  };

  /** Says when places are gathered: what is not drawn must not look as if it were not there. */
  const tell = () => {
    status.textContent = layers.some((l) => shown.has(l.id) && !l.complete) ? words("gathered") : "";
  };
  let settling = 0;
  map.on("moveend", () => {
    clearTimeout(settling);
    settling = window.setTimeout(() => {
      for (const layer of layers) if (layer.windowed && shown.has(layer.id)) void load(layer);
    }, SETTLE_MS);
  });

  // ---- popup --------------------------------------------------------------------------------------
  const popup = new Popup({ maxWidth: "20rem", offset: 16, focusAfterOpen: true });
  let selected: { layer: Layer; id: string } | null = null;
  const content = (feature: Feature): HTMLElement => {
    const p = feature.properties;
    const state = asState(p.state);
    const box = el("div", { class: "map-popup" }, el("p", { class: "map-popup-name" }, p.name));
    const value = quantity(p.value, p.unit ?? "", words("none"));
    box.append(el("p", { class: "map-popup-value" }, value));
    const marks = el("p", { class: "map-popup-marks" }, badge(state, props.labels.states[state] ?? state));
    if (p.simulated) marks.append(el("span", { class: "simulated" }, words("simulated")));
    if (p.stale) marks.append(el("span", { class: "stale-mark" }, words("stale")));
    box.append(marks);
    if (p.asOf !== null) {
      box.append(el("p", {}, el("time", { datetime: p.asOf }, compact(Date.parse(p.asOf), props.zone))));
    }
    // Addresses come from our own server, yet a script address would be one mistake away.
    if (/^\/(?!\/)/.test(p.href ?? "")) box.append(el("a", { href: p.href }, words("open")));
    return box;
  };
  const find = (layer: Layer, id: string) => layer.data.features.find((f) => f.properties.id === id);
  const mark = () => {
    for (const row of document.querySelectorAll<HTMLElement>("[data-feature]")) {
      const current = selected !== null && row.dataset["feature"] === `${selected.layer.id}/${selected.id}`;
      row.toggleAttribute("data-current", current);
      if (current) row.scrollIntoView({ block: "nearest", behavior: reducedMotion() ? "auto" : "smooth" });
    }
  };
  const select = (layer: Layer, feature: Feature) => {
    const [lon, lat] = feature.geometry.coordinates as [number, number];
    popup.setLngLat([lon, lat]).setDOMContent(content(feature)).addTo(map);
    selected = { layer, id: feature.properties.id };
    mark();
  };
  const refreshPopup = () => {
    if (selected === null || !popup.isOpen()) return;
    const feature = find(selected.layer, selected.id);
    if (feature !== undefined) popup.setDOMContent(content(feature));
  };
  popup.on("close", () => {
    selected = null;
    mark();
  });
  for (const layer of layers) {
    map.on("click", `${layer.id}:thing`, (event) => {
      const id = event.features?.[0]?.properties["id"] as string | undefined;
      const feature = id === undefined ? undefined : find(layer, String(id));
      if (feature !== undefined) select(layer, feature);
    });
    map.on("click", `${layer.id}:cluster`, async (event) => {
      const found = event.features?.[0];
      const source = map.getSource<GeoJSONSource>(layer.id);
      if (found === undefined || source === undefined) return;
      // What the server has gathered comes apart when a smaller window is asked for.
      const id = found.properties["cluster_id"] as number | undefined;
      const zoom = id === undefined ? map.getZoom() + 1.5 : await source.getClusterExpansionZoom(Number(id));
      const center = (found.geometry as GeoJSON.Point).coordinates as [number, number];
      const target = { center, zoom: zoom + 0.5 };
      reducedMotion() ? map.jumpTo(target) : map.easeTo(target);
    });
    for (const part of ["thing", "cluster"]) {
      map.on("mouseenter", `${layer.id}:${part}`, () => (map.getCanvas().style.cursor = "pointer"));
      map.on("mouseleave", `${layer.id}:${part}`, () => (map.getCanvas().style.cursor = ""));
    }
  }

  // ---- the list beside the map -----------------------------------------------------------------
  // A row says `data-feature="<layer>/<id>"`; pointing at it rings the place, `data-show` inside it goes there.
  const ring = new Marker({ element: el("span", { class: "map-ring", "aria-hidden": "true" }) });
  const rowFeature = (target: EventTarget | null): [Layer, Feature] | null => {
    const name = (target as Element | null)?.closest?.<HTMLElement>("[data-feature]")?.dataset["feature"];
    const cut = name?.indexOf("/") ?? -1;
    if (name === undefined || cut < 0) return null;
    const layer = layers.find((l) => l.id === name.slice(0, cut));
    const feature = layer && find(layer, name.slice(cut + 1));
    return layer && feature ? [layer, feature] : null;
  };
  const point = (event: Event) => {
    const found = rowFeature(event.target);
    if (found === null) ring.remove();
    else ring.setLngLat(found[1].geometry.coordinates as [number, number]).addTo(map);
  };
  document.addEventListener("pointerover", point);
  document.addEventListener("focusin", point);
  document.addEventListener("click", (event) => {
    if (!(event.target as Element | null)?.closest?.("[data-show]")) return;
    const found = rowFeature(event.target);
    if (found === null) return;
    event.preventDefault();
    const [layer, feature] = found;
    const target = { center: feature.geometry.coordinates as [number, number], zoom: Math.max(map.getZoom(), 14.5) };
    reducedMotion() ? map.jumpTo(target) : map.easeTo(target);
    select(layer, feature);
  });

  // ---- controls: layers, legend, time ----------------------------------------------------------
  const controls = el("div", { class: "map-controls" });
  const boxes = el("fieldset", {}, el("legend", {}, words("layers")));
  const rows = () => {
    for (const row of document.querySelectorAll<HTMLElement>("[data-layer]")) row.hidden = !shown.has(row.dataset["layer"] ?? "");
  };
  for (const [i, { id, name }] of props.layers.entries()) {
    const box = el("input", { type: "checkbox" });
    box.checked = shown.has(id);
    box.addEventListener("change", () => {
      if (box.checked) shown.add(id);
      else shown.delete(id);
      for (const part of ["cluster", "thing"]) map.setLayoutProperty(`${id}:${part}`, "visibility", box.checked ? "visible" : "none");
      const layer = layers[i];
      if (box.checked && layer !== undefined) void load(layer);
      if (!box.checked && selected?.layer.id === id) popup.remove();
      rows();
      tell();
      save();
    });
    boxes.append(el("label", { class: "choice" }, box, name));
  }
  controls.append(boxes);
  // The page may carry a legend of its own; where it does not, the map brings one.
  if (document.querySelector(".legend") === null) {
    const legend = el("ul", { class: "legend", "aria-label": words("legend") });
    for (const state of STATES) legend.append(el("li", {}, badge(state, props.labels.states[state] ?? state)));
    controls.append(legend);
  }
  if (props.slider) {
    const { slider } = props;
    const moved = (at: string | null) => {
      view.at = at;
      popup.remove();
      for (const layer of layers) if (shown.has(layer.id)) void load(layer);
      save();
    };
    controls.append(timeSlider(slider, view.at, props.zone, words, moved));
  }
  if (props.playback) {
    const { playback } = props;
    // What stands still says what it said then: asked for again when playing has gone on for a while, and one answer at a time.
    const while_ms = Math.max(60_000, (Date.parse(playback.to) - Date.parse(playback.from)) / 60);
    let asked = Date.parse(playback.at);
    let waiting = 0;
    const moved = (at: number, playing: boolean) => {
      view.at = new Date(at).toISOString().replace(".000Z", "Z");
      for (const layer of layers) {
        if (shown.has(layer.id) && place(layer.data, tracks, at)) map.getSource<GeoJSONSource>(layer.id)?.setData(layer.data);
      }
      const ask = () => {
        asked = at;
        for (const layer of layers) if (shown.has(layer.id)) void load(layer);
      };
      clearTimeout(waiting);
      if (!playing) waiting = window.setTimeout(() => (ask(), save()), 200);
      else if (Math.abs(at - asked) >= while_ms && layers.every((l) => l.loading === null)) ask();
    };
    controls.append(player(playback, asked, props.zone, words, moved));
    const asks = async (url: string) => {
      const response = await fetch(url, { headers: { accept: "application/json" } });
      if (!response.ok) throw new Error(`${url} answered ${response.status}`);
      return (await response.json()) as unknown;
    };
    const failed = (error: unknown) => {
      console.warn(error);
      status.textContent = words("failed");
    };
    asks(playback.tracks)
      .then((answer) => {
        tracks = tracksOf(answer);
        map.getSource<GeoJSONSource>("tracks")?.setData(lines(tracks));
        moved(view.at === null ? asked : Date.parse(view.at), true);
      })
      .catch(failed);
    if (playback.fences) asks(playback.fences).then((answer) => map.getSource<GeoJSONSource>("fences")?.setData(answer as GeoJSON.FeatureCollection)).catch(failed);
  }
  element.append(controls);
  rows();
  for (const layer of layers) if (shown.has(layer.id)) void load(layer);

  // ---- live values -------------------------------------------------------------------------------
  if (props.live) {
    subscribe(props.live, null, (observation) => {
      if (view.at !== null) return;
      for (const layer of layers) if (merge(layer.data, observation)) layer.dirty = true;
    });
    setInterval(() => {
      for (const layer of layers) {
        if (!layer.dirty) continue;
        layer.dirty = false;
        map.getSource<GeoJSONSource>(layer.id)?.setData(layer.data);
        if (selected?.layer === layer) refreshPopup();
      }
    }, REDRAW_MS);
  }
}

function badge(state: State, word: string): HTMLElement {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", `shape ${state}`);
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[state]);
  if (isOpen(state)) path.setAttribute("class", "open");
  svg.append(path);
  return el("span", { class: `badge ${state}` }, svg, word);
}

/** A range input whose last step is "now". Moving it asks for the layers as they were then. */
function timeSlider(
  slider: { from: string; to: string; step: number },
  at: string | null,
  zone: string,
  words: (key: string) => string,
  moved: (at: string | null) => void,
): HTMLElement {
  const from = Date.parse(slider.from);
  const step = slider.step * 1_000;
  const last = Math.max(1, Math.ceil((Date.parse(slider.to) - from) / step));
  const moment = (i: number) => (i >= last ? null : new Date(from + i * step).toISOString().replace(".000Z", "Z"));
  const input = el("input", { type: "range", min: "0", max: String(last), step: "1", "aria-label": words("time") });
  input.value = at === null ? String(last) : String(Math.min(last - 1, Math.max(0, Math.round((Date.parse(at) - from) / step))));
  const output = el("output", { class: "number" });
  const play = el("button", { type: "button", class: "button quiet" }, words("play"));
  const now = el("button", { type: "button", class: "button quiet" }, words("now"));
  let timer = 0;
  let waiting = 0;
  const show = () => {
    const value = moment(Number(input.value));
    const text = value === null ? words("now") : compact(Date.parse(value), zone);
    output.textContent = text;
    input.setAttribute("aria-valuetext", text);
  };
  const set = (i: number) => {
    input.value = String(i);
    show();
    // While the thumb is dragged only its last place is asked for.
    clearTimeout(waiting);
    waiting = window.setTimeout(() => moved(moment(Number(input.value))), 200);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = words("play");
  };
  input.addEventListener("input", () => {
    stop();
    set(Number(input.value));
  });
  now.addEventListener("click", () => {
    stop();
    set(last);
  });
  play.addEventListener("click", () => {
    if (timer !== 0) return stop();
    if (Number(input.value) >= last) set(0);
    play.textContent = words("pause");
    timer = window.setInterval(() => {
      const next = Number(input.value) + 1;
      set(next);
      if (next >= last) stop();
    }, 1_200);
  });
  show();
  return el("div", { class: "map-time" }, play, input, output, now);
}
