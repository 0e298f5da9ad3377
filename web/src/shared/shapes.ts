/** The states and their shapes, the same as `ui::State`: a state is told by its outline first, by its colour second. */
export const STATES = ["good", "notice", "warning", "alarm", "offline", "unknown"] as const;
export type State = (typeof STATES)[number];

export function asState(value: unknown): State {
  return STATES.includes(value as State) ? (value as State) : "unknown";
}

/** How urgent a state is: a cluster shows the most urgent of its members. */
export const RANK: Record<State, number> = { unknown: 0, good: 1, offline: 2, notice: 3, warning: 4, alarm: 5 };

export function byRank(rank: number): State {
  return STATES.find((state) => RANK[state] === rank) ?? "unknown";
}

/** SVG path data in a 16 by 16 box. */
export const PATHS: Record<State, string> = {
  good: "M14 8A6 6 0 1 1 2 8a6 6 0 1 1 12 0z",
  notice: "M2.5 2.5h11v11h-11z",
  warning: "M8 1 15.5 15H.5z",
  alarm: "M5 .5h6L15.5 5v6L11 15.5H5L.5 11V5z",
  offline: "M14 8A6 6 0 1 1 2 8a6 6 0 1 1 12 0zM3.8 12.2l8.4-8.4",
  unknown: "M14 8A6 6 0 1 1 2 8a6 6 0 1 1 12 0z",
};

/** Name of the colour token of a state. */
export const TOKENS: Record<State, string> = {
  good: "--good",
  notice: "--s1",
  warning: "--warning",
  alarm: "--alarm",
  offline: "--muted",
  unknown: "--muted",
};

export const isOpen = (state: State): boolean => state === "offline" || state === "unknown";
