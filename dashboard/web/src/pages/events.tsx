// Single events: as they arrive, those that were refused, and the way of one of them.
import { useEffect, useRef, useState } from "preact/hooks";
import { get, problemFrom } from "../api";
import { FilterBox, PauseButton, ZoneToggle } from "../controls";
import { formatFilter, passes } from "../filters";
import { formatDelay, formatMoment, formatPrecise, formatSeconds, NONE, titleOf } from "../format";
import { filters, go, link, state } from "../state";
import type { Problem, Row } from "../types";
import type { Tab } from "../urlstate";
import { Chips, Held, Trouble } from "../ui";
import { Letters } from "./letters";
import { Trace } from "./trace";

const TABS: { tab: Tab; title: string }[] = [
  { tab: "tail", title: "Live tail" },
  { tab: "letters", title: "Dead letters" },
  { tab: "trace", title: "Trace" },
];

export function EventsPage() {
  const { tab } = state.value;
  const move = (event: KeyboardEvent) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const next = TABS[(TABS.findIndex((entry) => entry.tab === tab) + step + TABS.length) % TABS.length]!;
    go({ tab: next.tab });
    requestAnimationFrame(() => document.getElementById(`tab-${next.tab}`)?.focus());
  };
  return (
    <main id="main">
      <div class="toolbar">
        <h1>Events</h1>
        <div role="tablist" aria-label="Views of events" class="tabs" onKeyDown={move}>
          {TABS.map((entry) => (
            <button type="button" role="tab" key={entry.tab} id={`tab-${entry.tab}`} aria-selected={entry.tab === tab} aria-controls="panel" tabIndex={entry.tab === tab ? 0 : -1} onClick={() => go({ tab: entry.tab })}>{entry.title}</button>
          ))}
        </div>
        <span class="grow" />
        {tab === "tail" && <FilterBox seen={[]} />}
        <ZoneToggle />
        {tab === "tail" && <PauseButton />}
      </div>
      <div role="tabpanel" id="panel" aria-labelledby={`tab-${tab}`}>
        {tab === "tail" ? <Tail /> : tab === "letters" ? <Letters /> : <Trace />}
      </div>
    </main>
  );
}

/** Rows that the tail keeps, and asks for at once. */
const TAIL_ROWS_MAX = 500;
const TAIL_BATCH = 200;
const TAIL_MS = 1000;

interface TailEvent extends Row {
  topic?: string;
  partition?: number;
  offset?: number;
}

/** Metrics that count the event without its number. */
function unreadOf(event: TailEvent): string[] {
  const unread: unknown = event.unread;
  return Array.isArray(unread) ? unread.map(String) : [];
}

function keyOfEvent(event: TailEvent): string {
  return `${event.topic}/${event.partition}/${event.offset}`;
}

