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

/** The catalogue. */
export async function readCatalog(): Promise<Catalog> {
  const body = await get<{ metrics?: Entry[]; dimensions?: Entry[]; cubes?: { events?: string[][]; sessions?: string[][] } }>("/v1/catalog");
  return {
    metrics: (body.metrics ?? []).map(entryOf),
    dimensions: (body.dimensions ?? []).map(entryOf),
    cubes: { events: body.cubes?.events ?? [], sessions: body.cubes?.sessions ?? [] },
  };
}

interface Entry {
  name: string;
  title?: string;
  description?: string;
  unit?: string;
  type?: string;
  counts?: string;
  aggregate?: string;
  builtin?: boolean;
  scale?: number;
  unread?: number;
  known_values?: unknown[];
}

function entryOf(entry: Entry): CatalogEntry {
  const { name, title, description, unit, type, counts, aggregate, builtin } = entry;
  return { name, title, description, unit, type, counts, aggregate, builtin, scale: entry.scale, unread: entry.unread, values: valuesOf(entry.known_values) };
}

function valuesOf(list: unknown[] | undefined): string[] {
  return (list ?? []).filter((value): value is string => typeof value === "string");
}
