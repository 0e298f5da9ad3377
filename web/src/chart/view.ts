import uPlot from "uplot";
import { compact, number, quantity } from "../shared/format";
import { el, onSchemeChange, token } from "../shared/island";
import { subscribe } from "../shared/live";
import { type Columns, type Point, align, append, periodUrl, readPoints, spread, zoom } from "./data";

/** What `ui::LineChart` writes. */
export interface Props {
  title: string;
  unit: string;
  decimals: number;
  language: string;
  zone: string;
  from: number;
  to: number;
  gap: number | null;
  fromZero: boolean;
  simulated: boolean;
  series: { name: string; datastream: string | null; points: Point[] }[];
  thresholds: { name: string; value: number }[];
  source: string | null;
  live?: string;
  labels: Record<"day" | "week" | "month" | "all" | "reset" | "png" | "time" | "help" | "none" | "simulated", string>;
}

const DAY = 86_400_000;
const MAX_POINTS = 20_000;
const HEIGHT = 304;

export function start(element: HTMLElement, props: Props): void {
  const figure = element.closest("figure");
  let points = props.series.map((s) => s.points);
  let data: Columns = align(points, props.gap);
  let whole: [number, number] = [props.from / 1_000, props.to / 1_000];
  let window_: [number, number] = [...whole];

  const box = el("div", { class: "chart-box", tabindex: "0", role: "application", "aria-label": `${props.title}. ${props.labels.help}` });
  const readout = el("p", { class: "chart-readout number", "aria-live": "polite" });
  const colour = (i: number) => token(`--s${i + 1}`);
  const font = () => `${14 * devicePixelRatio}px ${getComputedStyle(element).fontFamily}`;
  const axisFont = () => `14px ${getComputedStyle(element).fontFamily}`;
  const narrow = () => element.clientWidth < 560;
  const endsWidth = () => (narrow() ? 104 : 136);

  // Names at the lines' ends, thresholds across: drawn over uPlot's own canvas.
  const overlay: uPlot.Plugin = {
    hooks: {
      draw: (u) => {
        const ratio = devicePixelRatio;
        const { left, top, width, height } = u.bbox;
        const ctx = u.ctx;
        ctx.save();
        const labels: { y: number; colour: string; text: string }[] = [];
        for (const { name, value } of props.thresholds) {
          const y = u.valToPos(value, "y", true);
          if (y < top || y > top + height) continue;
          ctx.strokeStyle = token("--alarm");
          ctx.lineWidth = 1.5 * ratio;
          ctx.setLineDash([6 * ratio, 4 * ratio]);
          ctx.beginPath();
          ctx.moveTo(left, y);
          ctx.lineTo(left + width, y);
          ctx.stroke();
          labels.push({ y, colour: token("--alarm"), text: name });
        }
        ctx.setLineDash([]);
        props.series.forEach((s, i) => {
          const last = lastWithin(data, i + 1, u.scales["x"]?.max ?? whole[1]);
          if (last === null) return;
          const y = Math.min(Math.max(u.valToPos(last, "y", true), top), top + height);
          const text = props.series.length === 1 ? quantity(last, props.unit, props.labels.none, props.decimals) : s.name;
          labels.push({ y, colour: colour(i), text });
        });
        const placed = spread(labels.map((l) => l.y), 18 * ratio, top, top + height);
        ctx.font = `600 ${font()}`;
        ctx.textBaseline = "middle";
        ctx.textAlign = "left";
        labels.forEach((label, i) => {
          const y = placed[i] as number;
          const x = left + width;
          ctx.strokeStyle = label.colour;
          ctx.lineWidth = 1.5 * ratio;
          ctx.beginPath();
          ctx.moveTo(x, label.y);
          ctx.lineTo(x + 8 * ratio, y);
          ctx.lineTo(x + 12 * ratio, y);
          ctx.stroke();
          ctx.fillStyle = token("--ink");
          ctx.fillText(fit(ctx, label.text, (endsWidth() - 18) * ratio), x + 16 * ratio, y);
        });
        ctx.restore();
      },
    },
  };

  const options: uPlot.Options = {
    width: element.clientWidth,
    height: HEIGHT,
    padding: [10, endsWidth(), 0, 0],
    legend: { show: false },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1_000), props.zone),
    cursor: { drag: { x: true, y: false, uni: 20 }, points: { size: 8 } },
    scales: {
      x: { time: true, range: () => window_ },
      y: {
        range: (_u, low, high) => {
          const values = [low, high, ...props.thresholds.map((t) => t.value), ...(props.fromZero ? [0] : [])].filter(Number.isFinite);
          return uPlot.rangeNum(Math.min(...values), Math.max(...values), 0.1, true);
        },
      },
    },
    axes: [
      {
        stroke: () => token("--muted"),
        grid: { show: false },
        ticks: { stroke: () => token("--hairline"), width: 1 },
        font: axisFont(),
        space: 72,
        values: (_u, splits, _axis, _space, step) => splits.map((s) => tickLabel(s, step, props)),
      },
      {
        stroke: () => token("--muted"),
        grid: { stroke: () => token("--hairline"), width: 1 },
        ticks: { show: false },
        font: axisFont(),
        size: narrow() ? 44 : 56,
        values: (_u, splits) => {
          const places = decimalPlaces(splits);
          return splits.map((v) => number(v, places));
        },
      },
    ],
    series: [
      {},
      ...props.series.map(
        (s, i): uPlot.Series => ({ label: s.name, stroke: () => colour(i), width: 2, spanGaps: false, points: { show: false } }),
      ),
    ],
    hooks: {
      setCursor: [(u) => show(u.cursor.idx ?? null)],
      setSelect: [
        (u) => {
          if (u.select.width < 8) return;
          const from = u.posToVal(u.select.left, "x");
          const to = u.posToVal(u.select.left + u.select.width, "x");
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          look([from, to]);
        },
      ],
    },
    plugins: [overlay],
  };

  const unit = el("p", { class: "axis-unit", "aria-hidden": "true" }, props.unit);
  const buttons = el("div", { class: "chart-buttons" });
  const chart = new uPlot(options, data as uPlot.AlignedData, box);
  // Drawn: what the server drew may go. The box keeps its height, so nothing below it moves.
  element.replaceChildren(unit, box, readout, buttons);
  chart.setSize({ width: element.clientWidth, height: HEIGHT });

  function show(i: number | null): void {
    const at = i === null ? undefined : data[0][i];
    if (i === null || at === undefined) {
      readout.textContent = "";
      return;
    }
    const values = props.series.map((s, n) => {
      const value = nearest(data[n + 1] as (number | null | undefined)[], i);
      const text = quantity(value, props.unit, props.labels.none, props.decimals);
      return props.series.length === 1 ? text : `${s.name} ${text}`;
    });
    readout.textContent = `${compact(at * 1_000, props.zone)}  ${values.join(" · ")}`;
  }

  let request: AbortController | null = null;
  async function look(next: [number, number]): Promise<void> {
    window_ = next;
    chart.setScale("x", { min: next[0], max: next[1] });
    if (props.source === null) return;
    // The drawing zooms at once with what is here; finer values replace it when they arrive.
    request?.abort();
    const mine = (request = new AbortController());
    try {
      const response = await fetch(periodUrl(props.source, next[0] * 1_000, next[1] * 1_000), { signal: mine.signal });
      if (!response.ok) return;
      points = readPoints(await response.json(), props.series.length);
      redraw();
    } catch (error) {
      if (!mine.signal.aborted) console.warn(error);
    }
  }
  function redraw(): void {
    data = align(points, props.gap);
    chart.setData(data as uPlot.AlignedData, false);
    chart.setScale("x", { min: window_[0], max: window_[1] });
  }

  // ---- keyboard ----------------------------------------------------------------------------------
  let index = data[0].length;
  box.addEventListener("keydown", (event) => {
    const move = (to: number) => {
      index = Math.min(Math.max(to, 0), data[0].length - 1);
      const at = data[0][index];
      if (at !== undefined) chart.setCursor({ left: chart.valToPos(at, "x"), top: chart.over.clientHeight / 2 });
    };
    const actions: Record<string, () => void> = {
      ArrowLeft: () => move(index - 1),
      ArrowRight: () => move(index + 1),
      Home: () => move(0),
      End: () => move(data[0].length - 1),
      "+": () => void look(zoom(window_, whole, 0.5)),
      "-": () => void look(zoom(window_, whole, 2)),
      "0": () => void look([...whole]),
    };
    const action = event.ctrlKey || event.metaKey || event.altKey ? undefined : actions[event.key];
    if (action === undefined) return;
    event.preventDefault();
    action();
  });

  // ---- buttons -----------------------------------------------------------------------------------
  const button = (text: string, act: () => void) => {
    const b = el("button", { type: "button", class: "button quiet" }, text);
    b.addEventListener("click", act);
    buttons.append(b);
  };
  const span = props.to - props.from;
  const back = (ms: number) => () => void look([whole[1] - ms / 1_000, whole[1]]);
  if (props.source !== null || span > DAY) button(props.labels.day, back(DAY));
  if (props.source !== null || span > 7 * DAY) button(props.labels.week, back(7 * DAY));
  if (props.source !== null || span > 30 * DAY) button(props.labels.month, back(30 * DAY));
  button(props.labels.reset, () => void look([...whole]));
  button(props.labels.png, () => save(chart, props));

  // ---- live --------------------------------------------------------------------------------------
  const ids = props.series.map((s) => s.datastream);
  const known = ids.filter((id): id is string => id !== null);
  if (known.length > 0) {
    let planned = false;
    subscribe(props.live ?? "/api/live", known, (observation) => {
      const i = ids.indexOf(observation.datastream);
      if (i < 0) return;
      const at = observation.at;
      points[i] = append(points[i] ?? [], [at, observation.value], MAX_POINTS);
      const atEnd = Math.abs(window_[1] - whole[1]) < 1;
      if (at / 1_000 > whole[1]) {
        const by = at / 1_000 - whole[1];
        whole = [whole[0] + by, whole[1] + by];
        // Whoever looks at the present keeps looking at the present; whoever looks back is not pushed.
        if (atEnd) window_ = [window_[0] + by, window_[1] + by];
      }
      if (planned) return;
      planned = true;
      requestAnimationFrame(() => {
        planned = false;
        redraw();
      });
    });
  }

  new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height: HEIGHT })).observe(element);
  onSchemeChange(() => chart.redraw());
  figure?.classList.add("enhanced");
}

