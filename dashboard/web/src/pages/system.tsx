// How the house is: that nothing is lost, how far behind it is, how much it holds.
import type { ComponentChildren } from "preact";
import { columnOf, formatBytes, formatExact, formatMoment, formatSeconds, formatValue, NONE, titleOf } from "../format";
import { usePoll } from "../poll";
import { now, state } from "../state";
import { ZoneToggle } from "../controls";
import { Trouble } from "../ui";

interface Partition {
  topic: string;
  partition: number;
  end_offset: number;
  position: number;
  lag: number;
  lag_ms?: number | null;
  watermark?: string | null;
  checkpoint?: { seq?: number; age_ms?: number | null; took_ms?: number | null; failures?: number } | null;
}

interface Pipeline {
  totals: Record<string, number>;
  residual: number;
  partitions: Partition[];
  freshness_ms?: { p50?: number | null; p99?: number | null };
  /** By the source of the keys that sent them. */
  conflicts_by_source?: Record<string, number>;
  /** By metric, events that it counted without their number. */
  unread?: Record<string, number>;
  /** By field, values that masking changed. */
  masked?: Record<string, number>;
  /** Keys that have sent most, the first of them first. */
  senders?: { key: string; label: string; events: number; bytes: number; refused: number; today_events: number; today_bytes: number }[];
  quarantined?: { topic: string; partition: number; first: number; next: number; file: string; reason: string }[];
  /** What the process holds; no `resident_bytes` where the system does not tell. */
  memory?: { limit_bytes: number; resident_bytes?: number | null; parts: Record<string, number> };
  clock?: { now: string; behind_ms: number; is_slow: boolean; ahead_ms: number; follows_in_ms: number };
  [name: string]: unknown;
}

/** A term of a sum, and its colour. */
interface Term {
  title: string;
  says: string;
  value: number;
  color: number;
}

/** The terms of the sum, in the order of guarantee N3. */
const TERMS: { name: string; title: string; says: string }[] = [
  { name: "unique", title: "Unique", says: "counted, each once" },
  { name: "duplicate", title: "Duplicate", says: "came again, counted once" },
  { name: "late_pending", title: "Late, pending", says: "too late to count live; an import of them counts" },
  { name: "dead_lettered", title: "Dead-lettered", says: "refused, with the reason" },
  { name: "erased", title: "Erased", says: "gone on request" },
  { name: "quarantined", title: "Quarantined", says: "in a damaged file" },
  { name: "in_flight", title: "In flight", says: "on their way" },
];

/** Who holds memory, with the parts that the server tells. Red is for what is bad. */
const HOLDERS: [title: string, says: string, parts: string, color: number][] = [
  ["Counts", "not on disk yet", "layers entries layers_waiting", 1],
  ["Known ids", "to tell repeats", "ids", 2],
  ["Sessions", "of recent users", "sessions", 3],
  ["Known values", "of dimensions", "guard", 4],
  ["Requests", "and answers, with their data", "bodies log_queue cache answers", 5],
  ["The program", "and what it gives back soon", "program allocator freed", 7],
];

/** Thresholds of REQUIREMENTS, M1, M2, M4 and M6. */
const LAG_RECORDS_MAX = 100_000;
const CHECKPOINT_TOOK_MS_MAX = 10_000;
const FRESHNESS_MS_MAX = 60_000;
const LATE_SHARE_MAX = 0.05;
const CLOCK_BEHIND_MS_MAX = 1000;
const MEMORY_SHARE_MAX = 1.15;

/** Sources that a tile names. */
const SOURCES_TOLD_MAX = 3;

export function SystemPage() {
  const { data, problem } = usePoll<Pipeline>("/v1/pipeline", 2000);
  return (
    <main id="main">
      <div class="toolbar"><h1>System</h1><span class="grow" /><ZoneToggle /></div>
      {problem && <Trouble problem={problem} />}
      {data && <><Clock data={data} /><Vitals data={data} /><Conservation data={data} /><Memory data={data} /><Quarantined data={data} /><Unread data={data} /><Partitions data={data} /><Senders data={data} /><Masked data={data} /><Numbers data={data} /></>}
    </main>
  );
}

