// A metric that was declared within the range is known from a moment on: what there is is shown, and never as the whole.
import { formatClock, formatDay, formatMoment } from "./format";
import type { LiveAnswer } from "./live";
import { now, state, useLive } from "./state";
import type { Meta, Query } from "./types";

/** From when on all of these metrics are known; null where they are in all of the range. */
export function sinceOf(meta: Meta | null, metrics: readonly string[]): number | null {
  const moments = metrics.map((metric) => Date.parse(meta?.since?.[metric] ?? "")).filter(Number.isFinite);
  return moments.length > 0 ? Math.max(...moments) : null;
}

/** The answer to `query`, or to its part from when on these metrics are known. */
export function useKnown(query: Query | null, metrics: readonly string[], intervalMs: number): { answer: LiveAnswer | null; since: number | null } {
  const whole = useLive(query, intervalMs);
  const meta = whole?.meta.value ?? null;
  const since = sinceOf(meta, metrics);
  const some = query && since !== null && since < Date.parse(meta?.range?.to ?? "");
  // What was before is not known, so nothing can be compared with it.
  const part = useLive(some ? { ...query, since, compare: false } : null, intervalMs);
  return { answer: some ? part : whole, since };
}

/** "since 19:06", with the day where that is another one. */
export function Since({ at }: { at: number | null }) {
  if (at === null) return null;
  const { zone } = state.value;
  const today = formatDay(at, zone) === formatDay(now.value, zone);
  return <span class="since" title="what was before is not known: this was declared later">since {today ? formatClock(at, zone) : formatMoment(at, zone)}</span>;
}
