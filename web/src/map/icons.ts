import { token } from "../shared/island";
import { PATHS, type State, TOKENS, asState, byRank, isOpen } from "../shared/shapes";

const SCALE = 2;

function context(size: number): CanvasRenderingContext2D | null {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size * SCALE;
  const context = canvas.getContext("2d");
  context?.scale(SCALE, SCALE);
  return context;
}

function pixels(context: CanvasRenderingContext2D): ImageData {
  return context.getImageData(0, 0, context.canvas.width, context.canvas.height);
}

/** Hatching, as on the "Simulated" badge. */
function hatch(context: CanvasRenderingContext2D, size: number, colour: string): void {
  context.strokeStyle = colour;
  context.lineWidth = 1;
  context.beginPath();
  for (let x = -size; x < size * 2; x += 4) {
    context.moveTo(x, 0);
    context.lineTo(x + size, size);
  }
  context.stroke();
}

/** `thing:<state>:<simulated>:<stale>` — a shape of 24 pixels, hatched when simulated, pale when stale. */
function thing(state: State, simulated: boolean, stale: boolean): ImageData | null {
  const size = 24;
  const c = context(size);
  if (c === null) return null;
  const outline = new Path2D();
  outline.addPath(new Path2D(PATHS[state]), new DOMMatrix([1.25, 0, 0, 1.25, 2, 2]));
  const colour = token(TOKENS[state]);
  const surface = token("--surface");
  c.lineJoin = "round";
  // A rim in the colour of the surface keeps shapes apart from the map and from each other.
  c.strokeStyle = surface;
  c.lineWidth = 4;
  c.stroke(outline);
  c.fillStyle = isOpen(state) || stale ? surface : colour;
  c.fill(outline);
  if (simulated) {
    c.save();
    c.clip(outline);
    hatch(c, size, isOpen(state) || stale ? colour : surface);
    c.restore();
  }
  c.strokeStyle = colour;
  c.lineWidth = 2;
  c.stroke(outline);
  return pixels(c);
}

/** `cluster:<rank>:<count>` — a disc ringed in the colour of its most urgent member, its number inside. */
function cluster(state: State, count: string): ImageData | null {
  const size = 40;
  const c = context(size);
  if (c === null) return null;
  c.beginPath();
  c.arc(size / 2, size / 2, 17, 0, Math.PI * 2);
  c.fillStyle = token("--surface");
  c.fill();
  c.lineWidth = 3;
  c.strokeStyle = token(TOKENS[state]);
  c.stroke();
  c.fillStyle = token("--ink");
  c.font = `600 ${count.length > 3 ? 11 : 14}px system-ui, sans-serif`;
  c.textAlign = "center";
  c.textBaseline = "middle";
  c.fillText(count, size / 2, size / 2 + 1);
  if (state === "alarm" || state === "warning") {
    // The shape again, small, so that the ring's colour is not the only sign.
    const mark = new Path2D();
    mark.addPath(new Path2D(PATHS[state]), new DOMMatrix([0.75, 0, 0, 0.75, 27, 0]));
    c.strokeStyle = token("--surface");
    c.lineWidth = 3;
    c.stroke(mark);
    c.fillStyle = token(TOKENS[state]);
    c.fill(mark);
  }
  return pixels(c);
}

export const PIXEL_RATIO = SCALE;

/** Draws the image that a layer asks for by name; names carry all that decides it. */
export function draw(name: string): ImageData | null {
  const [kind, first, second, third] = name.split(":");
  if (kind === "thing") return thing(asState(first), second === "true", third === "true");
  if (kind === "cluster") return cluster(byRank(Number(first)), second ?? "");
  return null;
}
