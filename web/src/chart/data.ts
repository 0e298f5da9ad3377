/** The pure part of the chart: aligning series, opening gaps, ranges. */

/** Milliseconds and value; `null` is a moment at which a value was due and absent. */
export type Point = [number, number | null];

/** Columns as uPlot takes them: seconds, then one column a series. `undefined` means that the series has nothing to say at this moment (the line passes), `null` a gap. */
export type Columns = [number[], ...(number | null | undefined)[][]];

/** One time axis for all series. A silence longer than `gap` milliseconds interrupts the line of its own series only. */
export function align(series: readonly (readonly Point[])[], gap: number | null): Columns {
  const opened = series.map((points) => openGaps(points, gap));
  const times = [...new Set(opened.flatMap((points) => points.map((p) => p[0])))].sort((a, b) => a - b);
  const at = new Map(times.map((t, i) => [t, i]));
  const columns = opened.map((points) => {
    const column = new Array<number | null | undefined>(times.length).fill(undefined);
    for (const [t, value] of points) {
      const i = at.get(t);
      if (i !== undefined) column[i] = value;
    }
    return column;
  });
  return [times.map((t) => t / 1_000), ...columns];
}

/** Puts a `null` into every silence longer than `gap`. */
export function openGaps(points: readonly Point[], gap: number | null): Point[] {
  if (gap === null) return [...points];
  const out: Point[] = [];
  let last: Point | undefined;
  for (const point of points) {
    if (last !== undefined && last[1] !== null && point[1] !== null && point[0] - last[0] > gap) out.push([last[0] + 1, null]);
    out.push(point);
    last = point;
  }
  return out;
}

/** Appends a live value in its place. A value for a moment already known replaces it; the oldest go when `limit` is passed. */
export function append(points: Point[], point: Point, limit: number): Point[] {
  let i = points.length;
  while (i > 0 && (points[i - 1] as Point)[0] > point[0]) i--;
  const same = i > 0 && (points[i - 1] as Point)[0] === point[0];
  const out = [...points.slice(0, same ? i - 1 : i), point, ...points.slice(i)];
  return out.length > limit ? out.slice(out.length - limit) : out;
}

/** Moves labels apart, as the server's drawing does. */
export function spread(wanted: readonly number[], distance: number, top: number, bottom: number): number[] {
  const order = wanted.map((_, i) => i).sort((a, b) => (wanted[a] as number) - (wanted[b] as number));
  const placed = [...wanted];
  let free = top;
  for (const i of order) {
    placed[i] = Math.max(wanted[i] as number, free);
    free = (placed[i] as number) + distance;
  }
  let limit = bottom;
  for (const i of order.reverse()) {
    placed[i] = Math.min(placed[i] as number, limit);
    limit = (placed[i] as number) - distance;
  }
  return placed;
}

/** A window of `factor` times the width around the same centre, within the whole. */
export function zoom(window: [number, number], whole: [number, number], factor: number): [number, number] {
  const width = Math.min((window[1] - window[0]) * factor, whole[1] - whole[0]);
  const centre = (window[0] + window[1]) / 2;
  const from = Math.min(Math.max(centre - width / 2, whole[0]), whole[1] - width);
  return [from, from + width];
}

/** The address for another period. */
export function periodUrl(source: string, from: number, to: number): string {
  const iso = (ms: number) => encodeURIComponent(new Date(ms).toISOString());
  return `${source}${source.includes("?") ? "&" : "?"}from=${iso(from)}&to=${iso(to)}`;
}

/** The points of an answer of the chart's source, series by series; what is malformed is dropped. */
export function readPoints(raw: unknown, count: number): Point[][] {
  const series = (raw as { series?: unknown } | null)?.series;
  const list = Array.isArray(series) ? series : [];
  return Array.from({ length: count }, (_, i) => {
    const points = (list[i] as { points?: unknown } | undefined)?.points;
    return (Array.isArray(points) ? points : []).filter(
      (p): p is Point => Array.isArray(p) && Number.isFinite(p[0]) && (p[1] === null || Number.isFinite(p[1])),
    );
  });
}
