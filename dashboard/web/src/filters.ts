// Values that everything is held to, and how an address writes them. Pure.
import type { Filter, Row } from "./types";

/** Stands for "the event lacks it"; the text itself is written \null. As `GET /v1/query` reads it. */
const MISSING = "null";
/** What the cardinality guard folded; an answer shows the text itself as \__other__. */
const OTHER = "__other__";

function written(value: string | null): string {
  if (value === null) return MISSING;
  if (value === OTHER) return OTHER;
  if (value === "") return '""';
  const text = /^\\+__other__$/.test(value) ? value.slice(1) : value;
  // A value is what it reads: to the server a first ! leaves it out, and a last * is any ending.
  const escaped = text.replace(/[\\,]|^[!"]|\*$/g, (character) => `\\${character}`);
  return escaped === MISSING || escaped === OTHER ? `\\${escaped}` : escaped;
}

/** country:DE,FR; a backslash protects what has a meaning; a bare null is what events lack. */
export function formatFilter(filter: Filter): string {
  return `${filter.dimension}:${filter.values.map(written).join(",")}`;
}

/** Reads what `formatFilter` writes; null where it is no filter. */
export function parseFilter(text: string): Filter | null {
  const colon = text.indexOf(":");
  const dimension = text.slice(0, Math.max(colon, 0)).trim();
  if (!/^[a-z][a-z0-9_]{0,63}$/.test(dimension)) return null;
  const values = [...new Set(valuesIn(text.slice(colon + 1)))];
  return values.length > 0 ? { dimension, values } : null;
}

function* valuesIn(text: string): Generator<string | null> {
  for (const raw of text.match(/"(?:\\[^]|[^\\"])*"(?=,|$)|(?:\\[^]|[^\\,])+/g) ?? []) {
    const quoted = /^"(?:\\[^]|[^\\"])*"$/.test(raw);
    // Within quotes a backslash protects a quote and a backslash; before anything else it is one.
    const value = quoted ? raw.slice(1, -1).replace(/\\(["\\])/g, "$1") : raw.replace(/\\([^])/g, "$1");
    if (raw === MISSING) yield null;
    else if (raw !== OTHER && /^\\*__other__$/.test(value)) yield `\\${value}`;
    else yield value;
  }
}

/** Adds the value, or takes it away where it is held already. */
export function toggled(filters: readonly Filter[], dimension: string, value: string | null): Filter[] {
  const held = filters.find((filter) => filter.dimension === dimension);
  if (!held) return [...filters, { dimension, values: [value] }];
  const values = held.values.includes(value) ? held.values.filter((other) => other !== value) : [...held.values, value];
  return filters.flatMap((filter) => (filter !== held ? [filter] : values.length > 0 ? [{ dimension, values }] : []));
}

export function isHeld(filters: readonly Filter[], dimension: string, value: string | null): boolean {
  return filters.some((filter) => filter.dimension === dimension && filter.values.includes(value));
}

/** Whether an event passes every filter. */
export function passes(event: Row, filters: readonly Filter[]): boolean {
  return filters.every((filter) => {
    const value = event[filter.dimension];
    return filter.values.includes(value === undefined || value === null ? null : String(value));
  });
}
