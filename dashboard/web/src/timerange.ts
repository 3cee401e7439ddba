// Stretches of time, and how finely each is shown. Pure: the present is an argument.
import { formatMoment, type Zone } from "./format";
import type { Granularity, Range } from "./types";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

export const GRANULARITIES: readonly Granularity[] = ["1m", "5m", "30m", "1h", "1d"];

const LENGTHS: Record<Granularity, number> = { "1m": MINUTE, "5m": 5 * MINUTE, "30m": 30 * MINUTE, "1h": HOUR, "1d": DAY };

/** How long each granularity is kept: DESIGN, Time, 8. */
const KEPT: Record<Granularity, number> = { "1m": 14 * DAY, "5m": 30 * DAY, "30m": 90 * DAY, "1h": 365 * DAY, "1d": Infinity };

/** Most points on one chart: about one for each pixel column of a phone. */
const POINTS_MAX = 750;
/** Fewest points wanted before a finer granularity is chosen. */
const POINTS_WANTED = 40;

export const PRESETS: readonly { last: string; title: string }[] = [
  { last: "15m", title: "Last 15 minutes" },
  { last: "1h", title: "Last hour" },
  { last: "6h", title: "Last 6 hours" },
  { last: "24h", title: "Last 24 hours" },
  { last: "7d", title: "Last 7 days" },
  { last: "30d", title: "Last 30 days" },
  { last: "90d", title: "Last 90 days" },
];

/** Length of a window, in milliseconds. */
export function windowLength(granularity: Granularity): number {
  return LENGTHS[granularity];
}

/** Milliseconds of "15m", "24h", "7d"; null where it is none of these. */
export function parseLast(text: string): number | null {
  const match = /^([1-9]\d{0,4})(m|h|d)$/.exec(text);
  if (!match) return null;
  return Number(match[1]) * (match[2] === "m" ? MINUTE : match[2] === "h" ? HOUR : DAY);
}

/** Length of a range, in milliseconds. */
export function lengthOf(range: Range): number {
  return "last" in range ? (parseLast(range.last) ?? HOUR) : range.to - range.from;
}

/** Where a range lies, as of `now`. */
export function boundsOf(range: Range, now: number): { from: number; to: number } {
  return "last" in range ? { from: now - lengthOf(range), to: now } : range;
}

/** The granularities that are kept at the range's age and give a readable number of points. */
export function granularitiesFor(range: Range, now: number): Granularity[] {
  const { from } = boundsOf(range, now);
  const fitting = GRANULARITIES.filter((g) => now - from <= KEPT[g] && lengthOf(range) / LENGTHS[g] <= POINTS_MAX);
  return fitting.length > 0 ? fitting : ["1d"];
}

/** The coarsest granularity that still shows a shape. */
export function granularityFor(range: Range, now: number): Granularity {
  const fitting = granularitiesFor(range, now);
  const coarsest = [...fitting].reverse().find((g) => lengthOf(range) / LENGTHS[g] >= POINTS_WANTED);
  return coarsest ?? fitting[0] ?? "1d";
}

/** What is asked for where it is possible, else what suits. */
export function granularityOr(asked: Granularity | "auto", range: Range, now: number): Granularity {
  return asked !== "auto" && granularitiesFor(range, now).includes(asked) ? asked : granularityFor(range, now);
}

/** A range as its name, or as its two ends. */
export function describeRange(range: Range, zone: Zone): string {
  if ("last" in range) {
    return PRESETS.find((preset) => preset.last === range.last)?.title ?? `Last ${range.last}`;
  }
  return `${formatMoment(range.from, zone)} – ${formatMoment(range.to, zone)}`;
}

const UNIT_NAMES: Record<string, string> = { m: "minute", h: "hour", d: "day" };

/** The previous period of the same length, for a label beside a change. */
export function describePrevious(range: Range): string {
  const match = "last" in range ? /^(\d+)([mhd])$/.exec(range.last) : null;
  if (!match) return "the period before";
  const [, count, unit] = match;
  if (match[0] === "24h") return "the day before";
  return count === "1" ? `the ${UNIT_NAMES[unit!]} before` : `the ${count} ${UNIT_NAMES[unit!]}s before`;
}

/** Rounds a brushed stretch outward to whole windows; at least one of them. */
export function brushed(from: number, to: number, granularity: Granularity): { from: number; to: number } {
  const length = LENGTHS[granularity];
  const start = Math.floor(Math.min(from, to) / length) * length;
  const end = Math.ceil(Math.max(from, to) / length) * length;
  return { from: start, to: Math.max(end, start + length) };
}
