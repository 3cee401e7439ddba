// What the server says, as INTERFACE names it.

/** One value of a row: a metric, a dimension or a window. */
export type Value = string | number | boolean | null | undefined;
/** One row of an answer, by column. */
export type Row = Record<string, Value>;

export type Granularity = "1m" | "5m" | "30m" | "1h" | "1d";

/** One dimension held to some of its values; `null` stands for events that lack it. */
export interface Filter {
  dimension: string;
  values: (string | null)[];
}

/** A relative stretch ("the last hour") or a fixed one, in epoch milliseconds, half-open. */
export type Range = { last: string } | { from: number; to: number };

export interface Query {
  metrics: string[];
  groupBy: string[];
  filters: Filter[];
  range: Range;
  granularity: Granularity | "total";
  orderBy?: string;
  limit?: number;
  compare?: boolean;
  /** Only from this moment of the range on, in epoch milliseconds. */
  since?: number;
}

/** How fresh, final and exact an answer is. */
export interface Meta {
  as_of?: string;
  final_until?: string | null;
  watermark?: string | null;
  freshness_ms?: number | null;
  /** Set by us: when it arrived, by our clock. */
  received_at?: number;
  approximate?: Record<string, number>;
  took_ms?: number;
  range?: { from?: string; to?: string };
  truncated?: boolean;
  import_running?: boolean;
  /** Columns that are not known in all of the range, each with the moment from which on it is. */
  since?: Record<string, string>;
  /** Metrics whose older windows are being computed now. */
  filling?: string[];
  /** Events of the range that are counted nowhere. */
  late_pending?: number;
  /** By metric, events that had no number for it. */
  unread?: Record<string, number>;
  /** Dimensions of which some values are folded into `__other__`. */
  folded?: string[];
  provisional_rows?: number;
  revised?: { windows: number; from: string; to: string };
}

/** RFC 9457, with the stable code. */
export interface Problem {
  status: number;
  code: string;
  detail: string;
}

export interface Session {
  signed_in: boolean;
  role?: string;
}

export interface CatalogEntry {
  name: string;
  title?: string;
  description?: string;
  unit?: string;
  type?: string;
  /** What a metric counts: `events` or `sessions`. */
  counts?: string;
  /** How it is read from them: `count`, `sum`, `avg`, … */
  aggregate?: string;
  builtin?: boolean;
  /** Digits behind the point that its declaration says. */
  scale?: number;
  /** Events that it counted without their number. */
  unread?: number;
  /** Values of a dimension that are known. */
  values: string[];
}

export interface Catalog {
  metrics: CatalogEntry[];
  dimensions: CatalogEntry[];
  /** Sets of dimensions that are counted together; empty lists where the server does not say. */
  cubes: { events: string[][]; sessions: string[][] };
}
