// A server that speaks INTERFACE's contract with made-up numbers: for writing and for testing the pages.
//   node mock/server.mjs [port]       NILOMETER_MOCK=empty answers as a new server does
// The token is "demo", the one-time code "river". POST /mock/down?ms=… drops every connection
// for a while, POST /mock/late counts late events.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { WebSocketServer } from "ws";
import { answer, correct, DIMENSIONS, eventAt, kept, LENGTHS } from "./numbers.mjs";

const assets = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "assets");
const PAGES = new Set(["/", "/live", "/explore", "/events", "/system"]);
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
/** The policy of dashboard/src/serve.rs, so that what breaks it breaks here too. */
const POLICY = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
const METRICS = ["events", "unique_users", "events_per_second", "active_now", "content_views", "completions", "completion_rate", "click_through_rate", "total_duration", "avg_duration", "sessions", "avg_session_duration", "p50_session_duration", "p95_session_duration", "bounce_rate", "engagement_rate", "dau", "wau", "mau", "revenue"];

const CUBES = {
  events: [[], ...["country", "device_type", "content_category", "content_id", "service_name"].map((name) => [name]), ["country", "device_type"], ["country", "content_category"], ["device_type", "content_category"], ["country", "device_type", "content_category"], ...["event_type", "app_version", "subscription_tier", "cohort", "channel"].flatMap((name) => [[name], ["country", name]])],
  sessions: [[], ["country"], ["device_type"], ["channel"], ["subscription_tier"]],
};

/** How the catalogue describes a metric. */
function described(name) {
  const aggregate = name === "events_per_second" ? "rate" : /_rate$/.test(name) ? "ratio" : /^avg_/.test(name) ? "avg" : /^p\d/.test(name) ? "quantile" : /users|active|^.au$/.test(name) ? "distinct" : /total|revenue/.test(name) ? "sum" : "count";
  return {
    name, aggregate, unit: /duration/.test(name) ? "s" : name === "revenue" ? "EUR" : "", type: /rate|duration|second|revenue/.test(name) ? "number" : "integer",
    counts: /session|bounce|engagement/.test(name) ? "sessions" : "events", builtin: METRICS.includes(name) && name !== "revenue", ...(name === "revenue" ? { scale: 2 } : {}),
  };
}

