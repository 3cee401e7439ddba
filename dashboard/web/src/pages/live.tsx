// What happens now: numbers, the last hour, and who and what leads.
import { useEffect, useRef, useState } from "preact/hooks";
import { TimeChart, type Line } from "../chart";
import { FilterBox, PauseButton, RangePicker, ZoneToggle } from "../controls";
import { supported, touched, type Domain } from "../cubes";
import { corrections, keyOf } from "../delta";
import { change, formatMoment, formatSeconds, formatValue, numberOf, type Unit } from "../format";
import { Leaderboard } from "../leaderboard";
import type { LiveAnswer } from "../live";
import type { Better } from "../metric";
import { currentRate, currentValue, fill, knownFrom, previousRateOf, windowsOf } from "../series";
import { Since, sinceOf, useKnown } from "../since";
import { catalog, filters, now, state, useLive } from "../state";
import { boundsOf, describePrevious, granularityFor, lengthOf, PRESETS, windowLength } from "../timerange";
import type { Granularity, Meta, Query, Range, Row } from "../types";
import { ageOf, Change, Chips, Exactness, Sparkline, TooLate, Trouble } from "../ui";

const LIVE_PRESETS = PRESETS.slice(0, 5);
const BOARDS = ["content_id", "country", "device_type", "content_category", "channel", "event_type"];
const BOARD_ROWS = 8;
/** Above this age, what is shown is called stale: REQUIREMENTS, M4 speaks of 60 s, Q6 of 30 s. */
const STALE_MS = 30_000;
/** How long a corrected window is ringed. */
const FLASH_MS = 2500;

/** In a shorter range the sessions that are not over yet weigh so much that a change would say nothing. */
const SESSIONS_SETTLE_MS = 86_400_000;

/** How often answers come, by the length of the range: what a day holds does not move within a second. */
function intervalFor(range: Range): number {
  const hours = lengthOf(range) / 3_600_000;
  return hours <= 6 ? 1000 : hours <= 24 ? 2000 : 5000;
}

const EVENT_METRICS = ["events", "unique_users", "completion_rate", "click_through_rate"];
/** What is of this moment is shown over this range, whatever the page's: its cells of a minute are always kept. */
const NOW_RANGE: Range = { last: "1h" };
const NOW_GRANULARITY: Granularity = "1m";
const SESSION_METRICS = ["sessions", "p50_session_duration", "p95_session_duration", "engagement_rate"];

interface Answers {
  totals: LiveAnswer | null;
  series: LiveAnswer | null;
  sessions: LiveAnswer | null;
  sessionSeries: LiveAnswer | null;
  days: LiveAnswer | null;
  /** Of this moment. */
  nows: LiveAnswer | null;
  /** From when on those are known that are not in all of the range. */
  known: { totals: LiveAnswer | null; sessions: LiveAnswer | null };
}

/** Asks what the tiles and the chart show. */
function useAnswers(granularity: Granularity): Answers {
  const { range } = state.value;
  const held = filters.value;
  const ask = (domain: Domain, metrics: string[], rest: Partial<Query>): Query | null =>
    supported(domain, touched([], held), catalog.value)
      ? { metrics, groupBy: [], filters: held, range, granularity: "total", ...rest }
      : null;
  const every = intervalFor(range);
  const totals = ask("events", EVENT_METRICS, { compare: true });
  const sessions = ask("sessions", SESSION_METRICS, { compare: true });
  return {
    totals: useLive(totals, every),
    known: { totals: useKnown(totals, EVENT_METRICS, every).answer, sessions: useKnown(sessions, SESSION_METRICS, every).answer },
    series: useLive(ask("events", EVENT_METRICS, { granularity, compare: true }), every),
    sessions: useLive(sessions, every),
    sessionSeries: useLive(ask("sessions", SESSION_METRICS, { granularity }), every),
    days: useLive(ask("events", ["dau"], { granularity: "1d", range: { last: "14d" } })),
    nows: useLive(ask("events", ["events", "active_now"], { granularity: NOW_GRANULARITY, range: NOW_RANGE, compare: true })),
  };
}

/** All rows, following the answer as a whole. */
function rowsOf(answer: LiveAnswer | null): Row[] {
  if (!answer) return [];
  void answer.version.value;
  return answer.all();
}

