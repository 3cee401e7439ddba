// An answer that is kept up to date by differences. Pure: what arrived in, what changed out.
import type { Query, Row, Value } from "./types";

/** What a delta says beside its rows. */
export interface Delta {
  from: number;
  revision: number;
  changed: Row[];
  removed: Row[];
}

/**
 * Names a row by its window and dimension values. The one window of a total moves with the clock
 * and names nothing.
 */
export function keyOf(row: Row, dimensions: readonly string[], windowed: boolean): string {
  return JSON.stringify([windowed ? (row.window_start ?? null) : null, ...dimensions.map((name) => row[name] ?? null)]);
}

/** Whether two rows say the same. */
export function sameRow(a: Row, b: Row): boolean {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => a[name] === b[name]);
}

/** The rows of one subscription at one revision. */
export class RowSet {
  private rows = new Map<string, Row>();
  private at: number | null = null;

  constructor(
    private readonly dimensions: readonly string[],
    private readonly windowed: boolean,
  ) {}

  get revision(): number | null {
    return this.at;
  }

  values(): Row[] {
    return [...this.rows.values()];
  }

  /** Replaces everything. */
  snapshot(revision: number, rows: readonly Row[]): void {
    this.rows = new Map(rows.map((row) => [keyOf(row, this.dimensions, this.windowed), row]));
    this.at = revision;
  }

  /** Applies a difference; false, and no change, where it does not follow what is here. */
  apply(delta: Delta): boolean {
    if (this.at === null || delta.from !== this.at) return false;
    for (const row of delta.removed) this.rows.delete(keyOf(row, this.dimensions, this.windowed));
    for (const row of delta.changed) this.rows.set(keyOf(row, this.dimensions, this.windowed), row);
    this.at = delta.revision;
    return true;
  }
}

function compareValues(a: Value, b: Value): number {
  if (a === b || (a == null && b == null)) return 0;
  // What is missing comes last, whichever way the column is sorted.
  if (a == null) return 1;
  if (b == null) return -1;
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a) < String(b) ? -1 : 1;
}

/** Orders rows by a column; "-events" is descending; ties go by window and dimension values. */
export function sorted(rows: readonly Row[], orderBy: string | undefined, dimensions: readonly string[]): Row[] {
  const descending = orderBy?.startsWith("-") ?? false;
  const column = orderBy?.replace(/^-/, "");
  return [...rows].sort((a, b) => {
    if (column) {
      const missing = (a[column] == null ? 1 : 0) - (b[column] == null ? 1 : 0);
      const order = missing || compareValues(a[column], b[column]) * (descending ? -1 : 1);
      if (order !== 0) return order;
    }
    for (const name of ["window_start", ...dimensions]) {
      const order = compareValues(a[name], b[name]);
      if (order !== 0) return order;
    }
    return 0;
  });
}

/** Rows in the order in which the server would give them. */
export function ordered(rows: readonly Row[], query: Query): Row[] {
  const all = sorted(rows, query.orderBy, query.groupBy);
  return query.limit === undefined ? all : all.slice(0, query.limit);
}

/**
 * Windows whose value moved although they had ended a whole window before: late events were counted.
 * `asOf` is the moment of the answer that was shown before.
 */
export function corrections(before: ReadonlyMap<string, Row>, after: readonly Row[], dimensions: readonly string[], metric: string, windowMs: number, asOf: number): { key: string; window: number; from: Value; to: Value }[] {
  const found = [];
  for (const row of after) {
    const key = keyOf(row, dimensions, true);
    const old = before.get(key);
    const window = Date.parse(String(row.window_start));
    if (old && old[metric] !== row[metric] && window + 2 * windowMs <= asOf) {
      found.push({ key, window, from: old[metric], to: row[metric] });
    }
  }
  return found;
}
