import { type Observation, parseObservation } from "./observation";

type Listener = (observation: Observation) => void;

/** A server may refuse a longer address; beyond this everything is asked for and filtered here. */
const MAX_FILTER = 100;

interface Want {
  ids: ReadonlySet<string> | null;
  listener: Listener;
}

let wants: Want[] = [];
let source: EventSource | null = null;
let address = "";
let planned = false;

/**
 * Live observations of some Datastreams, or of all (`null`). All islands of a page share one connection, because a browser
 * opens only six to a host over HTTP/1.1. `?datastreams=1,2` tells the server what is needed; a server that ignores it is filtered here.
 */
export function subscribe(url: string, ids: Iterable<string> | null, listener: Listener): () => void {
  const want: Want = { ids: ids === null ? null : new Set(ids), listener };
  wants.push(want);
  plan(url);
  return () => {
    wants = wants.filter((w) => w !== want);
    plan(url);
  };
}

export function liveAddress(url: string, wanted: readonly (ReadonlySet<string> | null)[]): string {
  const ids = new Set<string>();
  for (const set of wanted) {
    if (set === null) return url;
    for (const id of set) ids.add(id);
  }
  if (ids.size === 0 || ids.size > MAX_FILTER) return url;
  const list = [...ids].sort().map(encodeURIComponent).join(",");
  return `${url}${url.includes("?") ? "&" : "?"}datastreams=${list}`;
}

function plan(url: string): void {
  if (planned) return;
  planned = true;
  queueMicrotask(() => {
    planned = false;
    const next = wants.length === 0 ? "" : liveAddress(url, wants.map((w) => w.ids));
    if (next === address) return;
    source?.close();
    source = null;
    address = next;
    if (next !== "") open(next);
  });
}

function open(url: string): void {
  source = new EventSource(url);
  // The browser reconnects by itself, with the delay the server names and the last id it saw.
  source.addEventListener("observation", (event) => {
    const observation = parseObservation((event as MessageEvent<string>).data);
    if (observation === null) return;
    for (const want of wants) {
      if (want.ids === null || want.ids.has(observation.datastream)) want.listener(observation);
    }
  });
}

// A page in the background of a phone must not keep the radio awake.
if (typeof document !== "undefined") {
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (source === null && address !== "") {
      open(address);
    }
  });
}
