import { ago } from "../shared/format";
import { type Contact, fill, stateOf, turnAt } from "./state";

/** What `settings` of `crates/sensing/src/pages/dashboards/mod.rs` writes. */
interface Settings {
  turns: string[];
  nth: number;
  every: number | null;
  refresh: number;
  tag: string;
  build: string;
  zone: string;
  language: string;
  labels: { lost: string; over: string; updated: string; pause: string; resume: string; stale: string };
}

/** Asks again so often, draws what has changed, and says loudly when nobody answers: old data must never look live. */
class Board {
  private readonly tiles: HTMLElement;
  private readonly lost: HTMLElement;
  private readonly updated: HTMLElement | null;
  private readonly wall: boolean;
  private readonly contact: Contact = { heard: Date.now(), over: false };
  private tag: string;
  private nth: number;
  private asking = false;
  private next = 0;
  private since = Date.now();
  private base: number;
  private paused = false;
  /** The server's clock minus this one: a screen on a wall is nobody's to set. */
  private skew = 0;

  constructor(private readonly root: HTMLElement, private readonly settings: Settings) {
    const find = (selector: string) => root.querySelector<HTMLElement>(selector);
    const tiles = find(".tiles");
    const lost = find(".contact-lost");
    if (tiles === null || lost === null) throw new Error("a board without tiles");
    [this.tiles, this.lost, this.updated] = [tiles, lost, find(".updated")];
    this.wall = "wall" in root.dataset;
    [this.tag, this.nth, this.base] = [settings.tag, settings.nth, settings.nth];
    this.next = Date.now() + settings.refresh * 1_000;
    this.buttons();
    setInterval(() => this.tick(), 1_000);
    window.addEventListener("online", () => this.look(true));
    document.addEventListener("visibilitychange", () => document.hidden || this.look(true));
    this.tick();
  }

  private tick(): void {
    const now = Date.now();
    const due = turnAt(now, this.since, this.paused ? null : this.settings.every, this.settings.turns.length, this.base);
    if (due !== this.nth && !document.hidden) void this.turn(due);
    // A page in the background of a phone must not keep the radio awake; a wall is never in the background.
    else if (now >= this.next && (this.wall || !document.hidden)) void this.look(false);
    const state = stateOf(this.contact, now, this.settings.refresh);
    const bad = state !== "live" && !document.hidden;
    this.root.classList.toggle("lost", bad);
    if (this.lost.hidden === bad) this.lost.hidden = !bad;
    if (bad) {
      const text = state === "over" ? this.settings.labels.over : fill(this.settings.labels.lost, { time: this.time(this.contact.heard, true) });
      // Said once, not each second: it is an alert that is read out.
      if (this.lost.textContent !== text) this.lost.textContent = text;
    }
    const clock = this.root.querySelector(".wall-clock time");
    if (clock !== null) clock.textContent = this.time(now + this.skew, true);
    if (now % 15_000 < 1_000) this.ages();
  }

  private time(at: number, seconds: boolean): string {
    const form: Intl.DateTimeFormatOptions = { timeZone: this.settings.zone, hourCycle: "h23", hour: "2-digit", minute: "2-digit" };
    if (seconds) form.second = "2-digit";
    return new Intl.DateTimeFormat("en", form).format(at);
  }

