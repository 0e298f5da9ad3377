import { ago, compact, number } from "../shared/format";
import { subscribe } from "../shared/live";

/** Keeps the page's live numbers current: value, time, and whether they have grown old. */
interface Tile {
  element: HTMLElement;
  id: string;
}

const tiles: Tile[] = [...document.querySelectorAll<HTMLElement>(".live[data-datastream]")].map((element) => ({
  element,
  id: element.dataset["datastream"] ?? "",
}));
const language = document.documentElement.lang;
const zone = document.documentElement.dataset["zone"] ?? "UTC";

function tick(): void {
  for (const { element } of tiles) {
    const time = element.querySelector("time");
    if (time === null) continue;
    const at = Date.parse(time.dateTime);
    const text = ago(at, Date.now(), language);
    if (time.textContent !== text) time.textContent = text;
    const limit = Number(element.dataset["staleAfter"]);
    const stale = limit > 0 && Date.now() - at > limit * 1_000;
    element.classList.toggle("stale", stale);
    const mark = element.querySelector<HTMLElement>(".stale-mark");
    if (mark !== null) mark.hidden = !stale;
  }
}

if (tiles.length > 0) {
  const url = document.documentElement.dataset["live"] ?? "/api/live";
  subscribe(url, tiles.map((t) => t.id), (observation) => {
    for (const { element, id } of tiles) {
      if (id !== observation.datastream || observation.value === null) continue;
      const value = element.querySelector("data");
      const time = element.querySelector("time");
      if (value === null || time === null || Date.parse(time.dateTime) > observation.at) continue;
      value.value = String(observation.value);
      value.textContent = number(observation.value, Number(element.dataset["decimals"] ?? 0));
      time.dateTime = new Date(observation.at).toISOString();
      time.title = `${compact(observation.at, zone)} ${zone}`;
      // The arrow belonged to the value before.
      element.querySelector(".trend")?.remove();
    }
    tick();
  });
  setInterval(tick, 15_000);
}
