// One question at a time: a metric, split by a dimension, over a stretch of time.
import { useMemo, useState } from "preact/hooks";
import { TimeChart, DASHES, type Line } from "../chart";
import { FilterBox, nameOf, RangePicker, Select, ZoneToggle } from "../controls";
import { dimensionsOf, domainOf, supported, touched, type Domain } from "../cubes";
import { toCsv } from "../csv";
import { sorted } from "../delta";
import { change, columnOf, formatExact, formatLabel, formatMoment, formatSeconds, numberOf, unitOf, type Unit } from "../format";
import { Leaderboard } from "../leaderboard";
import type { LiveAnswer } from "../live";
import { betterOf, leadsByCount, nothingOf } from "../metric";
import { fill, knownFrom, windowsOf } from "../series";
import { Since, sinceOf, useKnown } from "../since";
import { catalog, filters, go, now, state, useLive } from "../state";
import { boundsOf, brushed, describePrevious, granularitiesFor, granularityOr, windowLength } from "../timerange";
import type { Granularity, Query, Range, Row } from "../types";
import { ageOf, Change, Chips, Exactness, Icon, TooLate, Trouble } from "../ui";

/** The metrics that always exist, for a server whose catalogue has not come. */
const METRICS = ["events", "unique_users", "content_views", "completions", "completion_rate", "click_through_rate", "sessions", "avg_session_duration", "p50_session_duration", "p95_session_duration", "bounce_rate", "engagement_rate", "total_duration", "avg_duration", "dau", "wau", "mau"];
/** Values of a dimension that get a line of their own. */
const LINES_MAX = DASHES.length;
const BOARD_ROWS = 6;
/** Rows of the table at most. */
const TABLE_ROWS_MAX = 500;
const INTERVAL_MS = 5000;

export function unitOfMetric(metric: string): Unit {
  const entry = catalog.value?.metrics.find((one) => one.name === metric);
  return unitOf(metric, entry?.unit, entry?.type, entry?.scale);
}

/** What decides which values lead. */
function rankOf(metric: string, domain: Domain): string | undefined {
  return leadsByCount(metric, catalog.value) ? domain : undefined;
}

export function ExplorePage() {
  const chosen = state.value;
  const { range, metric, by } = chosen;
  const granularity = granularityOr(chosen.granularity, range, now.peek());
  const domain = domainOf(metric, catalog.value);
  const dimensions = dimensionsOf(catalog.value).filter((dimension) => supported(domain, [dimension], catalog.value));
  const split = dimensions.includes(by) ? by : "";
  return (
    <main id="main">
      <div class="toolbar">
        <h1>Explore</h1>
        <span class="grow" />
        <FilterBox seen={[]} />
        <RangePicker />
        <ZoneToggle />
      </div>
      <Choices granularity={granularity} dimensions={dimensions} split={split} />
      <Chips />
      <ChartCard metric={metric} split={split} granularity={granularity} />
      <div class="boards">
        {dimensions.map((dimension) => (
          <Leaderboard key={`${dimension} ${metric}`} dimension={dimension} metric={metric} unit={unitOfMetric(metric)} range={range} limit={BOARD_ROWS} better={betterOf(metric, catalog.value)} rankBy={rankOf(metric, domain)} compare={chosen.compare ? describePrevious(range) : undefined} intervalMs={INTERVAL_MS} />
        ))}
      </div>
      <TableCard metric={metric} split={split} granularity={granularity} />
    </main>
  );
}

function Choices({ granularity, dimensions, split }: { granularity: Granularity; dimensions: string[]; split: string }) {
  const { metric, range, compare, granularity: asked } = state.value;
  const metrics = catalog.value && catalog.value.metrics.length > 0 ? catalog.value.metrics.filter((entry) => entry.type !== "array").map((entry) => entry.name) : METRICS;
  const { description, unread } = catalog.value?.metrics.find((entry) => entry.name === metric) ?? {};
  return (
    <div class="choices">
      <Select label="Metric" value={metric} onChange={(value) => go({ metric: value, sort: "" })} choices={[...new Set([...metrics, metric])].map((value) => ({ value, title: nameOf("metrics", value) }))} />
      <Select label="Split by" value={split} onChange={(value) => go({ by: value, sort: "" })} choices={[{ value: "", title: "Nothing" }, ...dimensions.map((value) => ({ value, title: nameOf("dimensions", value) }))]} />
      <Select label="Every" value={asked} onChange={(value) => go({ granularity: value as Granularity | "auto" })} choices={[{ value: "auto", title: `Auto (${granularity})` }, ...granularitiesFor(range, now.peek()).map((value) => ({ value: value as string, title: value }))] as { value: Granularity | "auto"; title: string }[]} />
      <label class="check"><input type="checkbox" checked={compare} onChange={(event) => go({ compare: event.currentTarget.checked })} />Compare with {describePrevious(range)}</label>
      {description && <p class="quiet">{description}</p>}
      {unread !== undefined && unread > 0 && <p class="trouble">{formatExact(unread)} events counted without their number: it is text, or too large.</p>}
    </div>
  );
}

