// Rows as CSV that a spreadsheet opens without running anything. Pure.
import type { Row, Value } from "./types";

/** One field: a text that a spreadsheet would take for a formula is led by an apostrophe (OWASP, CSV injection). */
export function csvField(value: Value): string {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
}

/** RFC 4180, with a line of names. */
export function toCsv(columns: readonly string[], rows: readonly Row[]): string {
  const line = (fields: readonly Value[]) => `${fields.map(csvField).join(",")}\r\n`;
  return line(columns) + rows.map((row) => line(columns.map((name) => row[name]))).join("");
}
