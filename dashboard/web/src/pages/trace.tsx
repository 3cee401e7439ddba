// The way of one event: where it is, what was decided, which windows it counted in.
import { useEffect, useState } from "preact/hooks";
import { get, problemFrom } from "../api";
import { formatDay, formatExact, formatPrecise, titleOf } from "../format";
import { go, state } from "../state";
import { GRANULARITIES } from "../timerange";
import type { Granularity, Problem } from "../types";
import { Trouble } from "../ui";

type Facts = Record<string, unknown>;

interface Answer {
  events: Facts[];
  complete?: boolean;
  scanned_records?: number;
}

/** How often an event in flight is looked at again. */
const FOLLOW_MS = 1000;

export function Trace() {
  const { id } = state.value;
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [asked, setAsked] = useState(0);
  useEffect(() => {
    setAnswer(null);
    setProblem(null);
    if (id === "") return;
    let stopped = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const ask = async () => {
      try {
        const body = await get<Answer>(`/v1/events/${encodeURIComponent(id)}/trace`);
        if (stopped) return;
        setAnswer(body);
        // What is on its way counts within seconds: it is followed to its end.
        if (body.events.some((facts) => facts.status === "in_flight")) timer = setTimeout(() => void ask(), FOLLOW_MS);
      } catch (error) {
        if (!stopped) setProblem(problemFrom(error));
      }
    };
    void ask();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, [id, asked]);
  const submit = (event: Event) => {
    event.preventDefault();
    const next = String(new FormData(event.currentTarget as HTMLFormElement).get("id")).trim();
    go({ id: next });
    setAsked(asked + 1);
  };
  return (
    <section class="card" aria-label="Trace">
      <form class="traceform" onSubmit={submit}>
        <label>Event id <input id="trace-id" name="id" key={id} defaultValue={id} required maxLength={512} autoComplete="off" spellcheck={false} placeholder="018f…" /></label>
        <button type="submit" class="primary">Trace</button>
      </form>
      {id === "" && <p class="quiet">Give the id of an event to see where it is, whether it counted, and in which windows.</p>}
      {id !== "" && !answer && !problem && <p class="quiet" role="status">Looking through the log…</p>}
      {problem && (problem.status === 404 ? <p class="quiet" role="status">Not found: {problem.detail}.</p> : <Trouble problem={problem} />)}
      {answer?.events.map((facts, at) => <Way key={at} facts={facts} />)}
      {answer && <Extent complete={answer.complete} scanned={answer.scanned_records} />}
    </section>
  );
}

/** How far the trace looked. */
function Extent({ complete, scanned }: { complete: unknown; scanned: unknown }) {
  if (typeof scanned !== "number") return null;
  return <p class="quiet">{complete === false ? `The time ran out after the newest ${formatExact(scanned)} records; older copies are not listed.` : `All ${formatExact(scanned)} records of the log were looked at.`}</p>;
}

/** The facts that the steps tell; whatever else there is follows below them. */
const TOLD = new Set(["event_id", "user_key", "event_type", "verdict", "status", "received_at", "timestamp", "topic", "partition", "offset", "windows", "event", "copies", "reason", "late", "accepted", "sent_timestamp", "time_correction"]);

/** Why an event counts at another time than its client sent. */
const CORRECTIONS: Record<string, string> = {
  by_offset: "moved with its batch by how far its client's clock was off",
  to_receive_time: "it was yet to come, so it counts at its receipt",
};

function Way({ facts }: { facts: Facts }) {
  const { zone } = state.value;
  const verdict = String(facts.verdict ?? facts.status ?? "unknown");
  const precise = (value: unknown) => (typeof value === "string" && Number.isFinite(Date.parse(value)) ? `${formatDay(Date.parse(value), zone)} ${formatPrecise(Date.parse(value), zone)}` : null);
  const moment = (value: unknown) => precise(value)?.replace(/\.000$/, "").replace(/:00$/, "") ?? null;
  const windows = windowsIn(facts.windows);
  const copies = Array.isArray(facts.copies) ? (facts.copies as Facts[]) : [];
  const rest = Object.fromEntries(Object.entries(facts).filter(([name]) => !TOLD.has(name)));
  return (
    <article class="way">
      <h2><span class="mono">{String(facts.event_id ?? state.value.id)}</span> <span class={`badge verdict ${verdict}`}>{titleOf(verdict)}</span></h2>
      <ol class="steps">
        <li><b>Happened</b><span>{moment(facts.timestamp) ?? "time unknown"}{facts.event_type != null && <> · {titleOf(String(facts.event_type))}</>}{facts.user_key != null && <> · <span class="mono">{String(facts.user_key)}</span></>}</span>{facts.time_correction != null && <small class="quiet">sent as {precise(facts.sent_timestamp) ?? "another time"}: {CORRECTIONS[String(facts.time_correction)] ?? titleOf(String(facts.time_correction))}</small>}</li>
        <li><b>Received</b><span>{moment(facts.received_at) ?? "time unknown"}</span></li>
        <li><b>Durable</b><span class="mono">{[facts.topic, facts.partition, facts.offset].filter((part) => part != null).map(String).join(" / ") || "not in the log"}</span></li>
        <li><b>Verdict</b><span>{titleOf(verdict)}{facts.late === true && " · behind the watermark"}{typeof facts.reason === "string" && <> · <span class="trouble">{facts.reason}</span></>}</span></li>
        <li><b>{verdict === "in_flight" ? "Will count in" : "Counted in"}</b><span>{windows.length === 0 ? "no window" : windows.map(([granularity, start]) => <span class="badge" key={granularity}>{moment(start) ?? start} · {granularity}</span>)}</span></li>
      </ol>
      <Copies copies={copies} moment={precise} />
      <Rest facts={rest} />
      {facts.event != null && <pre tabIndex={0} aria-label="Event as JSON">{JSON.stringify(facts.event, null, 2)}</pre>}
    </article>
  );
}

/** Windows by granularity, finest first. */
function windowsIn(value: unknown): [string, string][] {
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value)
    .map(([granularity, start]): [string, string] => [granularity, String(start)])
    .sort(([a], [b]) => GRANULARITIES.indexOf(a as Granularity) - GRANULARITIES.indexOf(b as Granularity));
}

/** Most copies that are listed. */
const COPIES_MAX = 100;

function Copies({ copies, moment }: { copies: Facts[]; moment: (value: unknown) => string | null }) {
  if (copies.length < 2) return null;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Every copy that came">
      <table>
        <thead><tr><th scope="col">Copy received</th><th scope="col">Happened</th><th scope="col">Topic</th><th scope="col" class="n">Partition</th><th scope="col" class="n">Offset</th><th scope="col">Verdict</th></tr></thead>
        <tbody>{copies.slice(0, COPIES_MAX).map((copy, at) => <tr key={at}><td>{moment(copy.received_at)}</td><td>{moment(copy.timestamp)}</td><td>{String(copy.topic)}</td><td class="n">{String(copy.partition)}</td><td class="n">{String(copy.offset)}</td><td>{titleOf(String(copy.verdict))}</td></tr>)}</tbody>
      </table>
    </div>
  );
}

function Rest({ facts }: { facts: Facts }) {
  const entries = Object.entries(facts).filter(([, value]) => value !== null && value !== undefined);
  if (entries.length === 0) return null;
  return (
    <dl class="facts">
      {entries.map(([name, value]) => <div key={name}><dt>{titleOf(name)}</dt><dd class="mono">{typeof value === "number" ? formatExact(value) : typeof value === "object" ? JSON.stringify(value) : String(value)}</dd></div>)}
    </dl>
  );
}