/** Where the house clock and the machine's disagree: what that means, and what to do. */
function Clock({ data }: { data: Pipeline }) {
  const { ahead_ms = 0, follows_in_ms = 0, behind_ms = 0, is_slow = false } = data.clock ?? {};
  if (ahead_ms === 0 && behind_ms <= CLOCK_BEHIND_MS_MAX) return null;
  const by = formatSeconds((ahead_ms || behind_ms) / 1000);
  return (
    <section class="card" aria-label="Clock">
      <header><h2>Clock</h2><span class="badge stale"><i aria-hidden="true" />{ahead_ms > 0 ? `The machine's clock jumped ahead by ${by}` : `The machine's clock is behind by ${by}`}</span></header>
      <p class="quiet">{ahead_ms > 0
        ? `It is not followed. If it is wrong, set it right. If it is right, it is followed in ${formatSeconds(follows_in_ms / 1000)}, or at once by POST /v1/clock/follow with an admin token.`
        : is_slow
          ? "Events count at the house clock's time, which goes at half speed until the machine's has caught up. If the machine's clock is wrong, set it and restart; for true dates restore a backup from before."
          : "It was set back. The house clock stands still until it has caught up."}</p>
    </section>
  );
}

function Vital({ label, value, state: condition, note }: { label: string; value: string; state: "good" | "bad" | "even"; note: string }) {
  return (
    <section class="card tile vital" aria-label={label}>
      <h2>{label}</h2>
      <p class="big">{value}</p>
      <p class="foot"><span class={`change ${condition}`}>{condition === "bad" ? "Look here" : condition === "good" ? "Good" : ""}</span><span class="grow" /><span>{note}</span></p>
    </section>
  );
}

/** What a conflict is, or in which sources there were any, most first. */
function conflictsBySource({ conflicts_by_source = {} }: Pipeline): string {
  const sources = Object.entries(conflicts_by_source).filter(([, count]) => count > 0).sort(([, one], [, other]) => other - one);
  if (sources.length === 0) return "same id, other content";
  const told = sources.slice(0, SOURCES_TOLD_MAX).map(([source, count]) => `${source} ${formatExact(count)}`);
  return `same id, other content: ${told.join(", ")}${sources.length > told.length ? ", …" : ""}`;
}

function Vitals({ data }: { data: Pipeline }) {
  const { p50, p99 } = data.freshness_ms ?? {};
  const received = data.totals.received ?? 0;
  const late = received > 0 ? (data.totals.late ?? 0) / received : null;
  const lag = data.partitions.reduce((sum, partition) => sum + partition.lag, 0);
  const lagMs = Math.max(0, ...data.partitions.map((partition) => partition.lag_ms ?? 0));
  const checkpoints = data.partitions.flatMap((partition) => (partition.checkpoint ? [partition.checkpoint] : []));
  // What no shard can tell yet is not 0.
  const most = (values: (number | null | undefined)[]) => values.reduce<number | null>((most, value) => (value == null ? most : Math.max(most ?? value, value)), null);
  const age = most(checkpoints.map((checkpoint) => checkpoint.age_ms));
  const took = most(checkpoints.map((checkpoint) => checkpoint.took_ms));
  const judge = (value: number | null | undefined, max: number) => (value == null ? "even" : value > max ? "bad" : "good");
  return (
    <div class="tiles">
      <Vital label="Freshness p50" value={formatValue(p50 ?? null, "ms")} state={judge(p50, FRESHNESS_MS_MAX)} note="event to dashboard" />
      <Vital label="Freshness p99" value={formatValue(p99 ?? null, "ms")} state={judge(p99, FRESHNESS_MS_MAX)} note={`at most ${formatSeconds(FRESHNESS_MS_MAX / 1000)}`} />
      <Vital label="Lag" value={formatExact(lag)} state={judge(lag, LAG_RECORDS_MAX)} note={`records · ${formatSeconds(lagMs / 1000)}`} />
      <Vital label="Late" value={formatValue(late, "ratio")} state={judge(late, LATE_SHARE_MAX)} note={`${formatExact(data.totals.late ?? 0)} behind the watermark`} />
      <Vital label="Checkpoint age" value={formatValue(age, "ms")} state="even" note="the oldest shard's" />
      <Vital label="Checkpoint took" value={formatValue(took, "ms")} state={judge(took, CHECKPOINT_TOOK_MS_MAX)} note={`at most ${formatSeconds(CHECKPOINT_TOOK_MS_MAX / 1000)}`} />
      <Vital label="Dead letters" value={formatExact(data.totals.dead_lettered ?? 0)} state="even" note={received > 0 ? `${formatValue((data.totals.dead_lettered ?? 0) / received, "ratio")} of received` : ""} />
      <Vital label="Id conflicts" value={formatExact(data.totals.conflicts ?? 0)} state={(data.totals.conflicts ?? 0) > 0 ? "bad" : "good"} note={conflictsBySource(data)} />
    </div>
  );
}

