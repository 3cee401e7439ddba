// How a question is written for the server. The one place that knows its request shapes.
import { formatFilter } from "./filters";
import type { Query } from "./types";

/** The JSON of `POST /v1/query` and of a subscription. */
export function toJson(query: Query): Record<string, unknown> {
  return {
    metrics: query.metrics,
    group_by: query.groupBy,
    filter: Object.fromEntries(query.filters.map((filter) => [filter.dimension, filter.values])),
    granularity: query.granularity,
    ...rangeOf(query),
    ...(query.orderBy ? { order_by: query.orderBy } : {}),
    ...(query.limit ? { limit: query.limit } : {}),
    ...(query.compare ? { compare: "previous_period" } : {}),
  };
}

/** The same as the parameters of `GET /v1/snapshot`. */
export function toParams(query: Query): URLSearchParams {
  const params = new URLSearchParams({ metrics: query.metrics.join(","), granularity: query.granularity, ...rangeOf(query) });
  if (query.groupBy.length > 0) params.set("group_by", query.groupBy.join(","));
  for (const filter of query.filters) params.append("filter", formatFilter(filter));
  if (query.orderBy) params.set("order_by", query.orderBy);
  if (query.limit) params.set("limit", String(query.limit));
  if (query.compare) params.set("compare", "previous_period");
  return params;
}

function rangeOf(query: Query): { last: string } | { from: string; to?: string } {
  const iso = (ms: number) => new Date(ms).toISOString();
  if ("last" in query.range) return query.since === undefined ? { last: query.range.last } : { from: iso(query.since) };
  return { from: iso(query.since ?? query.range.from), to: iso(query.range.to) };
}
