/** One event of the live stream. */
export interface Observation {
  datastream: string;
  thing: string;
  value: number | null;
  /** Milliseconds since 1970, UTC. */
  at: number;
  state?: string;
}

/** Reads the data of an SSE event `observation`; anything else is ignored rather than trusted. */
export function parseObservation(text: string): Observation | null {
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof raw !== "object" || raw === null) return null;
  const fields = raw as Record<string, unknown>;
  const id = (value: unknown) => (typeof value === "string" || typeof value === "number" ? String(value) : null);
  const datastream = id(fields["datastream"]);
  const at = typeof fields["at"] === "string" ? Date.parse(fields["at"]) : Number.NaN;
  if (datastream === null || !Number.isFinite(at)) return null;
  const value = typeof fields["value"] === "number" && Number.isFinite(fields["value"]) ? fields["value"] : null;
  const observation: Observation = { datastream, thing: id(fields["thing"]) ?? "", value, at };
  if (typeof fields["state"] === "string") observation.state = fields["state"];
  return observation;
}