/** What a total is made of, as a bar and in numbers; `room` is what the bar has beside it. */
function Sum({ name, isGood, says, total, terms, room = 0, write, children }: { name: string; isGood: boolean; says: string; total: Term; terms: Term[]; room?: number; write: (value: number) => string; children?: ComponentChildren }) {
  return (
    <section class="card" aria-label={name}>
      <header><h2>{total.title}</h2><span class={`badge ${isGood ? "fresh" : "stale"}`}><i aria-hidden="true" />{says}</span></header>
      <div class="stack" aria-hidden="true">
        {terms.map((term) => term.value > 0 && <i key={term.title} class={`b${term.color}`} style={{ flexGrow: String(Math.max(term.value, total.value / 250)) }} />)}
        {room > 0 && <i style={{ flexGrow: String(room) }} />}
      </div>
      <dl class="sum">
        <div class="total"><dt>{total.says}</dt><dd>{write(total.value)}</dd></div>
        {terms.map((term, at) => (
          <div key={term.title}><dt><i class={`dot b${term.color}`} aria-hidden="true" /><span aria-hidden="true">{at === 0 ? "= " : "+ "}</span>{term.title}<small>{term.says}</small></dt><dd>{write(term.value)}</dd></div>
        ))}
        {children}
      </dl>
    </section>
  );
}

function Conservation({ data: { totals, residual } }: { data: Pipeline }) {
  const terms = TERMS.map((term, at) => ({ ...term, value: totals[term.name] ?? 0, color: at + 1 }));
  const isExact = residual === 0;
  return (
    <Sum name="Conservation" isGood={isExact} says={isExact ? "The sum is exact" : `${formatExact(residual)} unaccounted for`} total={{ title: "Nothing is lost", says: "Received", value: totals.received ?? 0, color: 0 }} terms={terms} write={formatExact}>
      <div class={isExact ? "" : "trouble"}><dt><span aria-hidden="true">+ </span>Residual<small>must be 0</small></dt><dd>{formatExact(residual)}</dd></div>
    </Sum>
  );
}

/** What the process holds of what it may, and who. */
function Memory({ data: { memory } }: { data: Pipeline }) {
  const resident = memory?.resident_bytes;
  if (!memory || resident == null) return null;
  const { limit_bytes: limit, parts } = memory;
  const terms = HOLDERS.map(([title, says, names, color]) => ({ title, says, value: names.split(" ").reduce((sum, name) => sum + (parts[name] ?? 0), 0), color }));
  const other = Math.max(0, terms.reduce((left, term) => left - term.value, resident));
  terms.push({ title: "Other", says: "not counted by itself", value: other, color: 8 });
  return <Sum name="Memory" isGood={resident <= limit * MEMORY_SHARE_MAX} says={`${formatValue(resident / limit, "ratio")} of ${formatBytes(limit)}`} total={{ title: "Memory", says: "In use", value: resident, color: 0 }} terms={terms} room={limit - resident} write={columnOf([resident, ...terms.map((term) => term.value)], "bytes")} />;
}

