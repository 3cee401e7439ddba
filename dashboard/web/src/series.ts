// From sparse rows to evenly spaced points. Pure.
import { numberOf } from "./format";
import type { Row } from "./types";

/** Points of one chart: x in epoch seconds, one list of values for each line. */
export interface Points {
  x: number[];
  lines: (number | null)[][];
}

/** The starts of all windows in [from, to). */
export function windowsOf(from: number, to: number, windowMs: number): number[] {
  const starts = [];
  for (let start = Math.floor(from / windowMs) * windowMs; start < to; start += windowMs) starts.push(start);
  return starts;
}

/**
 * Lays the rows of one metric on every window of the range. Where nothing happened a count is 0
 * (rows are sparse) and a ratio is nothing.
 */
export function fill(rows: readonly Row[], metric: string, windows: readonly number[], empty: number | null): (number | null)[] {
  const at = new Map<number, number | null>();
  for (const row of rows) at.set(Date.parse(String(row.window_start)), numberOf(row[metric]));
  return windows.map((start) => (at.has(start) ? at.get(start)! : empty));
}

/** Nothing in the windows that begin before `since`: there the metric is not known, which is not zero. */
export function knownFrom(values: (number | null)[], windows: readonly number[], since: number | null): (number | null)[] {
  return since === null ? values : values.map((value, at) => (windows[at]! < since ? null : value));
}

/** Events a second over the last whole window and the open one: steady, yet of this second. */
export function currentRate(rows: readonly Row[], windowMs: number, asOf: number): number | null {
  if (!Number.isFinite(asOf)) return null;
  const open = Math.floor(asOf / windowMs) * windowMs;
  let events = 0;
  for (const row of rows) {
    const start = Date.parse(String(row.window_start));
    if (start >= open - windowMs && start <= open) events += numberOf(row.events) ?? 0;
  }
  return events / ((asOf - open + windowMs) / 1000);
}

/** The rate of an hour before, over the two whole windows that lie like the last whole one and the open one. */
export function previousRateOf(rows: readonly Row[], windowMs: number, asOf: number): number | null {
  if (!Number.isFinite(asOf)) return null;
  const open = Math.floor(asOf / windowMs) * windowMs;
  const pair = rows.filter((row) => [open - windowMs, open].includes(Date.parse(String(row.window_start))));
  // The window that is open now was a whole one then: only the part that has passed is alike, so both count whole.
  return pair.reduce((sum, row) => sum + (numberOf(row.events_previous) ?? 0), 0) / ((2 * windowMs) / 1000);
}

/** The value of the window that holds `asOf`, or of the one before while the new one is empty; 0 where neither is. */
export function currentValue(rows: readonly Row[], metric: string, windowMs: number, asOf: number): number | null {
  const open = Math.floor(asOf / windowMs) * windowMs;
  const at = (start: number) => rows.find((row) => Date.parse(String(row.window_start)) === start);
  const row = at(open) ?? at(open - windowMs);
  return row ? numberOf(row[metric]) : Number.isFinite(asOf) ? 0 : null;
}

/** SVG path of a sparkline in a box; gaps stay gaps. */
export function sparkPath(values: readonly (number | null)[], width: number, height: number): string {
  const known = values.filter((value): value is number => value !== null);
  if (known.length < 2) return "";
  const top = Math.max(...known);
  const bottom = Math.min(...known, top * 0.6);
  const scale = top > bottom ? (height - 2) / (top - bottom) : 0;
  const step = values.length > 1 ? width / (values.length - 1) : 0;
  let path = "";
  let gap = true;
  values.forEach((value, index) => {
    if (value === null) { gap = true; return; }
    const y = top > bottom ? height - 1 - (value - bottom) * scale : height / 2;
    path += `${gap ? "M" : "L"}${(index * step).toFixed(1)} ${y.toFixed(1)}`;
    gap = false;
  });
  return path;
}