  /** How long ago things were, as time goes by. */
  private ages(): void {
    for (const time of this.tiles.querySelectorAll<HTMLTimeElement>("time[datetime]")) {
      const at = Date.parse(time.dateTime);
      // Columns write the time itself; only what counts back moves.
      if (!Number.isFinite(at) || /^\d{4}-/.test(time.textContent ?? "") || Date.now() - at > 6 * 86_400_000) continue;
      const text = ago(at, Date.now() + this.skew, this.settings.language);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  private async turn(nth: number): Promise<void> {
    if (this.asking) return;
    const before = { nth: this.nth, tag: this.tag };
    [this.nth, this.tag] = [nth, ""];
    // The old dashboard stays until the new one is there.
    if (!(await this.look(true))) [this.nth, this.tag] = [before.nth, before.tag];
    const shown = this.root.querySelector(".wall-nth");
    if (shown !== null) shown.textContent = String(this.nth + 1);
  }

  private async look(now: boolean): Promise<boolean> {
    if (this.asking || this.contact.over) return false;
    this.asking = true;
    this.next = Date.now() + (now ? 1 : this.settings.refresh) * 1_000;
    try {
      const headers: Record<string, string> = this.tag === "" ? {} : { "If-None-Match": this.tag };
      const address = this.settings.turns[this.nth] ?? "";
      const answer = await fetch(address, { headers, cache: "no-store", redirect: "error", signal: AbortSignal.timeout(15_000) });
      if (answer.status === 401 || answer.status === 403 || answer.status === 404) {
        // A wall whose dashboard is gone goes on with the others; one that may not be seen says so.
        this.contact.over = answer.status !== 404 || this.settings.turns.length < 2;
        return false;
      }
      if (answer.status !== 304 && !answer.ok) return false;
      const date = Date.parse(answer.headers.get("Date") ?? "");
      if (Number.isFinite(date) && Math.abs(date - Date.now()) > 2_000) this.skew = date - Date.now();
      this.contact.heard = Date.now();
      if (answer.status === 200) this.draw(answer, await answer.text());
      this.tag = answer.headers.get("ETag") ?? "";
      if (this.updated !== null) this.updated.textContent = fill(this.settings.labels.updated, { time: this.time(Date.now() + this.skew, true) });
      return true;
    } catch {
      return false;
    } finally {
      this.asking = false;
      this.next = Date.now() + this.settings.refresh * 1_000;
    }
  }

  private draw(answer: Response, html: string): void {
    let board: { build?: string; title?: string } = {};
    try {
      board = JSON.parse(answer.headers.get("X-Board") ?? "{}") as typeof board;
    } catch {
      // A proxy that changes headers must not stop the data.
    }
    if (board.build !== undefined && board.build !== this.settings.build) {
      // The program is another one now, and this page's styles and scripts are of the old one.
      location.reload();
      return;
    }
    if (this.wall && board.title !== undefined) {
      const title = decodeURIComponent(board.title.replace(/\+/g, " "));
      const heading = this.root.querySelector("h1");
      if (heading !== null && heading.textContent !== title) heading.textContent = title;
    }
    // Our own server's markup, escaped there; nothing in it runs, because the document it is read into has no window.
    const fresh = [...new DOMParser().parseFromString(html, "text/html").body.children];
    const old = [...this.tiles.children];
    if (fresh.length !== old.length) {
      this.tiles.replaceChildren(...fresh);
      return;
    }
    fresh.forEach((tile, nth) => {
      const before = old[nth];
      if (before === undefined || before.outerHTML === tile.outerHTML) return;
      // Where somebody is reading or typing, nothing is pulled away; it is drawn at the next look after they have gone on.
      if (before.contains(document.activeElement)) {
        this.tag = "";
        return;
      }
      keepOpen(before, tile);
      const scrolled = [...before.querySelectorAll(".table")].map((t) => [t.scrollLeft, t.scrollTop] as const);
      before.replaceWith(tile);
      tile.querySelectorAll(".table").forEach((t, n) => {
        [t.scrollLeft, t.scrollTop] = scrolled[n] ?? [0, 0];
      });
    });
  }

  private buttons(): void {
    const pause = this.root.querySelector<HTMLButtonElement>(".wall-pause");
    const turns = this.settings.turns.length;
    if (pause !== null && turns > 1) {
      pause.hidden = false;
      pause.addEventListener("click", () => {
        this.paused = !this.paused;
        [this.base, this.since] = [this.nth, Date.now()];
        pause.textContent = this.paused ? this.settings.labels.resume : this.settings.labels.pause;
      });
    }
    if (!this.wall || turns < 2) return;
    document.addEventListener("keydown", (event) => {
      const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? turns - 1 : 0;
      if (step === 0) return;
      [this.base, this.since] = [(this.nth + step) % turns, Date.now()];
      void this.turn(this.base);
    });
  }
}

function keepOpen(before: Element, tile: Element): void {
  const open = [...before.querySelectorAll("details")].map((d) => d.open);
  tile.querySelectorAll("details").forEach((d, nth) => (d.open = open[nth] ?? false));
}

/** A screen was opened with its code behind the `#`: it is sent as the form sends it, and leaves the address. */
function connect(): void {
  const form = document.querySelector<HTMLFormElement>("form[data-wall-code]");
  const code = decodeURIComponent(location.hash.slice(1));
  const field = form?.querySelector<HTMLInputElement>("input[name=code]");
  if (form === null || field === null || field === undefined || !/^[0-9A-Za-z-]{20,60}$/.test(code)) return;
  history.replaceState(null, "", location.pathname);
  field.value = code;
  form.submit();
}

for (const root of document.querySelectorAll<HTMLElement>("[data-board]")) {
  try {
    new Board(root, JSON.parse(root.dataset["board"] ?? "{}") as Settings);
  } catch (error) {
    console.warn("The dashboard could not start.", error);
  }
}
connect();