export function LivePage() {
  const { range } = state.value;
  const granularity = granularityFor(range, now.peek());
  const answers = useAnswers(granularity);
  const empty = answers.totals?.loaded.value && filters.value.length === 0 && (numberOf(rowsOf(answers.totals)[0]?.events) ?? 0) === 0;
  return (
    <main id="main">
      <div class="toolbar">
        <h1>Live</h1>
        <Freshness answer={answers.totals} />
        <span class="grow" />
        <FilterBox seen={[]} />
        <RangePicker presets={LIVE_PRESETS} />
        <ZoneToggle />
        <PauseButton />
      </div>
      <Chips />
      {empty ? <Empty importing={answers.totals?.meta.value?.import_running === true} /> : (
        <>
          <Tiles answers={answers} granularity={granularity} />
          <Trend answer={answers.series} granularity={granularity} />
        </>
      )}
      {!empty && (
        <div class="boards">
          {BOARDS.map((dimension) => (
            <Leaderboard key={dimension} dimension={dimension} metric="events" unit="count" range={range} limit={BOARD_ROWS} second={{ metric: "unique_users", unit: "count", title: "users" }} intervalMs={intervalFor(range)} />
          ))}
        </div>
      )}
    </main>
  );
}

/** How fresh the page is, how final, and what happened since. */
function Freshness({ answer }: { answer: LiveAnswer | null }) {
  const meta = answer?.meta.value ?? null;
  const age = ageOf(meta, now.value);
  if (!meta || age === null) return null;
  const finalUntil = Date.parse(meta.final_until ?? "");
  return (
    <p class="freshness">
      <span class={`badge ${age > STALE_MS ? "stale" : "fresh"}`}><i aria-hidden="true" />{age > STALE_MS ? "Stale" : "Fresh"} · {formatSeconds(age / 1000)}</span>
      {Number.isFinite(finalUntil) && <span class="quiet">final until {formatMoment(finalUntil, state.value.zone)}</span>}
      {meta.revised && <span class="badge" title={`from ${meta.revised.from} to ${meta.revised.to}`}>{meta.revised.windows} final windows revised</span>}
      <TooLate meta={meta} />
      {meta.import_running && <span class="badge">Import running</span>}
      {(meta.filling?.length ?? 0) > 0 && <span class="badge">Filling in {meta.filling!.join(", ")}</span>}
    </p>
  );
}

interface Tile {
  label: string;
  metric: string;
  unit: Unit;
  better: Better;
  value: number | null;
  previous: number | null;
  against: string;
  spark: (number | null)[];
  answer: LiveAnswer | null;
  /** A second number, in small print. */
  second?: string;
  /** Stands in place of the change, where the two are not alike. */
  note?: string;
  noteTitle?: string;
  /** From when on it is known, where that is not all of the range. */
  since?: number | null;
}

