/** What an open dashboard knows of its contact with the city, without a page or a clock: so that it can be tried. */
export interface Contact {
  /** When something was last heard, in milliseconds. */
  heard: number;
  /** The city has said that this may not be seen any more. */
  over: boolean;
}

export type State = "live" | "lost" | "over";

/** Two looks may be missed, and a little for the network; then what is seen must not look live any more. */
export function limit(refresh: number): number {
  return refresh * 2_000 + 5_000;
}

export function stateOf(contact: Contact, now: number, refresh: number): State {
  if (contact.over) return "over";
  // A clock that was set back is no contact either.
  const silent = now - contact.heard;
  return silent > limit(refresh) || silent < -limit(refresh) ? "lost" : "live";
}

/** The turn that is due: the dashboards follow each other, however long a page slept. */
export function turnAt(now: number, since: number, every: number | null, count: number, first: number): number {
  if (every === null || count < 2) return first;
  return (first + Math.max(0, Math.floor((now - since) / (every * 1_000)))) % count;
}

/** `{time}` in a text. */
export const fill = (text: string, values: Record<string, string>): string =>
  text.replace(/\{([a-z]+)\}/g, (whole, name: string) => values[name] ?? whole);
