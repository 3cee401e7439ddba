// The small parts that every page is made of.
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { formatChange, formatChangeBeside, formatError, formatExact, formatLabel, formatSeconds, NONE, titleOf } from "./format";
import { isHeld, toggled } from "./filters";
import type { Better } from "./metric";
import { sparkPath } from "./series";
import { filters, go, link, now, state } from "./state";
import type { Meta, Problem } from "./types";

/** Icons, drawn on 16 × 16. */
const ICONS: Record<string, string> = {
  pause: "M5 3v10M11 3v10",
  play: "M5 3l8 5-8 5z",
  close: "M4 4l8 8M12 4l-8 8",
  sun: "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6zM8 1v1.500M8 13.500V15M1 8h1.500M13.500 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1",
  moon: "M13 9.500A5.500 5.500 0 1 1 6.500 3 4.500 4.500 0 0 0 13 9.500z",
  help: "M6 6a2 2 0 1 1 2.700 1.900c-.5.2-.7.600-.7 1.100v.5M8 12v.3",
  clock: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM8 5v3l2 1.500",
  download: "M8 2v8M5 7l3 3 3-3M3 13h10",
  out: "M6 3H3v10h3M7 8h7M11 5l3 3-3 3",
  arrow: "M3 8h10M9 4l4 4-4 4",
  search: "M7 2.500a4.500 4.500 0 1 0 0 9 4.500 4.500 0 0 0 0-9zM10.500 10.500L14 14",
};

export function Icon({ name }: { name: keyof typeof ICONS | string }) {
  return <svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true"><path d={ICONS[name]} fill="none" stroke="currentColor" stroke-width="1.600" stroke-linecap="round" stroke-linejoin="round" /></svg>;
}

/** The column of the nilometer, with the river in it. */
export function Logo() {
  return (
    <svg class="logo" viewBox="0 0 32 32" width="28" height="28" aria-hidden="true">
      <rect width="32" height="32" rx="7" class="l0" />
      <path d="M5 21c3-2.400 5-2.400 8 0s5 2.400 8 0 4-2.200 6-1v6a2 2 0 0 1-2 2H7a2 2 0 0 1-2-2z" class="l1" />
      <path d="M16 5v17M12 8h8M13.500 12h5M12 16h8" class="l2" />
    </svg>
  );
}

/** What a message about a problem says; a combination that is not kept is no failure. */
export function Trouble({ problem }: { problem: Problem }) {
  if (problem.code === "no_such_cube") return <p class="quiet">Not counted together with this filter.</p>;
  if (problem.code === "granularity_expired") return <p class="quiet">{problem.detail}</p>;
  return <p class="trouble" role="alert"><b>{titleOf(problem.code)}.</b> {problem.detail}</p>;
}

export function Sparkline({ values }: { values: (number | null)[] }) {
  const path = sparkPath(values, 120, 28);
  if (!path) return <svg class="spark" viewBox="0 0 120 28" aria-hidden="true" />;
  return (
    <svg class="spark" viewBox="0 0 120 28" preserveAspectRatio="none" aria-hidden="true">
      {values.every((value) => value !== null) && <path class="under" d={`${path}L120 28L0 28Z`} />}
      <path class="over" d={path} />
    </svg>
  );
}

/** Beyond this the period before held next to nothing: a factor would say more than is known. */
const FACTOR_MAX = 100;

/** `beside` others, in a column, it is written as they are. */
export function Change({ ratio, better, against, beside = false }: { ratio: number | null; better: Better; against: string; beside?: boolean }) {
  if (ratio === null || ratio > FACTOR_MAX) {
    const why = ratio === null ? "no comparison" : `next to nothing in ${against}`;
    return <span class="change none" title={why}>{beside ? <><span aria-hidden="true">{NONE}</span><span class="sr">{why}</span></> : "no comparison"}</span>;
  }
  const small = Math.abs(ratio) < 0.005;
  const good = small || better === "neither" ? "even" : (ratio > 0) === (better === "up") ? "good" : "bad";
  return <span class={`change ${good}`} title={`against ${against}`}><span aria-hidden="true">{small ? "→" : ratio > 0 ? "↑" : "↓"}</span> {beside ? formatChangeBeside(ratio) : formatChange(ratio)}<span class="sr"> against {against}</span></span>;
}

