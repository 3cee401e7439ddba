// How numbers, durations and times are written. Pure: the time zone is an argument.
import type { Value } from "./types";

/** `digits2` is a number with two digits behind the point, as its metric's scale says. */
export type Unit = "count" | "rate" | "ratio" | "seconds" | "number" | "ms" | "bytes" | `digits${number}`;
export type Zone = "local" | "utc";

/** What stands where there is no number. */
export const NONE = "–";
/** Narrow no-break space, between a number and its unit. */
const THIN = "\u202f";

const UNITS: Record<string, Unit> = {
  events_per_second: "rate",
  total_duration: "seconds",
};

/** Unit of a metric: as the catalogue says, else by its name; a `type` of number is no count, and a scale that is declared decides its digits. */
export function unitOf(metric: string, declared?: string, type?: string, scale?: number): Unit {
  const unit = unitWithout(metric, declared, type);
  return scale !== undefined && (unit === "number" || unit === "count") ? `digits${scale}` : unit;
}

function unitWithout(metric: string, declared?: string, type?: string): Unit {
  switch (declared) {
    case "ratio": case "share": case "percent": return "ratio";
    case "seconds": case "second": case "s": return "seconds";
    case "events/s": case "per_second": case "1/s": return "rate";
    case "count": case "events": case "users": case "sessions": return "count";
    case "bytes": return "bytes";
  }
  const named = UNITS[metric];
  if (named) return named;
  if (metric.endsWith("_rate")) return "ratio";
  if (metric.endsWith("_duration") || metric.endsWith("_sec")) return "seconds";
  if (metric.endsWith("_ms")) return "ms";
  return declared || type === "number" ? "number" : "count";
}

/** A number of a row, or null where the cell holds none. */
export function numberOf(value: Value): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

const exact = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });

/** All digits, grouped: 1,234,567. */
export function formatExact(value: number): string {
  return exact.format(Math.round(value));
}

/** Three or four digits that matter, for tiles and axes. */
export function formatCompact(value: number): string {
  const size = Math.abs(value);
  if (size < 10 && !Number.isInteger(value)) return value.toFixed(2);
  if (size < 100 && !Number.isInteger(value)) return value.toFixed(1);
  if (size < 99_999.5) return formatExact(value);
  for (const [scale, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]] as const) {
    // The threshold is where rounding would reach the next name.
    if (size >= scale * 0.9995) {
      const scaled = value / scale;
      return `${scaled.toFixed(Math.abs(scaled) < 9.995 ? 2 : Math.abs(scaled) < 99.95 ? 1 : 0)}${THIN}${name}`;
    }
  }
  return formatExact(value);
}

/** 0.8 s, 42 s, 5 m 12 s, 3 h 04 m, 2 d 5 h. */
export function formatSeconds(seconds: number): string {
  const sign = seconds < 0 ? "−" : "";
  const size = Math.abs(seconds);
  if (size === 0) return `0${THIN}s`;
  if (size < 0.9995) return `${sign}${Math.round(size * 1000)}${THIN}ms`;
  if (size < 9.95) return `${sign}${size.toFixed(1)}${THIN}s`;
  const whole = Math.round(size);
  if (whole < 60) return `${sign}${whole}${THIN}s`;
  const two = (n: number) => String(n).padStart(2, "0");
  if (whole < 3600) return `${sign}${Math.floor(whole / 60)}${THIN}m ${two(whole % 60)}${THIN}s`;
  if (whole < 86_400) return `${sign}${Math.floor(whole / 3600)}${THIN}h ${two(Math.floor((whole % 3600) / 60))}${THIN}m`;
  return `${sign}${formatExact(Math.floor(whole / 86_400))}${THIN}d ${Math.floor((whole % 86_400) / 3600)}${THIN}h`;
}

