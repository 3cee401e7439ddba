// Everything that a reader chose, as an address: a link shows another reader the same page. Pure.
import { formatFilter, parseFilter } from "./filters";
import type { Zone } from "./format";
import { GRANULARITIES, parseLast } from "./timerange";
import type { Filter, Granularity, Range } from "./types";

export const PAGES = ["live", "explore", "events", "system"] as const;
export type Page = (typeof PAGES)[number];
export const TABS = ["tail", "letters", "trace"] as const;
export type Tab = (typeof TABS)[number];

export interface PageState {
  page: Page;
  range: Range;
  granularity: Granularity | "auto";
  zone: Zone;
  filters: Filter[];
  metric: string;
  by: string;
  compare: boolean;
  sort: string;
  tab: Tab;
  id: string;
  find: string;
}

export const DEFAULTS: PageState = {
  page: "live",
  range: { last: "1h" },
  granularity: "auto",
  zone: "local",
  filters: [],
  metric: "events",
  by: "",
  compare: true,
  sort: "",
  tab: "tail",
  id: "",
  find: "",
};

/** Most filters that an address may carry; more are dropped. */
const FILTERS_MAX = 16;

function oneOf<T extends string>(choices: readonly T[], value: string | null, otherwise: T): T {
  return choices.includes(value as T) ? (value as T) : otherwise;
}

function parseRange(params: URLSearchParams): Range {
  const [from, to] = [params.get("from"), params.get("to")].map((text) => Date.parse(text ?? ""));
  if (from! < to!) return { from: from!, to: to! };
  const last = params.get("last") ?? "";
  return parseLast(last) === null ? DEFAULTS.range : { last };
}

/** Reads an address; what it cannot read it leaves at its default. */
export function parseUrl(path: string, search: string): PageState {
  const params = new URLSearchParams(search);
  const name = params.get("m") ?? "";
  const by = params.get("by") ?? "";
  const filters = new Map<string, Filter>();
  for (const text of params.getAll("f").slice(0, FILTERS_MAX)) {
    const filter = parseFilter(text);
    if (filter && !filters.has(filter.dimension)) filters.set(filter.dimension, filter);
  }
  return {
    page: oneOf(PAGES, path.split("/")[1] ?? "", DEFAULTS.page),
    range: parseRange(params),
    granularity: oneOf([...GRANULARITIES, "auto"] as const, params.get("g"), "auto"),
    zone: oneOf(["local", "utc"] as const, params.get("tz"), DEFAULTS.zone),
    filters: [...filters.values()],
    metric: /^[a-z][a-z0-9_]*$/.test(name) ? name : DEFAULTS.metric,
    by: /^[a-z][a-z0-9_]*$/.test(by) ? by : "",
    compare: params.get("cmp") !== "0",
    sort: /^-?[a-z][a-z0-9_]*$/.test(params.get("sort") ?? "") ? params.get("sort")! : "",
    tab: oneOf(TABS, params.get("tab"), DEFAULTS.tab),
    id: params.get("id") ?? "",
    find: params.get("find") ?? "",
  };
}

/** Writes an address: only what differs from the defaults, and only what the page uses. */
export function formatUrl(state: PageState): string {
  const params = new URLSearchParams();
  const set = (name: string, value: string, otherwise: string) => {
    if (value !== otherwise) params.set(name, value);
  };
  if ("last" in state.range) {
    set("last", state.range.last, "1h");
  } else {
    params.set("from", new Date(state.range.from).toISOString());
    params.set("to", new Date(state.range.to).toISOString());
  }
  for (const filter of state.filters) params.append("f", formatFilter(filter));
  set("tz", state.zone, DEFAULTS.zone);
  if (state.page === "explore") {
    set("m", state.metric, DEFAULTS.metric);
    set("by", state.by, "");
    set("g", state.granularity, "auto");
    set("cmp", state.compare ? "1" : "0", "1");
    set("sort", state.sort, "");
  }
  if (state.page === "events") {
    set("tab", state.tab, DEFAULTS.tab);
    set("id", state.id, "");
    set("find", state.find, "");
  }
  const search = params.toString();
  return `/${state.page}${search ? `?${search}` : ""}`;
}
