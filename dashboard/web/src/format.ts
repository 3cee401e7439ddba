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

/** From here on nobody counts digits, and a double has no more of them. */
const PLAIN_MAX = 1e15;
/** Most digits behind the point where no scale is declared. */
const DIGITS_MAX = 6;
const SCALES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]] as const;

/** 1.70·10³², to a given power of ten. */
function formatPower(value: number, power: number): string {
  const raised = String(power).replace(/[-\d]/g, (character) => (character === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(character)]!));
  return `${(value / 10 ** power).toFixed(2)}·10${raised}`;
}

/** Its power of ten, rounding to three digits taken into account. */
function powerOf(value: number): number {
  return Number(value.toExponential(2).split("e")[1]);
}

/** Three or four digits that matter, for tiles. */
export function formatCompact(value: number): string {
  const size = Math.abs(value);
  if (size >= 0.9995 * PLAIN_MAX || (size > 0 && size < 0.000_000_95)) return formatPower(value, powerOf(value));
  if (size < 0.095 && size > 0) return value.toFixed(1 - powerOf(value));
  if (size < 10 && !Number.isInteger(value)) return value.toFixed(2);
  if (size < 100 && !Number.isInteger(value)) return value.toFixed(1);
  if (size < 99_999.5) return formatExact(value);
  for (const [scale, name] of SCALES) {
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
    case "ratio": return formatPercent(value, percentDigits([value]));
    case "seconds": return formatSeconds(value);
    case "ms": return formatSeconds(value / 1000);
    case "bytes": return formatBytes(value);
    case "rate": return formatCompact(value);
    case "count": case "number": return full && Number.isInteger(value) ? formatExact(value) : formatCompact(value);
  }
  return formatCompact(value);
}

/** So many digits that none but zero is written as zero; at least `fewest`. */
function digitsFor(values: readonly number[], fewest: number, most = DIGITS_MAX): number {
  const least = values.reduce((least, value) => (Math.abs(value) * 10 ** most >= 0.5 ? Math.min(least, Math.abs(value)) : least), Infinity);
  return least === Infinity ? fewest : Math.min(most, Math.max(fewest, Math.ceil(-Math.log10(least))));
}

function formatPercent(ratio: number, digits: number): string {
  return `${formatDigits(ratio * 100, digits)}${THIN}%`;
}

function percentDigits(ratios: readonly number[]): number {
  return digitsFor(ratios.map((ratio) => ratio * 100), 1, 4);
}

/** Digits behind the point of numbers without a declared scale. */
function plainDigits(values: readonly number[], largest: number): number {
  if (values.every(Number.isInteger)) return 0;
  const fewest = largest < 1000 ? 2 : 1;
  return largest > 0 && largest < 1 ? digitsFor(values, Math.min(DIGITS_MAX, Math.max(fewest, 1 - powerOf(largest)))) : digitsFor(values, fewest);
}

/** Seconds in the unit of the longest beside them: one column is of one unit. */
function secondsColumn(all: readonly number[]): (seconds: number) => string {
  const longest = largestOf(all);
  const sign = (seconds: number) => (seconds < 0 ? "−" : "");
  if (longest < 0.9995) return (seconds) => `${sign(seconds)}${Math.round(Math.abs(seconds) * 1000)}${THIN}ms`;
  const [length, name] = longest < 59.95 ? [1, "s"] : [3600, "h"];
  if (longest < 59.95 || longest >= 172_800) {
    const digits = digitsFor(all.map((seconds) => seconds / length), 1, 3);
    return (seconds) => `${sign(seconds)}${formatDigits(Math.abs(seconds) / length, digits)}${THIN}${name}`;
  }
  const two = (n: number) => String(n).padStart(2, "0");
  return (seconds) => {
    const whole = Math.round(Math.abs(seconds));
    const minutes = `${two(Math.floor((whole % 3600) / 60))}${THIN}m ${two(whole % 60)}${THIN}s`;
    return longest < 3599.5 ? `${sign(seconds)}${minutes.replace(/^0/, "")}` : `${sign(seconds)}${Math.floor(whole / 3600)}${THIN}h ${minutes}`;
  };
}

function largestOf(values: readonly number[]): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

/** Whether a value would read as nought beside much larger ones: it is written in a unit of its own then. */
function isLost(value: number, half: number): boolean {
  return value !== 0 && Math.abs(value) < half;
}

export type Write = (value: number | null) => string;