/** Follows the log; pausing holds the page, and the log keeps what came meanwhile. */
function useTail(): { events: TailEvent[]; problem: Problem | null } {
  const [events, setEvents] = useState<TailEvent[]>([]);
  const [problem, setProblem] = useState<Problem | null>(null);
  const cursor = useRef<string | null>(null);
  const paused = link.paused.value;
  const filter = filters.value.map((one) => `&filter=${encodeURIComponent(formatFilter(one))}`).join("");
  // Another filter is another tail: what is shown passes it already, what is older is asked for anew.
  useEffect(() => { cursor.current = null; }, [filter]);
  useEffect(() => {
    if (paused) return;
    let stopped = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const ask = async () => {
      try {
        const after = cursor.current === null ? "" : `&after=${encodeURIComponent(cursor.current)}`;
        const body = await get<{ events: TailEvent[]; cursor: string }>(`/v1/events/tail?limit=${TAIL_BATCH}${after}${filter}`);
        if (stopped) return;
        cursor.current = body.cursor;
        setProblem(null);
        if (body.events.length > 0) {
          setEvents((before) => {
            const known = new Set(before.map(keyOfEvent));
            const fresh = body.events.filter((event) => !known.has(keyOfEvent(event)));
            return [...fresh, ...before].sort((a, b) => String(b.received_at).localeCompare(String(a.received_at))).slice(0, TAIL_ROWS_MAX);
          });
        }
      } catch (error) {
        if (stopped) return;
        setProblem(problemFrom(error));
      }
      timer = setTimeout(() => void ask(), TAIL_MS);
    };
    void ask();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, [paused, filter]);
  return { events, problem };
}

/** Columns of the tail that filter when clicked. */
const CLICKABLE = ["event_type", "country", "device_type", "content_id"];

function Tail() {
  const { events, problem } = useTail();
  const { find } = state.value;
  const held = filters.value;
  const [open, setOpen] = useState<string | null>(null);
  const wanted = find.toLowerCase();
  const shown = events.filter((event) => passes(event, held) && (wanted === "" || JSON.stringify(event).toLowerCase().includes(wanted)));
  return (
    <>
      <Chips />
      <section class="card" aria-label="Live tail">
        <header>
          <label class="find">Find in these events <input type="search" value={find} maxLength={200} onInput={(event) => go({ find: event.currentTarget.value }, "replace")} /></label>
          <span class="quiet">{shown.length === events.length ? `${shown.length} events` : `${shown.length} of ${events.length} events`}</span>
        </header>
        {problem && <Trouble problem={problem} />}
        {!problem && shown.length === 0 && <p class="quiet">{events.length === 0 ? "Waiting for events…" : "None of these events matches."}</p>}
        {shown.length > 0 && (
          <div class="scroll tall" tabIndex={0} role="region" aria-label="Events, newest first">
            <table class="tail">
              <thead><tr><th scope="col">Received</th><th scope="col">Type</th><th scope="col">User</th><th scope="col">Country</th><th scope="col">Device</th><th scope="col">Content</th><th scope="col" class="n">Delay</th><th scope="col"><span class="sr">Details</span></th></tr></thead>
              <tbody>{shown.map((event) => <TailRow key={keyOfEvent(event)} event={event} open={open === keyOfEvent(event)} onToggle={() => setOpen(open === keyOfEvent(event) ? null : keyOfEvent(event))} />)}</tbody>
            </table>
          </div>
        )}
      </section>
    </>
  );
}

function TailRow({ event, open, onToggle }: { event: TailEvent; open: boolean; onToggle: () => void }) {
  const { zone } = state.value;
  const received = Date.parse(String(event.received_at));
  const delay = received - Date.parse(String(event.timestamp));
  return (
    <>
      <tr>
        <td title={formatMoment(received, zone)}>{formatPrecise(received, zone)}</td>
        {CLICKABLE.slice(0, 1).map((name) => <td key={name}><Cell event={event} name={name} /></td>)}
        <td class="mono">{event.user_key ?? NONE}</td>
        {CLICKABLE.slice(1).map((name) => <td key={name}><Cell event={event} name={name} /></td>)}
        <td class="n" title={Number.isFinite(delay) ? formatSeconds(delay / 1000) : undefined}>{Number.isFinite(delay) ? formatDelay(delay / 1000) : NONE}</td>
        <td>{unreadOf(event).length > 0 && <span class="badge stale" title={`Counted without its number by ${unreadOf(event).join(", ")}: it is text, or too large`}><i aria-hidden="true" />No number</span>}<button type="button" class="plain" aria-expanded={open} onClick={onToggle}>{open ? "Less" : "More"}<span class="sr"> about event {event.event_id}</span></button></td>
      </tr>
      {open && (
        <tr class="detail"><td colSpan={8}>
          <p><button type="button" class="ghost" onClick={() => go({ tab: "trace", id: String(event.event_id) })}>Trace this event</button></p>
          <pre tabIndex={0} aria-label="Event as JSON">{JSON.stringify(event, null, 2)}</pre>
        </td></tr>
      )}
    </>
  );
}

function Cell({ event, name }: { event: TailEvent; name: string }) {
  const value = event[name];
  return <Held dimension={name} value={value == null ? null : String(value)}>{value == null ? NONE : name === "event_type" ? titleOf(String(value)) : String(value)}</Held>;
}