function lastWithin(data: Columns, column: number, max: number): number | null {
  const values = data[column] as (number | null | undefined)[];
  for (let i = values.length - 1; i >= 0; i--) {
    const value = values[i];
    if ((data[0][i] as number) <= max && typeof value === "number") return value;
  }
  return null;
}

/** The series' own value at a moment that another series brought: the one before it, unless a gap lies between. */
function nearest(values: readonly (number | null | undefined)[], i: number): number | null {
  for (let j = i; j >= 0; j--) {
    const value = values[j];
    if (value !== undefined) return value;
  }
  return null;
}

function decimalPlaces(splits: readonly number[]): number {
  const step = Math.abs((splits[1] ?? 1) - (splits[0] ?? 0)) || 1;
  return Math.min(9, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

function tickLabel(seconds: number, step: number, props: Props): string {
  const at = seconds * 1_000;
  const clock = compact(at, props.zone).slice(11);
  if (step < 86_400 && clock !== "00:00") return clock;
  if (step >= 180 * 86_400) return compact(at, props.zone).slice(0, 7);
  const options = { timeZone: props.zone, day: "numeric", month: "short" } as const;
  return new Intl.DateTimeFormat(props.language === "en-HK" ? "en-GB" : props.language, options).format(at);
}

function fit(ctx: CanvasRenderingContext2D, text: string, room: number): string {
  if (ctx.measureText(text).width <= room) return text;
  let cut = text;
  while (cut.length > 1 && ctx.measureText(`${cut}…`).width > room) cut = cut.slice(0, -1);
  return `${cut.trimEnd()}…`;
}

/** The drawing on the page's own ground, as a picture that says what it shows, in which unit, and whether it is simulated. */
function save(chart: uPlot, props: Props): void {
  const { title } = props;
  const unit = props.unit === "" ? "" : ` (${props.unit})`;
  const heading = `${title}${unit}${props.simulated ? ` · ${props.labels.simulated}` : ""}`;
  const from = chart.ctx.canvas;
  const canvas = el("canvas");
  canvas.width = from.width;
  canvas.height = from.height + 40 * devicePixelRatio;
  const ctx = canvas.getContext("2d");
  if (ctx === null) return;
  ctx.fillStyle = token("--paper");
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.fillStyle = token("--ink");
  ctx.font = `600 ${16 * devicePixelRatio}px system-ui, sans-serif`;
  ctx.textBaseline = "middle";
  ctx.fillText(heading, 12 * devicePixelRatio, 20 * devicePixelRatio);
  ctx.drawImage(from, 0, 40 * devicePixelRatio);
  canvas.toBlob((blob) => {
    if (blob === null) return;
    const link = el("a", { href: URL.createObjectURL(blob), download: `${title.replace(/[\\/:*?"<>|]+/g, "-").slice(0, 80)}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}