function Partitions({ data }: { data: Pipeline }) {
  const { zone } = state.value;
  // By the clock that the watermarks follow, which may not be the reader's.
  const house = Date.parse(data.clock?.now ?? "");
  const age = ({ watermark }: Partition) => {
    const seconds = ((Number.isFinite(house) ? house : now.value) - Date.parse(watermark ?? "")) / 1000;
    return Number.isFinite(seconds) ? seconds : null;
  };
  const columnOfMs = (read: (partition: Partition) => number | null | undefined) => columnOf(data.partitions.map((one) => read(one) ?? null), "ms");
  const ages = columnOf(data.partitions.map(age), "seconds");
  const lags = columnOfMs((one) => one.lag_ms);
  const checkpoints = columnOfMs((one) => one.checkpoint?.age_ms);
  const took = columnOfMs((one) => one.checkpoint?.took_ms);
  return (
    <section class="card" aria-label="Partitions">
      <header><h2>Partitions</h2></header>
      <div class="scroll" tabIndex={0} role="region" aria-label="Table of partitions">
        <table>
          <thead><tr><th scope="col">Topic</th><th scope="col" class="n">Partition</th><th scope="col" class="n">Position</th><th scope="col" class="n">End</th><th scope="col" class="n">Lag</th><th scope="col" class="n">Lag, time</th><th scope="col">Watermark</th><th scope="col" class="n">Checkpoint</th><th scope="col" class="n">Age</th><th scope="col" class="n">Took</th></tr></thead>
          <tbody>
            {data.partitions.map((partition) => (
              <tr key={`${partition.topic} ${partition.partition}`}>
                <th scope="row">{partition.topic}</th>
                <td class="n">{partition.partition}</td>
                <td class="n">{formatExact(partition.position)}</td>
                <td class="n">{formatExact(partition.end_offset)}</td>
                <td class={`n ${partition.lag > LAG_RECORDS_MAX ? "trouble" : ""}`}>{formatExact(partition.lag)}</td>
                <td class="n">{lags(partition.lag_ms ?? null)}</td>
                <td title={partition.watermark ?? ""}>{age(partition) === null ? NONE : `${formatMoment(Date.parse(partition.watermark!), zone)} · ${ages(age(partition))} ago`}</td>
                <td class="n">{partition.checkpoint?.seq === undefined ? NONE : formatExact(partition.checkpoint.seq)}</td>
                <td class="n">{checkpoints(partition.checkpoint?.age_ms ?? null)}</td>
                <td class="n">{took(partition.checkpoint?.took_ms ?? null)}{(partition.checkpoint?.failures ?? 0) > 0 && <span class="trouble"> · {partition.checkpoint!.failures} failed</span>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

/** What was lost to damage, by name. */
function Quarantined({ data }: { data: Pipeline }) {
  const lost = data.quarantined ?? [];
  if (lost.length === 0) return null;
  return (
    <section class="card" aria-label="Quarantined">
      <header><h2>Quarantined</h2><span class="badge stale"><i aria-hidden="true" />Damaged files</span></header>
      <div class="scroll" tabIndex={0} role="region" aria-label="Table of damaged ranges">
        <table>
          <thead><tr><th scope="col">File</th><th scope="col">Topic</th><th scope="col" class="n">Partition</th><th scope="col" class="n">Records</th><th scope="col" class="n">From</th><th scope="col">Reason</th></tr></thead>
          <tbody>{lost.map((one) => <tr key={`${one.topic} ${one.partition} ${one.first}`}><th scope="row" class="mono">{one.file}</th><td>{one.topic}</td><td class="n">{one.partition}</td><td class="n">{formatExact(one.next - one.first)}</td><td class="n">{formatExact(one.first)}</td><td class="message">{one.reason}</td></tr>)}</tbody>
        </table>
      </div>
    </section>
  );
}

/** Events of which a metric has no number, though they carry something in its place. */
function Unread({ data }: { data: Pipeline }) {
  const metrics = Object.entries(data.unread ?? {});
  if (metrics.length === 0) return null;
  return (
    <section class="card" aria-label="Numbers that cannot be read">
      <header><h2>Numbers that cannot be read</h2><span class="badge stale"><i aria-hidden="true" />Metrics lack values</span></header>
      <p class="quiet">Events that these metrics counted without their number: it is text, or too large for the metric's scale.</p>
      <dl class="facts">{metrics.map(([metric, events]) => <div key={metric}><dt>{titleOf(metric)}</dt><dd>{formatExact(events)}</dd></div>)}</dl>
    </section>
  );
}

/** Who sends most. */
function Senders({ data }: { data: Pipeline }) {
  const senders = data.senders ?? [];
  if (senders.length === 0) return null;
  const size = columnOf(senders.map((one) => one.bytes), "bytes");
  const today = columnOf(senders.map((one) => one.today_bytes), "bytes");
  return (
    <section class="card" aria-label="Senders">
      <header><h2>Senders</h2></header>
      <div class="scroll" tabIndex={0} role="region" aria-label="Table of senders">
        <table>
          <thead><tr><th scope="col">Key</th><th scope="col" class="n">Events</th><th scope="col" class="n">Size</th><th scope="col" class="n">Events, today</th><th scope="col" class="n">Size, today</th><th scope="col" class="n">Over quota</th></tr></thead>
          <tbody>{senders.map((one) => <tr key={one.key}><th scope="row" title={one.key}>{one.label || one.key}</th><td class="n">{formatExact(one.events)}</td><td class="n">{size(one.bytes)}</td><td class="n">{formatExact(one.today_events)}</td><td class="n">{today(one.today_bytes)}</td><td class={`n ${one.refused > 0 ? "trouble" : ""}`}>{formatExact(one.refused)}</td></tr>)}</tbody>
        </table>
      </div>
    </section>
  );
}

/** What masking changed, under the names by which a field is exempted. */
function Masked({ data }: { data: Pipeline }) {
  const fields = Object.entries(data.masked ?? {});
  if (fields.length === 0) return null;
  return (
    <section class="card" aria-label="Masked values">
      <header><h2>Masked values</h2></header>
      <p class="quiet">Values in which masking changed something since the server began, by field. A field whose tokens are no addresses is exempted in [masking].</p>
      <dl class="facts">{fields.map(([field, values]) => <div key={field}><dt class="mono">{field}</dt><dd>{formatExact(values)}</dd></div>)}</dl>
    </section>
  );
}

/** Shown above already, or a moment that needs no place here. */
const SHOWN = new Set(["totals", "residual", "partitions", "freshness_ms", "quarantined", "unread", "masked", "as_of", "clock", "memory"]);

/** Numbers that must be 0: windows whose cells cannot be read, for now or for good. */
const TROUBLE = new Set(["store chunks_unreadable", "store layers_unreadable", "store layers_refused", "store damaged"]);

/** Where the server's own name says too little. */
const NAMES: Record<string, string> = { corrected_24h: "from the future, last 24 h" };

/** Whatever else the server says, by its unit: sizes of log and store, folds, queues. */
function Numbers({ data }: { data: Pipeline }) {
  const facts = Object.entries(data).filter(([name]) => !SHOWN.has(name)).flatMap(([name, value]) => flat(NAMES[name] ?? name, value));
  if (facts.length === 0) return null;
  const isTrouble = ([name, value]: [string, string]) => TROUBLE.has(name) && value !== formatExact(0);
  return (
    <section class="card" aria-label="Log and store">
      <header><h2>Log and store</h2>{facts.some(isTrouble) && <span class="badge stale"><i aria-hidden="true" />Windows cannot be read</span>}</header>
      <dl class="facts">{facts.map((fact) => <div key={fact[0]} class={isTrouble(fact) ? "trouble" : ""}><dt>{titleOf(fact[0])}</dt><dd>{fact[1]}</dd></div>)}</dl>
    </section>
  );
}

function flat(name: string, value: unknown): [string, string][] {
  if (typeof value === "number") {
    if (/(^|_| )bytes$/.test(name)) return [[/ bytes$/.test(name) ? name.replace(/ bytes$/, " size") : name.replace(/_bytes$/, ""), formatBytes(value)]];
    if (name.endsWith("_ms")) return [[name.replace(/_ms$/, ""), formatValue(value, "ms")]];
    return [[name, formatExact(value)]];
  }
  if (typeof value === "boolean") return [[name, value ? "yes" : "no"]];
  if (typeof value === "string") return [[name, value]];
  if (typeof value !== "object" || value === null || Array.isArray(value)) return [];
  return Object.entries(value).flatMap(([inner, fact]) => flat(`${name} ${inner}`, fact));
}