/** Age of what is shown: what the server said, and how long ago by our clock it said so. */
export function ageOf(meta: Meta | null, present: number): number | null {
  if (meta?.freshness_ms == null || meta.received_at === undefined) return null;
  return Math.max(0, meta.freshness_ms + Math.max(0, present - meta.received_at));
}

export function Exactness({ meta, metric }: { meta: Meta | null; metric: string }) {
  const error = meta?.approximate?.[metric];
  const unread = meta?.unread?.[metric];
  if (unread) return <span title="of these events, since the metric was declared, what stood there is text, or too large">{formatExact(unread)} without a number</span>;
  if (error === undefined || error === 0) return <span title="counted exactly">exact</span>;
  return <span title="relative error at 95 %">{formatError(error)}</span>;
}

/** Events of the range that stand in none of its numbers. */
export function TooLate({ meta }: { meta: Meta }) {
  if (!meta.late_pending) return null;
  return <span class="badge" title="they came later than ids are remembered, so that nobody knows whether they were counted before; an import of them counts">{formatExact(meta.late_pending)} too late to count</span>;
}

/** Whether the page follows the server, and how closely. */
export function LinkBadge() {
  const status = link.status.value;
  const paused = link.paused.value;
  const text = paused ? "Paused" : { connecting: "Connecting…", live: "Live", polling: "Polling", lost: "Connection lost" }[status];
  const since = status === "lost" && link.heardAt.value > 0 ? ` · ${formatSeconds(Math.round((now.value - link.heardAt.value) / 1000))}` : "";
  return <span class={`badge link ${paused ? "paused" : status}`}><i aria-hidden="true" />{text}{since}</span>;
}

/** Says at once that the connection is gone. */
export function LostBanner() {
  if (link.status.value !== "lost") return <div role="status" class="sr" />;
  return <div role="status" class="banner">Connection lost. What you see is the last that came; trying again by itself.</div>;
}

/** A value that, clicked, everything is held to; clicked again, no longer. */
export function Held({ dimension, value, children }: { dimension: string; value: string | null; children?: ComponentChildren }) {
  const held = isHeld(filters.value, dimension, value);
  return (
    <button type="button" class="value" aria-pressed={held} title={`${held ? "Remove" : "Filter by"} ${titleOf(dimension)}: ${formatLabel(value)}`} onClick={() => go({ filters: toggled(state.peek().filters, dimension, value) })}>
      {children ?? formatLabel(value)}
    </button>
  );
}

/** What everything is held to. */
export function Chips() {
  const list = filters.value;
  if (list.length === 0) return null;
  return (
    <div class="chips" role="group" aria-label="Filters">
      {list.map((filter) => (
        <span class="chip" key={filter.dimension}>
          <span>{titleOf(filter.dimension)}</span>
          {filter.values.map((value) => (
            <button type="button" key={String(value)} aria-label={`Remove ${titleOf(filter.dimension)} ${formatLabel(value)}`} onClick={() => go({ filters: toggled(state.peek().filters, filter.dimension, value) })}>{formatLabel(value)} <Icon name="close" /></button>
          ))}
        </span>
      ))}
      {list.length > 1 && <button type="button" class="plain" onClick={() => go({ filters: [] })}>Clear all</button>}
      {state.value.page !== "events" && <button type="button" class="plain" onClick={() => go({ page: "events", tab: "tail" })}>See these events <Icon name="arrow" /></button>}
    </div>
  );
}

/** A window over the page that Escape closes; the browser keeps the focus inside. */
export function Dialog({ title, onClose, children }: { title: string; onClose: () => void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => { dialog.current?.showModal(); }, []);
  return (
    <dialog ref={dialog} aria-label={title} onClose={onClose} onClick={(event) => event.target === dialog.current && dialog.current?.close()}>
      <div class="inner">
        <header><h2>{title}</h2><button type="button" class="icon-button" aria-label="Close" onClick={() => dialog.current?.close()}><Icon name="close" /></button></header>
        {children}
      </div>
    </dialog>
  );
}
