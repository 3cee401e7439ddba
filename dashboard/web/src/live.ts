// One connection that keeps every answer on the page up to date.
//
// A WebSocket carries all subscriptions; where it cannot be opened, the same questions are polled
// with ETag. Losing it is said at once, and it comes back by itself.
import { batch, signal, type Signal } from "@preact/signals";
import { problemFrom, request } from "./api";
import { keyOf, ordered, RowSet, sameRow } from "./delta";
import type { Meta, Problem, Query, Row } from "./types";
import { toJson, toParams } from "./wire";

export type LinkStatus = "connecting" | "live" | "polling" | "lost";

/** Waits before the next try: doubled from the first to the last. */
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 10_000;
/** A connection that says nothing for this long, pings notwithstanding, is dead. */
const SILENCE_MS_MAX = 20_000;
const PING_MS = 7_000;
/** Connections that never said anything before polling begins. */
const FAILURES_BEFORE_POLLING = 2;
const POLL_MS_MIN = 5_000;
/** How long a subscription outlives its last reader, so that a change of page does not tear it down. */
const LINGER_MS = 300;

/** Refusals that pass by themselves: the same question is asked again a little later. */
const PASSING = new Set(["rate_limited", "too_many_subscriptions", "too_many_live_queries", "overloaded"]);
const ASK_AGAIN_MS = 1500;

/**
 * Names a question on the wire by its content (FNV-1a, twice 32 bits): viewers of one page use the
 * same names, so that the server writes one text for all of them.
 */
export function nameOnWire(question: string): string {
  const hash = (seed: number) => {
    let state = seed;
    for (let at = 0; at < question.length; at += 1) state = Math.imul(state ^ question.charCodeAt(at), 0x01000193);
    return (state >>> 0).toString(36);
  };
  return `q${hash(0x811c9dc5)}${hash(0x2545f491)}`;
}

/** One question and its answer, kept up to date. Readers follow the signals. */
export class LiveAnswer {
  readonly keys = signal<readonly string[]>([]);
  readonly meta = signal<Meta | null>(null);
  readonly problem = signal<Problem | null>(null);
  /** Counts what was shown: charts, which read all rows, follow it. */
  readonly version = signal(0);
  /** Whether an answer has come at all. */
  readonly loaded = signal(false);

  private shown = new Map<string, Signal<Row>>();
  private rows: RowSet;
  private latest: { rows: Row[]; meta: Meta } | null = null;
  /** For the polling fallback. */
  etag: string | null = null;

  constructor(readonly query: Query, readonly intervalMs: number) {
    this.rows = new RowSet(query.groupBy, query.granularity !== "total");
  }

  /** The row of a key; follows its values. */
  row(key: string): Row | undefined {
    return this.shown.get(key)?.value;
  }

  /** All rows as shown, in order. */
  all(): Row[] {
    return this.keys.value.flatMap((key) => {
      const row = this.shown.get(key)?.peek();
      return row ? [row] : [];
    });
  }

  snapshot(revision: number, rows: Row[], meta: Meta): void {
    this.rows.snapshot(revision, rows);
    this.latest = { rows: this.rows.values(), meta: { ...meta, received_at: Date.now() } };
  }

  /** False where a revision is missing. */
  delta(message: { from: number; revision: number; changed?: Row[]; removed?: Row[]; meta: Meta }): boolean {
    const applied = this.rows.apply({ from: message.from, revision: message.revision, changed: message.changed ?? [], removed: message.removed ?? [] });
    if (applied) this.latest = { rows: this.rows.values(), meta: { ...message.meta, received_at: Date.now() } };
    return applied;
  }

  /** Shows the latest answer; only what changed is written. */
  publish(): void {
    if (!this.latest) return;
    const { rows, meta } = this.latest;
    this.latest = null;
    batch(() => {
      const next = ordered(rows, this.query);
      const keys = next.map((row) => keyOf(row, this.query.groupBy, this.query.granularity !== "total"));
      let changed = false;
      next.forEach((row, at) => {
        const key = keys[at]!;
        const cell = this.shown.get(key);
        if (!cell) this.shown.set(key, signal(row));
        else if (!sameRow(cell.peek(), row)) cell.value = row;
        else return;
        changed = true;
      });
      const before = this.keys.peek();
      if (keys.length !== before.length || keys.some((key, at) => key !== before[at])) {
        this.keys.value = keys;
        const kept = new Set(keys);
        for (const key of this.shown.keys()) if (!kept.has(key)) this.shown.delete(key);
        changed = true;
      }
      this.meta.value = meta;
      this.problem.value = null;
      if (changed || !this.loaded.peek()) this.version.value += 1;
      this.loaded.value = true;
    });
  }
}