/** How a column is written, of a table or a board: in one unit and with one number of digits, whatever its values. */
export function columnOf(values: readonly (number | null)[], unit: Unit): Write {
  const known = values.filter((value): value is number => value !== null);
  const largest = largestOf(known);
  const written = (write: (value: number) => string): Write => (value) => (value === null ? NONE : write(value));
  switch (unit) {
    case "seconds": return written(secondsColumn(known));
    case "ms": {
      const write = secondsColumn(known.map((value) => value / 1000));
      return written((value) => write(value / 1000));
    }
    case "bytes": {
      const at = [1024, 1024 ** 2, 1024 ** 3, 1024 ** 4].filter((size) => largest >= size).length;
      const write = (value: number) => `${formatDigits(value / 1024 ** at, at === 0 ? 0 : 1)}${THIN}${["B", "KiB", "MiB", "GiB", "TiB"][at]}`;
      return written((value) => (isLost(value, 1024 ** at / 20) ? formatBytes(value) : write(value)));
    }
    case "ratio": {
      const digits = percentDigits(known);
      return written((value) => formatPercent(value, digits));
    }
  }
  if (largest >= PLAIN_MAX) {
    const power = powerOf(largest);
    return written((value) => (isLost(value, 10 ** power / 200) ? formatCompact(value) : formatPower(value, power)));
  }
  const digits = unit.startsWith("digits") ? Number(unit.slice("digits".length)) : plainDigits(known, largest);
  return written((value) => formatDigits(value, digits));
}

/** How each of some columns is written: those of one unit alike, for they are read beside each other. */
export function columnsOf(columns: readonly { unit: Unit; values: readonly (number | null)[] }[]): Write[] {
  const together = new Map<Unit, (number | null)[]>();
  for (const { unit, values } of columns) together.set(unit, (together.get(unit) ?? []).concat(values));
  const writers = new Map([...together].map(([unit, values]) => [unit, columnOf(values, unit)]));
  return columns.map(({ unit }) => writers.get(unit)!);
}

/** Digits that all of these round numbers need. */
function neededDigits(values: readonly number[]): number {
  const fits = (digits: number) => values.every((value) => Math.abs(value * 10 ** digits - Math.round(value * 10 ** digits)) < 1e-6);
  let digits = 0;
  while (digits < DIGITS_MAX && !fits(digits)) digits += 1;
  return digits;
}

/** The ticks of an axis of durations: without the part that is nought in all of them. */
function secondsTicks(ticks: readonly number[]): (seconds: number) => string {
  const longest = largestOf(ticks);
  const all = (length: number) => ticks.every((tick) => Math.abs(tick % length) < 1e-6);
  const [length, name] = longest < 0.9995 ? [0.001, "ms"] : longest < 60 ? [1, "s"] : longest >= 172_800 || (longest >= 3600 && all(3600)) ? [3600, "h"] : longest < 3600 && all(60) ? [60, "m"] : [0, ""];
  if (length > 0) {
    const digits = neededDigits(ticks.map((tick) => tick / length));
    return (tick) => `${formatDigits(tick / length, digits)}${THIN}${name}`;
  }
  const column = secondsColumn(ticks);
  return (tick) => (all(60) ? column(tick).replace(/ \d\d\u202fs$/, "") : column(tick));
}

/** How the ticks of an axis are written: in one short unit, with the digits that their step needs. */
export function ticksOf(ticks: readonly number[], unit: Unit): (tick: number) => string {
  switch (unit) {
    case "seconds": return secondsTicks(ticks);
    case "ms": {
      const write = secondsTicks(ticks.map((tick) => tick / 1000));
      return (tick) => write(tick / 1000);
    }
    case "bytes": return columnOf(ticks, unit);
    case "ratio": {
      const digits = neededDigits(ticks.map((tick) => tick * 100));
      return (tick) => formatPercent(tick, digits);
    }
  }
  const largest = largestOf(ticks);
  if (largest >= PLAIN_MAX) return columnOf(ticks, unit);
  const [scale, name] = largest < 99_999.5 ? [1, ""] : (SCALES.find(([size]) => largest >= size) ?? [1, ""]);
  const needed = neededDigits(ticks.map((tick) => tick / scale));
  // Of money cents are written, or none: 0.50, not 0.5.
  const digits = needed > 0 && name === "" && unit.startsWith("digits") ? Math.max(needed, Math.min(2, Number(unit.slice("digits".length)))) : needed;
  return (tick) => `${formatDigits(tick / scale, digits)}${name && THIN}${name}`;
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

/** In a column: all in percent, to a tenth. */
export function formatChangeBeside(ratio: number): string {
  const text = formatDigits(Math.abs(ratio * 100), 1);
  return `${text === "0.0" ? "±" : ratio > 0 ? "+" : "−"}${text}${THIN}%`;
}

/** A delay in a list that grows: always in seconds, to a tenth, so that no event that comes changes the others. */
export function formatDelay(seconds: number): string {
  const text = formatDigits(Math.abs(seconds), 1);
  return `${seconds < 0 && text !== "0.0" ? "−" : ""}${text}${THIN}s`;
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