export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${Math.round(bytes)}${THIN}B`;
  let value = bytes;
  for (const name of ["KiB", "MiB", "GiB"]) {
    value /= 1024;
    if (value < 1023.95) return `${value.toFixed(value < 99.95 ? 1 : 0)}${THIN}${name}`;
  }
  return `${(value / 1024).toFixed(1)}${THIN}TiB`;
}

/** So many digits behind the point, grouped: 1,234.50. */
export function formatDigits(value: number, digits: number): string {
  return value.toLocaleString("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** Writes a metric's value in its unit; `full` keeps every digit of a count, or of a declared scale. */
export function formatValue(value: number | null, unit: Unit, full = false): string {
  if (value === null) return NONE;
  if (unit.startsWith("digits")) {
    return full || Math.abs(value) < 99_999.5 ? formatDigits(value, Number(unit.slice("digits".length))) : formatCompact(value);
  }
  switch (unit) {
    case "ratio": return `${(value * 100).toFixed(1)}${THIN}%`;
    case "seconds": return formatSeconds(value);
    case "ms": return formatSeconds(value / 1000);
    case "bytes": return formatBytes(value);
    case "rate": return formatCompact(value);
    case "count": case "number": return full && Number.isInteger(value) ? formatExact(value) : formatCompact(value);
  }
  return formatCompact(value);
}

/** Seconds in the unit of the longest beside them: one column is of one unit. */
function formatSecondsBeside(seconds: number, longest: number): string {
  const sign = seconds < 0 ? "−" : "";
  const size = Math.abs(seconds);
  if (longest < 0.9995) return `${sign}${Math.round(size * 1000)}${THIN}ms`;
  if (longest < 59.95) return `${sign}${size.toFixed(1)}${THIN}s`;
  if (longest >= 172_800) return `${sign}${formatDigits(size / 3600, 1)}${THIN}h`;
  const whole = Math.round(size);
  const two = (n: number) => String(n).padStart(2, "0");
  const minutes = `${two(Math.floor((whole % 3600) / 60))}${THIN}m ${two(whole % 60)}${THIN}s`;
  return longest < 3599.5 ? `${sign}${minutes.replace(/^0/, "")}` : `${sign}${Math.floor(whole / 3600)}${THIN}h ${minutes}`;
}

/** How a column of a table is written: in one unit and with one number of digits, whatever its values. */
export function columnOf(values: readonly (number | null)[], unit: Unit): (value: number | null) => string {
  const known = values.filter((value): value is number => value !== null);
  const largest = known.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const written = (write: (value: number) => string) => (value: number | null) => (value === null ? NONE : write(value));
  switch (unit) {
    case "seconds": return written((value) => formatSecondsBeside(value, largest));
    case "ms": return written((value) => formatSecondsBeside(value / 1000, largest / 1000));
    case "bytes": {
      const at = [1024, 1024 ** 2, 1024 ** 3, 1024 ** 4].filter((size) => largest >= size).length;
      return written((value) => `${formatDigits(value / 1024 ** at, at === 0 ? 0 : 1)}${THIN}${["B", "KiB", "MiB", "GiB", "TiB"][at]}`);
    }
    case "count": case "number": case "rate": {
      const digits = known.every(Number.isInteger) ? 0 : largest < 1000 ? 2 : 1;
      return written((value) => formatDigits(value, digits));
    }
  }
  return (value) => formatValue(value, unit, true);
}

/** The change against the previous period, or null where there is nothing to compare. */
export function change(now: number | null, previous: number | null): number | null {
  if (now === null || previous === null || previous === 0) return null;
  return now / previous - 1;
}

/** +4.2 %, −12 %, ±0 %, ×3.4: what a reader takes in at once. */
export function formatChange(ratio: number): string {
  if (ratio >= 2) return `×${(ratio + 1).toFixed(ratio < 9 ? 1 : 0)}`;
  const percent = Math.abs(ratio * 100);
  const text = percent < 9.95 ? percent.toFixed(1) : percent.toFixed(0);
  if (Number(text) === 0) return `±0${THIN}%`;
  return `${ratio > 0 ? "+" : "−"}${text}${THIN}%`;
}

/** ±1.6 %: the relative error at 95 %. */
export function formatError(relative: number): string {
  const percent = relative * 100;
  return `±${percent < 0.095 ? percent.toFixed(2) : percent.toFixed(1)}${THIN}%`;
}

const pad = (n: number, digits = 2) => String(n).padStart(digits, "0");

interface Parts { year: number; month: number; day: number; hour: number; minute: number; second: number; ms: number }

function partsOf(ms: number, zone: Zone): Parts {
  const date = new Date(ms);
  return zone === "utc"
    ? { year: date.getUTCFullYear(), month: date.getUTCMonth() + 1, day: date.getUTCDate(), hour: date.getUTCHours(), minute: date.getUTCMinutes(), second: date.getUTCSeconds(), ms: date.getUTCMilliseconds() }
    : { year: date.getFullYear(), month: date.getMonth() + 1, day: date.getDate(), hour: date.getHours(), minute: date.getMinutes(), second: date.getSeconds(), ms: date.getMilliseconds() };
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** 20:15 */
export function formatClock(ms: number, zone: Zone): string {
  const p = partsOf(ms, zone);
  return `${pad(p.hour)}:${pad(p.minute)}`;
}

/** 20:15:03.120 */
export function formatPrecise(ms: number, zone: Zone): string {
  const p = partsOf(ms, zone);
  return `${pad(p.hour)}:${pad(p.minute)}:${pad(p.second)}.${pad(p.ms, 3)}`;
}

/** 21 Nov */
export function formatDay(ms: number, zone: Zone): string {
  const p = partsOf(ms, zone);
  return `${p.day}${THIN}${MONTHS[p.month - 1]}`;
}

/** 21 Nov 20:15 */
export function formatMoment(ms: number, zone: Zone): string {
  return `${formatDay(ms, zone)} ${formatClock(ms, zone)}`;
}

/** 2026-11-21T20:15, as a field of type datetime-local holds it. */
export function formatField(ms: number, zone: Zone): string {
  const p = partsOf(ms, zone);
  return `${pad(p.year, 4)}-${pad(p.month)}-${pad(p.day)}T${pad(p.hour)}:${pad(p.minute)}`;
}

/** Reads a field of type datetime-local back; NaN where it is empty. */
export function parseField(text: string, zone: Zone): number {
  return Date.parse(zone === "utc" ? `${text}Z` : text);
}

/** A dimension's value as people read it. */
export function formatLabel(value: Value): string {
  if (value === null || value === undefined) return "(none)";
  if (value === "__other__") return "(other)";
  return value === "" ? "(empty)" : String(value);
}

/** play_complete → Play complete */
export function titleOf(name: string): string {
  const words = name.replace(/_/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}