function question(metric: string, range: Range, rest: Partial<Query>): Query | null {
  const query: Query = { metrics: [metric], groupBy: [], filters: filters.value, range, granularity: "total", ...rest };
  return supported(domainOf(metric, catalog.value), touched(query.groupBy, query.filters), catalog.value) ? query : null;
}

function leadersOf(metric: string, split: string, range: Range): Query | null {
  const rank = rankOf(metric, domainOf(metric, catalog.value)) ?? metric;
  return question(metric, range, { metrics: [...new Set([metric, rank])], groupBy: [split], orderBy: `-${rank}`, limit: LINES_MAX });
}

/** The values that get a line: those that lead, and stay while they lead. */
function useLeaders(metric: string, split: string): { members: (string | null)[] | null; answer: LiveAnswer | null } {
  const { range } = state.value;
  const { answer } = useKnown(split ? leadersOf(metric, split, range) : null, [metric], INTERVAL_MS);
  void answer?.version.value;
  const members = answer?.loaded.value ? answer.all().filter((row) => row[metric] != null).map((row) => (row[split] == null ? null : String(row[split]))) : null;
  // Sorted, so that two that change places do not ask again; colours follow the value.
  members?.sort((a, b) => (String(a) < String(b) ? -1 : 1));
  return { members: split ? members : [], answer };
}

function ChartCard({ metric, split, granularity }: { metric: string; split: string; granularity: Granularity }) {
  const { range, zone, compare } = state.value;
  const unit = unitOfMetric(metric);
  const [before, setBefore] = useState<Range | null>(null);
  const { members, answer: leaders } = useLeaders(metric, split);
  const held = filters.value.filter((filter) => filter.dimension !== split);
  const series = useLive(
    split
      ? members && members.length > 0 ? question(metric, range, { groupBy: [split], filters: [...held, { dimension: split, values: members }], granularity, limit: 100_000 }) : null
      : question(metric, range, { granularity, compare, limit: 10_000 }),
    INTERVAL_MS,
  );
  void series?.version.value;
  const meta = series?.meta.value ?? null;
  const asOf = Date.parse(meta?.as_of ?? "");
  const { from, to } = boundsOf(range, Number.isFinite(asOf) ? asOf : now.peek());
  const windowMs = windowLength(granularity);
  const windows = windowsOf(from, to, windowMs);
  const rows = series?.all() ?? [];
  const nothing = nothingOf(metric, catalog.value);
  const empty = series?.loaded.value ? nothing : null;
  const grows = nothing === 0;
  const since = sinceOf(meta, [metric]);
  const lines: Line[] = split
    ? (members ?? []).map((member, at) => ({ label: formatLabel(member), unit, color: at, grows, values: knownFrom(fill(rows.filter((row) => (row[split] ?? null) === member), metric, windows, empty), windows, since) }))
    : [
        { label: nameOf("metrics", metric), unit, color: 0, area: true, grows, values: knownFrom(fill(rows, metric, windows, empty), windows, since) },
        ...(compare ? [{ label: describePrevious(range), unit, color: 0, faint: true, values: fill(rows, `${metric}_previous`, windows, null) }] : []),
      ];
  const finalUntil = Date.parse(meta?.final_until ?? "");
  const zoom = (a: number, b: number) => {
    setBefore((first) => first ?? range);
    go({ range: brushed(a, b, granularity) });
  };
  const problem = series?.problem.value ?? leaders?.problem.value;
  const age = ageOf(meta, now.value);
  const title = `${nameOf("metrics", metric)}${split ? ` by ${nameOf("dimensions", split)}` : ""}`;
  const impossible = question(metric, range, { groupBy: split ? [split] : [] }) === null;
  return (
    <section class="card trend" aria-label={title}>
      <header>
        <h2>{title}</h2>
        <span class="quiet">{meta && <Exactness meta={meta} metric={metric} />}{age !== null && ` · ${formatSeconds(age / 1000)} old`}{since !== null && <> · <Since at={since} /></>}{meta?.filling?.includes(metric) && " · filling in its history"}</span>
        {meta && <TooLate meta={meta} />}
        <span class="grow" />
        {before && <button type="button" class="ghost" onClick={() => { go({ range: before }); setBefore(null); }}>Zoom out</button>}
        <span class="quiet wide">Drag across the chart to zoom</span>
      </header>
      {impossible ? <p class="quiet">{nameOf("metrics", metric)} is not counted together with this filter.</p> : problem ? <Trouble problem={problem} /> : (
        <TimeChart title={title} windows={windows} windowMs={windowMs} lines={lines} zone={zone} finalUntil={Number.isFinite(finalUntil) ? finalUntil : null} asOf={Number.isFinite(asOf) ? asOf : null} onBrush={zoom} height={280} />
      )}
    </section>
  );
}