function tilesOf(answers: Answers, granularity: Granularity): Tile[] {
  const { range } = state.value;
  const windowMs = windowLength(granularity);
  const [total, session] = [rowsOf(answers.totals)[0], rowsOf(answers.sessions)[0]];
  const asOf = Date.parse(answers.series?.meta.value?.as_of ?? "");
  const { from, to } = boundsOf(range, Number.isFinite(asOf) ? asOf : now.peek());
  const windows = windowsOf(from, to, windowMs);
  const nows = rowsOf(answers.nows);
  const nowMs = Date.parse(answers.nows?.meta.value?.as_of ?? "");
  const minuteMs = windowLength(NOW_GRANULARITY);
  const nowBounds = boundsOf(NOW_RANGE, Number.isFinite(nowMs) ? nowMs : now.peek());
  const minutes = windowsOf(nowBounds.from, nowBounds.to, minuteMs);
  const against = describePrevious(range);
  const hourBefore = describePrevious(NOW_RANGE);
  const whole = (values: (number | null)[]) => values.slice(0, -1);
  const line = (answer: LiveAnswer | null, metric: string, starts: number[], nothing: 0 | null) =>
    knownFrom(fill(rowsOf(answer), metric, starts, nothing), starts, sinceOf(answer?.meta.value ?? null, [metric]));
  const of = (row: Row | undefined, metric: string, [answer, known]: [LiveAnswer | null, LiveAnswer | null]) => {
    const since = sinceOf(answer?.meta.value ?? null, [metric]);
    return since === null
      ? { value: numberOf(row?.[metric]), previous: numberOf(row?.[`${metric}_previous`]) }
      : { value: numberOf(rowsOf(known)[0]?.[metric]), previous: null, since };
  };
  const events: [LiveAnswer | null, LiveAnswer | null] = [answers.totals, answers.known.totals];
  const stays: [LiveAnswer | null, LiveAnswer | null] = [answers.sessions, answers.known.sessions];
  const today = Math.floor((Number.isFinite(asOf) ? asOf : now.peek()) / 86_400_000) * 86_400_000;
  const dau = line(answers.days, "dau", windowsOf(today - 13 * 86_400_000, today + 1, 86_400_000), 0);
  const previousRate = previousRateOf(nows, minuteMs, nowMs);
  // Before the first day with anybody nothing is known, which is not zero.
  const firstDay = Math.min(whole(dau).findIndex((value) => (value ?? 0) !== 0) >>> 0, dau.length - 3);
  const p95 = of(session, "p95_session_duration", stays).value;
  const users = of(total, "unique_users", events).value;
  return [
    { label: "Daily active users", metric: "dau", unit: "count", better: "up", value: answers.days?.loaded.value ? dau.at(-1)! : null, previous: null, against, spark: whole(dau).slice(firstDay), answer: answers.days, noteTitle: "a whole UTC day", note: `all of yesterday ${formatValue(dau.at(-2)!, "count")}` },
    { label: "Active now", metric: "active_now", unit: "count", better: "up", value: answers.nows?.loaded.value ? currentValue(nows, "active_now", minuteMs, nowMs) : null, previous: currentValue(nows, "active_now_previous", minuteMs, nowMs), against: hourBefore, spark: whole(line(answers.nows, "active_now", minutes, 0)), answer: answers.nows },
    { label: "Events per second", metric: "events_per_second", unit: "rate", better: "up", value: answers.nows?.loaded.value ? currentRate(nows, minuteMs, nowMs) : null, previous: previousRate, against: hourBefore, spark: whole(line(answers.nows, "events", minutes, 0)), answer: answers.nows },
    { label: "Session duration", metric: "p50_session_duration", unit: "seconds", better: "up", ...of(session, "p50_session_duration", stays), against, spark: line(answers.sessionSeries, "p50_session_duration", windows, null), answer: answers.sessions, note: lengthOf(range) < SESSIONS_SETTLE_MS ? "open ones still grow" : undefined, noteTitle: "sessions that are not over are shorter than they will be", second: `p95 ${formatValue(p95, "seconds")}` },
    { label: "Completion rate", metric: "completion_rate", unit: "ratio", better: "up", ...of(total, "completion_rate", events), against, spark: line(answers.series, "completion_rate", windows, null), answer: answers.totals },
    { label: "Engagement rate", metric: "engagement_rate", unit: "ratio", better: "up", ...of(session, "engagement_rate", stays), against, spark: line(answers.sessionSeries, "engagement_rate", windows, null), answer: answers.sessions },
    { label: "Click-through rate", metric: "click_through_rate", unit: "ratio", better: "up", ...of(total, "click_through_rate", events), against, spark: line(answers.series, "click_through_rate", windows, null), answer: answers.totals },
    { label: "Events", metric: "events", unit: "count", better: "up", ...of(total, "events", events), against, spark: whole(line(answers.series, "events", windows, 0)), answer: answers.totals, second: `${formatValue(users, "count")} users` },
  ];
}

function Tiles({ answers, granularity }: { answers: Answers; granularity: Granularity }) {
  return <div class="tiles">{tilesOf(answers, granularity).map((tile) => <TileCard key={tile.label} {...tile} />)}</div>;
}

function TileCard({ label, metric, unit, better, value, previous, against, spark, answer, second, note, noteTitle, since }: Tile) {
  const problem = answer?.problem.value;
  const meta: Meta | null = answer?.meta.value ?? null;
  const age = ageOf(meta, now.value);
  return (
    <section class="card tile" aria-label={label}>
      <h2>{label}{metric === "p50_session_duration" && <small> p50</small>}</h2>
      {answer === null ? <p class="quiet">Not counted together with this filter.</p> : problem ? <Trouble problem={problem} /> : (
        <>
          <p class="big">{answer.loaded.value ? <>{formatValue(value, unit)}{second && <small>{second}</small>}</> : <><span class="ghost-number" aria-hidden="true" /><span class="sr">loading</span></>}</p>
          <Sparkline values={answer.loaded.value ? spark : []} />
          {answer.loaded.value && <p class="foot">
            {since != null ? <Since at={since} /> : note ? <span title={noteTitle}>{note}</span> : <Change ratio={change(value, previous)} better={better} against={against} />}
            <span class="grow" />
            <Exactness meta={meta} metric={metric} />
            {age !== null && <span class={age > STALE_MS ? "stale" : ""} title="age of this number">{formatSeconds(age / 1000)}</span>}
          </p>}
        </>
      )}
    </section>
  );
}

