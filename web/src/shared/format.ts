const MINUS = "\u2212";

/** As the server writes numbers: grouped thousands, a true minus. */
export function number(value: number, decimals: number): string {
  if (!Number.isFinite(value)) return "–";
  const text = Math.abs(value).toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  return value < 0 && /[1-9]/.test(text) ? MINUS + text : text;
}

/** As many places as the value needs, at most three. */
export function decimalsFor(value: number): number {
  for (let d = 0; d < 3; d++) {
    const scaled = value * 10 ** d;
    if (Math.abs(scaled - Math.round(scaled)) < 1e-9) return d;
  }
  return 3;
}

export function quantity(value: number | null, unit: string, none: string, decimals?: number): string {
  if (value === null) return none;
  const shown = number(value, decimals ?? decimalsFor(value));
  if (unit === "") return shown;
  return unit === "%" || unit === "°" ? shown + unit : `${shown}\u202f${unit}`;
}

/** `2026-11-22 17:05` in the city's zone. */
export function compact(at: number, zone: string): string {
  const parts = new Intl.DateTimeFormat("en", {
    timeZone: zone,
    hourCycle: "h23",
    year: "numeric",
    month: "2-digit",
    day: "2-digit",
    hour: "2-digit",
    minute: "2-digit",
  }).formatToParts(at);
  const part = (type: Intl.DateTimeFormatPartTypes) => parts.find((p) => p.type === type)?.value ?? "";
  return `${part("year")}-${part("month")}-${part("day")} ${part("hour")}:${part("minute")}`;
}

/** "5 minutes ago" in the page's language. */
export function ago(at: number, now: number, language: string): string {
  const format = new Intl.RelativeTimeFormat(language, { numeric: "always" });
  const seconds = Math.round((at - now) / 1_000);
  const size = Math.abs(seconds);
  if (size < 45) return new Intl.RelativeTimeFormat(language, { numeric: "auto" }).format(0, "second");
  if (size < 45 * 60) return format.format(Math.round(seconds / 60), "minute");
  if (size < 22 * 3_600) return format.format(Math.round(seconds / 3_600), "hour");
  return format.format(Math.round(seconds / 86_400), "day");
}
