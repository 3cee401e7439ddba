// Asking the server over HTTP: JSON in, JSON or a named problem out.
import type { Catalog, CatalogEntry, Problem, Session } from "./types";

/** What a request ends in when it does not succeed. */
export class ApiError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

/** Called when the server no longer knows us. */
let onSignedOut = () => {};
export function whenSignedOut(then: () => void): void {
  onSignedOut = then;
}

async function problemOf(response: Response): Promise<Problem> {
  const body: Record<string, unknown> = await response.json().catch(() => ({}));
  return {
    status: response.status,
    code: String(body.code ?? `http_${response.status}`),
    detail: String(body.detail ?? body.message ?? body.title ?? response.statusText),
  };
}

/** Sends a request; the body, where there is one, goes as JSON. */
export async function request(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers: { accept: "application/json", ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
    });
  } catch {
    throw new ApiError({ status: 0, code: "unreachable", detail: "The server cannot be reached." });
  }
  if (response.ok || response.status === 304) return response;
  const problem = await problemOf(response);
  if (response.status === 401 && path !== "/v1/session") onSignedOut();
  throw new ApiError(problem);
}

/** Asks for JSON. */
export async function get<T>(path: string): Promise<T> {
  return (await (await request("GET", path)).json()) as T;
}

/** Sends JSON and reads JSON, or nothing where the answer is empty. */
export async function post<T>(path: string, body: unknown): Promise<T> {
  const text = await (await request("POST", path, body)).text();
  return (text ? JSON.parse(text) : {}) as T;
}

/** What went wrong, whatever was thrown. */
export function problemFrom(error: unknown): Problem {
  return error instanceof ApiError ? error.problem : { status: 0, code: "failed", detail: String(error) };
}

/** Who we are; signed out where the server does not know us. */
export async function readSession(): Promise<Session> {
  try {
    return await get<Session>("/v1/session");
  } catch (error) {
    if (error instanceof ApiError && (error.problem.status === 401 || error.problem.status === 403)) return { signed_in: false };
    throw error;
  }
}

/** The catalogue, in one shape whatever the server leaves out. */
export async function readCatalog(): Promise<Catalog> {
  const body = await get<Record<string, unknown>>("/v1/catalog");
  return { metrics: entries(body.metrics), dimensions: entries(body.dimensions), sets: sets(body.cubes ?? body.sets) };
}

function entries(list: unknown): CatalogEntry[] {
  if (!Array.isArray(list)) return [];
  return list.map((item: Record<string, unknown>) => ({
    name: String(item.name),
    title: text(item.title),
    description: text(item.description),
    unit: text(item.unit),
    domain: text(item.domain),
    values: valuesOf(item.values ?? item.known_values),
  }));
}

function text(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function valuesOf(list: unknown): string[] {
  if (!Array.isArray(list)) return [];
  return list
    .map((item) => (typeof item === "object" && item !== null ? (item as Record<string, unknown>).value : item))
    .filter((item): item is string => typeof item === "string");
}

function sets(list: unknown): Catalog["sets"] {
  if (!Array.isArray(list)) return [];
  return list.flatMap((item: unknown) => {
    const set = item as Record<string, unknown>;
    const dimensions = Array.isArray(item) ? item : set.dimensions;
    if (!Array.isArray(dimensions)) return [];
    return [{ kind: Array.isArray(item) ? "events" : String(set.kind ?? set.domain ?? "events"), dimensions: dimensions.map(String) }];
  });
}