/** Rings what late events changed, once. */
function useCorrections(answer: LiveAnswer | null, rows: Row[], windowMs: number): { window: number; from: number | null; to: number | null }[] {
  const before = useRef<{ answer: LiveAnswer | null; rows: Map<string, Row>; asOf: number }>({ answer: null, rows: new Map(), asOf: NaN });
  const [flashing, setFlashing] = useState<{ window: number; from: number | null; to: number | null }[]>([]);
  const version = answer?.version.value;
  useEffect(() => {
    const last = before.current;
    const found = last.answer === answer ? corrections(last.rows, rows, [], "events", windowMs, last.asOf) : [];
    before.current = { answer, rows: new Map(rows.map((row) => [keyOf(row, [], true), row])), asOf: Date.parse(answer?.meta.peek()?.as_of ?? "") };
    if (found.length > 0) setFlashing(found.map(({ window, from, to }) => ({ window, from: numberOf(from), to: numberOf(to) })));
  }, [answer, version]);
  useEffect(() => {
    if (flashing.length === 0) return;
    const end = setTimeout(() => setFlashing([]), FLASH_MS);
    return () => clearTimeout(end);
  }, [flashing]);
  return flashing;
}

function Trend({ answer, granularity }: { answer: LiveAnswer | null; granularity: Granularity }) {
  const { range, zone } = state.value;
  const windowMs = windowLength(granularity);
  const rows = rowsOf(answer);
  const corrected = useCorrections(answer, rows, windowMs);
  if (!answer) return <section class="card"><p class="quiet">Events are not counted together with this filter.</p></section>;
  const meta = answer.meta.value;
  const asOf = Date.parse(meta?.as_of ?? "");
  const { from, to } = boundsOf(range, Number.isFinite(asOf) ? asOf : now.peek());
  const windows = windowsOf(from, to, windowMs);
  const finalUntil = Date.parse(meta?.final_until ?? "");
  const empty = answer.loaded.value ? 0 : null;
  const known = (metric: string) => knownFrom(fill(rows, metric, windows, empty), windows, sinceOf(meta, [metric]));
  const lines: Line[] = [
    { label: "Events", unit: "count", values: known("events"), color: 0, area: true, grows: true },
    { label: "Unique users", unit: "count", values: known("unique_users"), color: 1, grows: true },
    { label: `Events, ${describePrevious(range)}`, unit: "count", values: fill(rows, "events_previous", windows, null), color: 0, faint: true },
  ];
  const first = corrected[0];
  const since = sinceOf(meta, ["events", "unique_users"]);
  return (
    <section class="card trend">
      <header><h2>Events and users</h2><span class="quiet">windows of {granularity}{since !== null && <> · <Since at={since} /></>}</span>
        <span class={first ? "corrected" : "sr"} role="status">{first ? `Corrected by late events: ${formatMoment(first.window, zone)}, ${formatValue(first.from, "count", true)} → ${formatValue(first.to, "count", true)}` : ""}</span>
      </header>
      {answer.problem.value && <Trouble problem={answer.problem.value} />}
      <TimeChart title="Events and unique users" windows={windows} windowMs={windowMs} lines={lines} zone={zone} finalUntil={Number.isFinite(finalUntil) ? finalUntil : null} asOf={Number.isFinite(asOf) ? asOf : null} corrected={corrected.map(({ window }) => window)} height={250} />
    </section>
  );
}

/** What to do while there is nothing to see. */
function Empty({ importing }: { importing: boolean }) {
  const [text] = useState(() => `curl -X POST ${location.origin}/v1/events \\
  -H "Authorization: Bearer $NILOMETER_WRITE_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"event_type":"page_view","user_id":"u-1","timestamp":${Date.now()},"country":"DE","device_type":"tv"}'`);
  const [copied, setCopied] = useState(false);
  const copy = () => void navigator.clipboard?.writeText(text).then(() => setCopied(true));
  if (importing) return <section class="card empty"><h2>History is on its way in</h2><p>An import is running. This page fills as it comes to this range; the time range above looks further back.</p></section>;
  return (
    <section class="card empty">
      <h2>No events in this range yet</h2>
      <p>Send one, and this page fills within a second. The first start of the server gave the write key, on its terminal or in <code>keys/first-start.txt</code>; <code>nilometer keys create</code> makes another. Or look further back with the time range above.</p>
      <pre tabIndex={0} aria-label="Command that sends an event">{text}</pre>
      <button type="button" class="primary" onClick={copy}>{copied ? "Copied" : "Copy"}</button>
    </section>
  );
}
