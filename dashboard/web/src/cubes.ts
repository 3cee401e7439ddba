// Which dimensions are counted together. Pure.
import type { Catalog, Filter } from "./types";

const TOGETHER = ["country", "device_type", "content_category"];
const WITH_COUNTRY = ["event_type", "app_version", "subscription_tier", "cohort", "channel"];
const ALONE = ["content_id", "service_name"];
const SESSION = ["country", "device_type", "channel", "subscription_tier"];

/** The dimensions that always exist. */
const DIMENSIONS: readonly string[] = ["country", "device_type", "content_category", "content_id", "event_type", "channel", "app_version", "subscription_tier", "cohort", "service_name"];

/** Every dimension: those that always exist, then those that somebody declared. */
export function dimensionsOf(catalog: Catalog | null): string[] {
  return [...new Set([...DIMENSIONS, ...(catalog?.dimensions ?? []).map((entry) => entry.name)])];
}

export type Domain = "events" | "sessions";

const SESSION_METRICS = new Set(["sessions", "avg_session_duration", "p50_session_duration", "p95_session_duration", "bounce_rate", "engagement_rate"]);

export function domainOf(metric: string, catalog: Catalog | null): Domain {
  const declared = catalog?.metrics.find((entry) => entry.name === metric)?.counts;
  if (declared === "events" || declared === "sessions") return declared;
  return SESSION_METRICS.has(metric) ? "sessions" : "events";
}

/** Whether a question that touches these dimensions can be answered. */
export function supported(domain: Domain, touched: Iterable<string>, catalog: Catalog | null): boolean {
  const wanted = [...new Set(touched)];
  if (wanted.length === 0) return true;
  const cubes = catalog?.cubes[domain] ?? [];
  if (cubes.length > 0) return cubes.some((cube) => cube.length === wanted.length && wanted.every((name) => cube.includes(name)));
  if (domain === "sessions") return wanted.length === 1 && SESSION.includes(wanted[0]!);
  if (wanted.every((name) => TOGETHER.includes(name))) return true;
  if (wanted.length === 1) return WITH_COUNTRY.includes(wanted[0]!) || ALONE.includes(wanted[0]!);
  return wanted.length === 2 && wanted.includes("country") && wanted.some((name) => WITH_COUNTRY.includes(name));
}

/** The dimensions that a question touches. */
export function touched(groupBy: readonly string[], filters: readonly Filter[]): string[] {
  return [...groupBy, ...filters.map((filter) => filter.dimension)];
}
