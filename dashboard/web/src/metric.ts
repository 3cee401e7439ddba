// What a metric's numbers mean: where nothing happened, which of them lead, which way is good. Pure.
import type { Catalog, CatalogEntry } from "./types";

/** Aggregates that say nothing where nothing happened; of the others it is 0. */
const OF_SOME = new Set(["avg", "min", "max", "quantile", "ratio"]);

/** Built-in metrics of which less is more. */
const LESS_IS_MORE = new Set(["bounce_rate"]);

/** Which way is good for a metric. */
export type Better = "up" | "down" | "neither";

/** How a metric is read from what happened; by its name until the catalogue has come. */
function aggregateOf(metric: string, entry: CatalogEntry | undefined): string {
  if (entry?.aggregate !== undefined) return entry.aggregate;
  return /_rate$/.test(metric) ? "ratio" : /^(avg|p\d+)_/.test(metric) ? "avg" : "count";
}

const entryIn = (catalog: Catalog | null, metric: string) => catalog?.metrics.find((entry) => entry.name === metric);

/** The metric of a window in which nothing happened: a count or a sum is 0 then, a mean is nothing. */
export function nothingOf(metric: string, catalog: Catalog | null): 0 | null {
  return OF_SOME.has(aggregateOf(metric, entryIn(catalog, metric))) ? null : 0;
}

/** Whether a count decides which values lead: the highest mean or ratio is that of the rarest value, which tells nothing. */
export function leadsByCount(metric: string, catalog: Catalog | null): boolean {
  const aggregate = aggregateOf(metric, entryIn(catalog, metric));
  return OF_SOME.has(aggregate) && aggregate !== "max";
}

/** Which way is good: of a metric that somebody declared nobody knows. */
export function betterOf(metric: string, catalog: Catalog | null): Better {
  if (LESS_IS_MORE.has(metric)) return "down";
  return entryIn(catalog, metric)?.builtin === false ? "neither" : "up";
}