function TableCard({ metric, split, granularity }: { metric: string; split: string; granularity: Granularity }) {
  const { range, compare, sort } = state.value;
  // Windows of a day are days of UTC.
  const zone = granularity === "1d" ? "utc" : state.value.zone;
  const unit = unitOfMetric(metric);
  const query = question(metric, range, split
    ? { groupBy: [split], orderBy: `-${metric}`, limit: TABLE_ROWS_MAX, compare }
    : { granularity, compare, limit: 10_000 });
  // Each window says for itself whether the metric is known.
  const { answer, since } = useKnown(query, split ? [metric] : [], INTERVAL_MS);
  void answer?.version.value;
  const first = split || "window_start";
  const columns = [first, metric, ...(compare ? [`${metric}_previous`] : [])];
  const order = sort && columns.includes(sort.replace(/^-/, "")) ? sort : split ? `-${metric}` : "-window_start";
  const all = answer?.all() ?? [];
  const rows = useMemo(() => sorted(all, order, split ? [split] : []), [answer?.version.value, answer, order]);
  // What is compared stands in one unit with what it is compared with.
  const cell = columnOf(rows.flatMap((row) => [numberOf(row[metric]), numberOf(row[`${metric}_previous`])]), unit);
  const write = (row: Row, column: string) => column === "window_start" ? formatMoment(Date.parse(String(row.window_start)), zone) : column === split ? formatLabel(row[column]) : cell(numberOf(row[column]));
  const title = (column: string) => column === "window_start" ? `Window (${zone === "utc" ? "UTC" : "local"})` : column === split ? nameOf("dimensions", column) : column.endsWith("_previous") ? describePrevious(range) : nameOf("metrics", column);
  const save = () => {
    const href = URL.createObjectURL(new Blob([toCsv(columns, rows)], { type: "text/csv;charset=utf-8" }));
    const anchor = Object.assign(document.createElement("a"), { href, download: `${metric}${split ? `-by-${split}` : ""}.csv` });
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(href), 1000);
  };
  if (!query) return null;
  return (
    <section class="card" aria-label="Table">
      <header><h2>Table</h2><span class="quiet">{rows.length} rows{answer?.meta.value?.truncated && ", the first ones"}{since !== null && <> · <Since at={since} /></>}</span><span class="grow" /><button type="button" class="ghost" onClick={save} disabled={rows.length === 0}><Icon name="download" />CSV</button></header>
      <div class="scroll" tabIndex={0} role="region" aria-label="Table of values">
        <table>
          <thead>
            <tr>
              {columns.map((column) => (
                <th key={column} scope="col" class={column === first ? "" : "n"} aria-sort={order === column ? "ascending" : order === `-${column}` ? "descending" : "none"}>
                  <button type="button" class="sort" onClick={() => go({ sort: order === `-${column}` ? column : `-${column}` }, "replace")}>{title(column)}<span aria-hidden="true">{order === column ? " ↑" : order === `-${column}` ? " ↓" : ""}</span></button>
                </th>
              ))}
              {compare && <th scope="col" class="n">Change</th>}
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, TABLE_ROWS_MAX).map((row) => (
              <tr key={String(row[first])}>
                {columns.map((column) => (column === first ? <th key={column} scope="row">{write(row, column)}</th> : <td key={column} class="n">{write(row, column)}</td>))}
                {compare && <td class="n"><Change ratio={change(numberOf(row[metric]), numberOf(row[`${metric}_previous`]))} better={betterOf(metric, catalog.value)} against={describePrevious(range)} beside /></td>}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