/** Starts it; `skip` makes every nth delta go missing; `newer` says `at` what moment which `metrics` were declared; `meta` is said of every answer. */
export function start(port = 0, { empty = false, skip = 0, websocket = true, newer = null, meta = {} } = {}) {
  let downUntil = 0;
  let codes = new Set(["river"]);
  let replayed = new Set();
  const started = Date.now();
  const tailStart = 1_000_000;
  const stats = { snapshots: 0, deltas: 0, polls: 0 };
  const signedIn = (request) => /(^|; )nilometer=demo/.test(request.headers.cookie ?? "") || request.headers.authorization === "Bearer demo";
  const json = (response, status, body, headers = {}) => {
    response.writeHead(status, { "content-type": status < 400 ? "application/json" : "application/problem+json", "cache-control": "no-store", ...headers });
    response.end(status === 204 ? undefined : JSON.stringify(body));
  };
  const problem = (response, status, code, detail) => json(response, status, { type: "about:blank", title: code, status, code, detail });

  const letters = () => Array.from({ length: empty ? 0 : 37 }, (_, at) => ({
    id: `${at % 4}-${900 - at}`, received_at: new Date(Date.now() - at * 47_000).toISOString(),
    ...[{ code: "schema_violation", message: 'field session_duration_sec: expected a number, found "long"' }, { code: "missing_field", message: "field timestamp is required" }, { code: "invalid_json", message: "line 3: expected value at column 17" }][at % 3],
    event_id: at % 3 === 2 ? null : `bad-${at}`, user_key: at % 3 === 2 ? null : at === 1 ? "u-\u202egpj.exe\u0007" : `u-${at * 13}`, event_type: at % 3 === 2 ? null : "play_complete", source: at % 5 === 0 ? "import:history" : "http",
    body: at % 3 === 2 ? '{"event_type":"page_view", oops <script>alert(1)</script>' : JSON.stringify({ event_id: `bad-${at}`, event_type: "play_complete", user_id: `u-${at * 13}`, session_duration_sec: "long" }),
  })).filter((letter) => !replayed.has(letter.id));

  const pipeline = () => {
    const seconds = (Date.now() - started) / 1000;
    const unique = Math.floor(9_412_334 + seconds * 84);
    const terms = { unique, duplicate: Math.floor(unique * 0.02), late_pending: 12, dead_lettered: 9_411, erased: 204, quarantined: 0, in_flight: Math.floor(20 + 40 * Math.random()) };
    return {
      totals: { received: Object.values(terms).reduce((sum, value) => sum + value, 0), ...terms, late: Math.floor(unique * 0.005), conflicts: 0 }, conflicts_by_source: { default: 0 }, residual: 0,
      partitions: ["events", "dead-letters", "imports"].flatMap((topic, kind) => [0, 1, 2, 3].map((partition) => {
        const end = kind === 0 ? Math.floor(unique / 4) + partition * 31 : 2300 * kind + partition;
        const lag = kind === 0 ? Math.floor(Math.random() * 60) : 0;
        return { topic, partition, end_offset: end, position: end - lag, lag, lag_ms: lag * 8, watermark: new Date(Date.now() - 7_200_000 - partition * 900).toISOString(), checkpoint: { seq: 40_211 + partition, age_ms: 4000 + ((seconds * 1000 + partition * 5000) % 26_000), took_ms: 61 + partition * 7 } };
      })),
      freshness_ms: { p50: 640, p99: 1310 }, as_of: new Date().toISOString(), import_running: false, overlong_sessions: 2, corrected_24h: 3,
      clock: { now: new Date().toISOString(), behind_ms: 0, is_slow: false, ahead_ms: 0, follows_in_ms: 0 },
      senders: [{ key: "write-7Hq2LmZa", label: "shop", events: 9_204_118, bytes: 3_120_440_000, refused: 0, today_events: 2_804_553, today_bytes: 951_200_000 }, { key: "write-Xw93kPd0", label: "", events: 208_216, bytes: 71_900_000, refused: 412, today_events: 50_000, today_bytes: 17_200_000 }],
      memory: { limit_bytes: 536_870_912, resident_bytes: 412_300_000, parts: { layers: 61_400_000, entries: 8_100_000, layers_waiting: 3_300_000, ids: 118_900_000, sessions: 64_200_000, guard: 21_700_000, cache: 30_100_000, answers: 6_400_000, bodies: 1_200_000, log_queue: 0, program: 22_500_000, allocator: 17_800_000, freed: 26_900_000 } },
      unread: {}, masked: { user_id: 41, "properties.elapsed_ms": 12, "properties.file_bytes": 2048 },
      log: { bytes: 4_881_234_000, segments: 44, free_bytes: 52_000_000_000, reserve_bytes: 67_108_864, queue_bytes: 0 },
      store: { bytes: 388_120_000, chunks: 912, cells: 4_120_331, layers_waiting: 1, folds: 311, fold_failures: 0, fold_took_ms: 84, damaged: 0 }, quarantined: [],
    };
  };

  const paramsToQuery = (params) => ({
    metrics: (params.get("metrics") ?? "events").split(","), group_by: params.get("group_by")?.split(",") ?? [], granularity: params.get("granularity"), last: params.get("last") ?? undefined, from: params.get("from") ?? undefined, to: params.get("to") ?? undefined,
    filter: Object.fromEntries(params.getAll("filter").map((text) => [text.split(":")[0], text.slice(text.indexOf(":") + 1).split(",").map((value) => (value === "null" ? null : value))])),
    order_by: params.get("order_by") ?? undefined, limit: params.has("limit") ? Number(params.get("limit")) : undefined, compare: params.get("compare") ?? undefined,
  });

  const bodyOf = async (request) => {
    let text = "";
    for await (const chunk of request) text += chunk;
    return JSON.parse(text || "{}");
  };

  const file = (response, name) => {
    const path = PAGES.has(name) ? "/index.html" : name;
    response.writeHead(200, { "content-type": TYPES[extname(path)], "content-security-policy": POLICY, "x-content-type-options": "nosniff", "cache-control": "no-store" });
    response.end(readFileSync(join(assets, path)));
  };

  const api = async (request, response, url) => {
    if (url.pathname === "/v1/session") {
      if (request.method === "GET") return signedIn(request) ? json(response, 200, { signed_in: true, role: "admin" }) : json(response, 200, { signed_in: false });
      if (request.method === "DELETE") return json(response, 204, null, { "set-cookie": "nilometer=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict" });
      const body = await bodyOf(request);
      if (body.token !== "demo" && !codes.delete(body.code)) return problem(response, 401, "unauthorized", "unknown token or code");
      return json(response, 200, { signed_in: true, role: "admin" }, { "set-cookie": "nilometer=demo; Path=/; HttpOnly; SameSite=Strict" });
    }
    if (!signedIn(request)) return problem(response, 401, "unauthorized", "sign in first");
    switch (url.pathname) {
      case "/v1/catalog": return json(response, 200, { metrics: [...new Set([...METRICS, ...(newer?.metrics ?? [])])].map(described), dimensions: DIMENSIONS.map((name) => ({ name, type: "string", known_values: name === "country" ? ["DE", "US", "GB", "FR", "EG", null] : [] })), cubes: CUBES });
      case "/v1/snapshot": {
        stats.polls += 1;
        const query = paramsToQuery(url.searchParams);
        if (!kept(query)) return problem(response, 400, "no_such_cube", "not kept together");
        return json(response, 200, answer(query, Date.now(), { empty, newer, meta }), { etag: `"${Math.floor(Date.now() / 1000)}"` });
      }
      case "/v1/pipeline": return json(response, 200, pipeline());
      case "/v1/events/tail": {
        const newest = tailStart + Math.floor((Date.now() - started) / 140);
        const after = Number(url.searchParams.get("after") ?? newest - 60);
        const held = paramsToQuery(url.searchParams).filter;
        const offsets = Array.from({ length: Math.min(200, newest - after) }, (_, at) => newest - at);
        return json(response, 200, { events: empty ? [] : offsets.map((offset) => eventAt(offset, Date.now() - (newest - offset) * 140)).filter((event) => Object.entries(held).every(([name, values]) => values.includes(event[name] ?? null))), cursor: String(newest), skipped: false });
      }
      case "/v1/dead-letters": {
        const all = letters();
        const at = url.searchParams.has("before") ? all.findIndex((letter) => letter.id === url.searchParams.get("before")) + 1 : 0;
        const page = all.slice(at, at + 20);
        return json(response, 200, { letters: page, next: at + 20 < all.length ? page.at(-1).id : null });
      }
      case "/v1/dead-letters/replay": {
        const body = await bodyOf(request);
        if (body.event && typeof body.event.timestamp !== "undefined") {
          replayed.add(body.id);
          return json(response, 200, { accepted: 1, rejected: 0, results: [{ id: body.id, accepted: true }] });
        }
        return json(response, 200, { accepted: 0, rejected: 1, results: [{ id: body.id, accepted: false, code: "missing_field", message: "field timestamp is required" }] });
      }
    }
    const trace = /^\/v1\/events\/([^/]+)\/trace$/.exec(url.pathname);
    if (trace) {
      const id = decodeURIComponent(trace[1]);
      if (id === "nobody") return problem(response, 404, "not_found", "no such event");
      const corrected = id === "tomorrow" ? { sent_timestamp: new Date(Date.now() + 86_400_000).toISOString(), time_correction: "to_receive_time" } : { sent_timestamp: null, time_correction: null };
      const event = eventAt(1_000_123, Date.now());
      const where = { received_at: event.received_at, timestamp: event.timestamp, topic: "user-events", partition: 2, offset: 1_000_123 };
      const windows = Object.fromEntries(Object.entries(LENGTHS).map(([granularity, length]) => [granularity, new Date(Math.floor(Date.parse(event.timestamp) / length) * length).toISOString()]));
      return json(response, 200, { complete: true, scanned_records: 1_000_124, events: [{ event_id: id, user_key: "u-42", user_kind: "user", status: "counted", accepted: true, ...where, event_type: event.event_type, timestamp: event.timestamp, late: false, reason: null, ...corrected, duplicates: 1, counted: 1, copies: [{ ...where, verdict: "first" }, { ...where, offset: 1_000_200, verdict: "duplicate" }], windows, table: null, file: null }] });
    }
    return problem(response, 404, "not_found", "no such path");
  };

  const server = createServer((request, response) => {
    const url = new URL(request.url, "http://mock");
    if (url.pathname === "/mock/down") {
      downUntil = Date.now() + Number(url.searchParams.get("ms") ?? 3000);
      for (const socket of sockets.clients) socket.terminate();
      return json(response, 200, {});
    }
    if (url.pathname === "/mock/late") {
      correct(Date.now() - 600_000, 777);
      return json(response, 200, {});
    }
    if (url.pathname === "/mock/stats") return json(response, 200, stats);
    if (Date.now() < downUntil) return request.socket.destroy();
    try {
      if (url.pathname.startsWith("/v1/")) return void api(request, response, url).catch((error) => problem(response, 500, "failed", String(error)));
      return file(response, url.pathname);
    } catch {
      return problem(response, 404, "not_found", "no such file");
    }
  });

  const sockets = new WebSocketServer({ noServer: true });
  server.on("upgrade", (request, socket, head) => {
    if (!websocket || Date.now() < downUntil || !signedIn(request)) return socket.destroy();
    sockets.handleUpgrade(request, socket, head, (connection) => serve(connection));
  });

  function serve(socket) {
    const subscriptions = new Map();
    const send = (message) => socket.send(JSON.stringify(message));
    const keyOf = (row, query) => JSON.stringify([row.window_start, ...(query.group_by ?? []).map((name) => row[name])]);
    const tick = setInterval(() => {
      for (const [id, subscription] of subscriptions) {
        if (Date.now() - subscription.at < subscription.interval - 100) continue;
        subscription.at = Date.now();
        const next = answer(subscription.query, Date.now(), { empty, newer, meta });
        const rows = new Map(next.rows.map((row) => [keyOf(row, subscription.query), row]));
        const changed = next.rows.filter((row) => JSON.stringify(row) !== JSON.stringify(subscription.rows.get(keyOf(row, subscription.query))));
        const removed = [...subscription.rows].filter(([key]) => !rows.has(key)).map(([, row]) => Object.fromEntries(["window_start", ...(subscription.query.group_by ?? [])].map((name) => [name, row[name]])));
        const from = subscription.revision;
        subscription.revision += 1;
        subscription.rows = rows;
        stats.deltas += 1;
        if (skip > 0 && stats.deltas % skip === 0) continue;
        send({ type: "delta", id, from, revision: subscription.revision, changed, removed, meta: next.meta });
      }
    }, 1000);
    socket.on("close", () => clearInterval(tick));
    socket.on("message", (data) => {
      const message = JSON.parse(String(data));
      if (message.type === "ping") return send({ type: "pong" });
      if (message.type === "unsubscribe") return void subscriptions.delete(message.id);
      if (message.type !== "subscribe") return send({ type: "error", code: "bad_message", message: "unknown type" });
      if (!kept(message.query)) return send({ type: "error", id: message.id, code: "no_such_cube", message: "these dimensions are not kept together" });
      const first = answer(message.query, Date.now(), { empty, newer, meta });
      subscriptions.set(message.id, { query: message.query, interval: message.interval_ms, revision: 7, at: Date.now(), rows: new Map(first.rows.map((row) => [keyOf(row, message.query), row])) });
      stats.snapshots += 1;
      return send({ type: "snapshot", id: message.id, revision: 7, rows: first.rows, meta: first.meta });
    });
  }

  return new Promise((resolve) => {
    server.listen(port, "127.0.0.1", () => resolve({
      url: `http://127.0.0.1:${server.address().port}`,
      stop: () => { for (const socket of sockets.clients) socket.terminate(); server.closeAllConnections(); server.close(); },
    }));
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await start(Number(process.argv[2] ?? 8099), { empty: process.env.NILOMETER_MOCK === "empty" });
  console.log(`${url}/#code=river   (token: demo)`);
}