interface Subscription {
  answer: LiveAnswer;
  readers: number;
  /** Name on the wire. */
  id: string;
  subscribed: boolean;
  /** Until the snapshot has come, differences belong to an older subscription. */
  waiting: boolean;
  end?: ReturnType<typeof setTimeout>;
}

/** The link to the server. One for the page. */
export class Link {
  readonly status = signal<LinkStatus>("connecting");
  readonly paused = signal(false);
  /** When something was last heard; for "lost since". */
  readonly heardAt = signal(0);

  private socket: WebSocket | null = null;
  private subscriptions = new Map<string, Subscription>();
  private byId = new Map<string, Subscription>();
  private failures = 0;
  private running = false;
  private retry: ReturnType<typeof setTimeout> | undefined;
  private beat: ReturnType<typeof setInterval> | undefined;
  private poll: ReturnType<typeof setTimeout> | undefined;
  private pollRuns = false;

  /** `rejected` is told when a connection could not be opened: the session may be over. */
  constructor(private readonly rejected: () => void) {
    const again = () => { if (this.running && this.status.peek() !== "live") this.connect(); };
    addEventListener("online", again);
    addEventListener("offline", () => this.running && this.lose());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && again());
  }

  start(): void {
    if (this.running) return;
    this.running = true;
    this.failures = 0;
    this.status.value = "connecting";
    this.connect();
  }

  stop(): void {
    this.running = false;
    this.drop();
    clearTimeout(this.retry);
    clearTimeout(this.poll);
    this.poll = undefined;
  }

  /** Follows a question; the answer is shared by all that ask the same. */
  follow(query: Query, intervalMs: number): { answer: LiveAnswer; end: () => void } {
    const name = JSON.stringify([toJson(query), intervalMs]);
    let subscription = this.subscriptions.get(name);
    if (!subscription) {
      subscription = { answer: new LiveAnswer(query, intervalMs), readers: 0, id: nameOnWire(name), subscribed: false, waiting: false };
      this.subscriptions.set(name, subscription);
      this.byId.set(subscription.id, subscription);
      if (this.socket?.readyState === WebSocket.OPEN) this.subscribe(subscription);
      else if (this.status.peek() === "polling") void this.pollOne(subscription);
    }
    const found = subscription;
    found.readers += 1;
    clearTimeout(found.end);
    return {
      answer: found.answer,
      end: () => {
        found.readers -= 1;
        if (found.readers > 0) return;
        found.end = setTimeout(() => {
          this.unsubscribe(found);
          this.subscriptions.delete(name);
          this.byId.delete(found.id);
        }, LINGER_MS);
      },
    };
  }

  /** Holds the page still; answers go on arriving, and resuming shows the latest. */
  pause(paused: boolean): void {
    this.paused.value = paused;
    if (!paused) for (const { answer } of this.subscriptions.values()) answer.publish();
  }

  private send(message: unknown): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  private subscribe(subscription: Subscription): void {
    subscription.subscribed = true;
    subscription.waiting = true;
    this.send({ type: "subscribe", id: subscription.id, query: toJson(subscription.answer.query), interval_ms: subscription.answer.intervalMs });
  }

  private unsubscribe(subscription: Subscription): void {
    if (!subscription.subscribed) return;
    subscription.subscribed = false;
    this.send({ type: "unsubscribe", id: subscription.id });
  }

  private connect(): void {
    this.drop();
    clearTimeout(this.retry);
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/v1/live`);
    this.socket = socket;
    let answered = false;
    let heard = Date.now();
    socket.onopen = () => {
      this.status.value = "live";
      this.heardAt.value = Date.now();
      clearTimeout(this.poll);
      this.poll = undefined;
      for (const subscription of this.subscriptions.values()) this.subscribe(subscription);
      this.beat = setInterval(() => {
        if (Date.now() - heard > SILENCE_MS_MAX) socket.close();
        else this.send({ type: "ping" });
      }, PING_MS);
    };
    socket.onmessage = (event) => {
      heard = Date.now();
      this.heardAt.value = heard;
      answered = true;
      this.failures = 0;
      this.receive(event.data);
    };
    socket.onclose = () => {
      if (this.socket !== socket) return;
      if (!answered) {
        this.failures += 1;
        this.rejected();
      }
      this.lose();
    };
  }

  private drop(): void {
    clearInterval(this.beat);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    for (const subscription of this.subscriptions.values()) subscription.subscribed = false;
  }

  private lose(): void {
    this.drop();
    if (!this.running) return;
    if (this.status.peek() !== "polling") this.status.value = "lost";
    if (this.failures >= FAILURES_BEFORE_POLLING && this.poll === undefined) void this.pollAll();
    const wait = Math.min(RETRY_MS_MIN * 2 ** this.failures, RETRY_MS_MAX);
    // Jitter, so that five hundred viewers do not come back in one instant.
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.running && this.connect(), wait * (0.7 + Math.random() * 0.6));
  }

  private receive(data: unknown): void {
    let message: { type?: string; id?: string; revision?: number; from?: number; rows?: Row[]; changed?: Row[]; removed?: Row[]; meta?: Meta; code?: string; message?: string; detail?: string; status?: number };
    try {
      message = JSON.parse(String(data));
    } catch {
      return;
    }
    const subscription = message.id === undefined ? undefined : this.byId.get(message.id);
    if (message.type === "error") {
      this.refused(subscription, { status: message.status ?? 400, code: message.code ?? "failed", detail: message.message ?? message.detail ?? "" });
      return;
    }
    if (!subscription) return;
    const { answer } = subscription;
    if (message.type === "snapshot") {
      subscription.waiting = false;
      answer.snapshot(message.revision ?? 0, message.rows ?? [], message.meta ?? {});
    } else if (message.type === "delta") {
      if (subscription.waiting) return;
      const delta = { from: message.from ?? -1, revision: message.revision ?? 0, changed: message.changed, removed: message.removed, meta: message.meta ?? {} };
      if (!answer.delta(delta)) {
        this.unsubscribe(subscription);
        this.subscribe(subscription);
        return;
      }
    } else {
      return;
    }
    if (!this.paused.peek()) answer.publish();
  }

  private refused(subscription: Subscription | undefined, problem: Problem): void {
    if (problem.code === "unauthorized") {
      this.rejected();
    } else if (PASSING.has(problem.code)) {
      const socket = this.socket;
      setTimeout(() => {
        if (this.socket !== socket || socket?.readyState !== WebSocket.OPEN) return;
        for (const one of this.subscriptions.values()) if (one === subscription || (!subscription && one.waiting)) this.subscribe(one);
      }, ASK_AGAIN_MS);
    } else if (subscription) {
      subscription.answer.problem.value = problem;
    }
  }

  private async pollAll(): Promise<void> {
    if (this.pollRuns) return;
    this.pollRuns = true;
    const results = await Promise.all([...this.subscriptions.values()].map((subscription) => this.pollOne(subscription)));
    this.pollRuns = false;
    if (!this.running || this.status.peek() === "live") return;
    this.status.value = results.some(Boolean) ? "polling" : "lost";
    const interval = Math.max(POLL_MS_MIN, ...[...this.subscriptions.values()].map(({ answer }) => Math.min(answer.intervalMs, 10_000)));
    this.poll = setTimeout(() => void this.pollAll(), interval);
  }

  /** True where the server answered. */
  private async pollOne({ answer }: Subscription): Promise<boolean> {
    try {
      const response = await request("GET", `/v1/snapshot?${toParams(answer.query)}`, undefined, answer.etag ? { "if-none-match": answer.etag } : {});
      if (response.status === 304) return true;
      answer.etag = response.headers.get("etag");
      const body = (await response.json()) as { rows: Row[]; meta: Meta };
      answer.snapshot(0, body.rows, body.meta);
      if (!this.paused.peek()) answer.publish();
      return true;
    } catch (error) {
      const problem = problemFrom(error);
      if (problem.status >= 400 && problem.status < 500) answer.problem.value = problem;
      return problem.status > 0 && problem.status < 500;
    }
  }
}
