// Plausible numbers that change: a made-up audience, the same for the same moment.

const SHARES = {
  country: { DE: 0.24, US: 0.21, GB: 0.14, FR: 0.11, BR: 0.08, IN: 0.07, JP: 0.05, EG: 0.04, PL: 0.03, __null: 0.03 },
  device_type: { mobile: 0.46, tv: 0.27, desktop: 0.19, tablet: 0.08 },
  content_category: { drama: 0.31, news: 0.22, sport: 0.18, comedy: 0.14, kids: 0.09, documentary: 0.06 },
  content_id: { "c-1042 The Long River": 0.12, "c-7 Evening News": 0.1, "c-330 Delta": 0.08, "c-981 Cup Final": 0.07, "c-12 Night Market": 0.05, "c-77 Second Cataract": 0.045, "c-45 <b>not bold</b>": 0.04, "c-600 Papyrus": 0.035, "c-1 Pilot": 0.03 },
  event_type: { play_start: 0.27, page_view: 0.24, play_complete: 0.17, click: 0.13, impression: 0.11, search: 0.05, purchase: 0.02, __null: 0.01 },
  channel: { organic: 0.38, email: 0.21, social: 0.17, paid_search: 0.14, partner: 0.1 },
  app_version: { "5.2.0": 0.52, "5.1.3": 0.28, "5.0.9": 0.14, "4.9.1": 0.06 },
  subscription_tier: { basic: 0.44, premium: 0.33, free: 0.23 },
  cohort: { "2026-09": 0.28, "2026-10": 0.41, "2026-11": 0.31 },
  service_name: { recommender: 0.55, billing: 0.3, transcoder: 0.15 },
};

export const DIMENSIONS = Object.keys(SHARES);
export const LENGTHS = { "1m": 60_000, "5m": 300_000, "30m": 1_800_000, "1h": 3_600_000, "1d": 86_400_000 };
const RATE = 84;

function noise(text) {
  let hash = 2166136261;
  for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 16777619);
  hash = Math.imul(hash ^ (hash >>> 15), 2246822507);
  return ((hash ^ (hash >>> 13)) >>> 0) / 4294967296;
}

function wave(ms) {
  const hours = (ms / 3_600_000) % 24;
  return 1 + 0.35 * Math.sin(((hours - 14) / 24) * 2 * Math.PI) + 0.12 * Math.sin(ms / 700_000) + 0.05 * Math.sin(ms / 190_000);
}

function share(dimension, value) {
  return SHARES[dimension]?.[value === null ? "__null" : value] ?? 0;
}

function portion(held) {
  return held.reduce((all, [dimension, values]) => all * values.reduce((sum, value) => sum + share(dimension, value), 0), 1);
}

/** Windows that late events have changed, and by how many events. */
const late = new Map();

/** Counts late events in the window of one minute that holds `ms`. */
export function correct(ms, events) {
  late.set(Math.floor(ms / 60_000) * 60_000, events);
}

/** Events of a window, up to `now`, of those that match. */
function eventsIn(start, length, now, held, seed) {
  const elapsed = Math.min(length, now - start);
  if (elapsed <= 0) return 0;
  const part = portion(held);
  const wobble = 0.9 + 0.2 * noise(`${start}${seed}`);
  return Math.round((elapsed / 1000) * RATE * wave(start) * part * wobble) + (length === 60_000 ? (late.get(start) ?? 0) : 0);
}

function measure(metric, events, length, seed, at, now, portion) {
  const jitter = (base, width) => (events === 0 ? null : base * (1 + width * (noise(seed + metric) - 0.5)));
  const users = Math.round(events * 0.62 * Math.min(1, (60_000 / length) ** 0.35));
  switch (metric) {
    case "events": return events;
    case "unique_users": return users;
    case "revenue": return Math.round(events * 119.9) / 100;
    case "trials": return Math.round(events * 0.02);
    case "content_views": return Math.round(events * 0.51);
    case "completions": return Math.round(events * 0.17);
    case "events_per_second": return events / (length / 1000);
    case "active_now": return Math.round(RATE * wave(at) * 110 * (0.96 + 0.08 * noise(`${seed}${Math.floor(now / 2000)}`)) * portion);
    case "dau": case "wau": case "mau": return Math.round(184_000 * (events / (RATE * 86_400)) * 1.08);
    case "completion_rate": return jitter(0.634, 0.08);
    case "click_through_rate": return jitter(0.087, 0.2);
    case "engagement_rate": return jitter(0.58, 0.1);
    case "bounce_rate": return jitter(0.29, 0.1);
    case "sessions": return Math.round(events * 0.13);
    case "avg_session_duration": return jitter(610, 0.1);
    case "p50_session_duration": return jitter(432, 0.1);
    case "p95_session_duration": return jitter(2540, 0.1);
    case "avg_duration": return jitter(310, 0.1);
    case "total_duration": return Math.round(events * 212);
    default: return null;
  }
}

function combinations(dimensions, held) {
  return dimensions.reduce((rows, dimension) => {
    const only = held.find(([name]) => name === dimension)?.[1];
    const values = only ?? Object.keys(SHARES[dimension]).map((value) => (value === "__null" ? null : value));
    return rows.flatMap((row) => values.map((value) => ({ ...row, [dimension]: value })));
  }, [{}]);
}

const iso = (ms) => new Date(ms).toISOString().replace(".000Z", "Z");

/** Answers a question as `POST /v1/query` does. */
export function answer(query, now, base = {}) {
  const lasts = /^(\d+)([mhd])$/.exec(query.last ?? "1h");
  const to = query.to ? Date.parse(query.to) : now;
  const from = query.from ? Date.parse(query.from) : now - Number(lasts[1]) * { m: 60_000, h: 3_600_000, d: 86_400_000 }[lasts[2]];
  const total = query.granularity === "total";
  const step = total ? (to - from > 7 * 86_400_000 ? 3_600_000 : 60_000) : LENGTHS[query.granularity];
  const first = Math.floor(from / step) * step;
  const end = Math.ceil(to / step) * step;
  const held = Object.entries(query.filter ?? {});
  const rows = [];
  for (const members of combinations(query.group_by ?? [], held)) {
    const narrowed = [...held.filter(([name]) => !(name in members)), ...Object.entries(members).map(([name, value]) => [name, [value]])];
    const seed = JSON.stringify(members);
    const at = (start) => eventsIn(start, step, now, narrowed, seed);
    const put = (window, length, events, before) => {
      if (events === 0) return;
      const row = { window_start: iso(window), ...members };
      for (const metric of query.metrics) {
        row[metric] = measure(metric, events, length, `${window}${seed}`, window, window + length > now ? now : window, portion(narrowed));
        if (query.compare) row[`${metric}_previous`] = measure(metric, before, length, `${window - (end - first)}${seed}`, window - (end - first), 0, portion(narrowed));
      }
      rows.push(row);
    };
    if (total) {
      let [sum, before] = [0, 0];
      for (let start = first; start < end; start += step) {
        sum += at(start);
        before += eventsIn(start - (end - first), step, now - (end - first), narrowed, seed);
      }
      put(first, end - first, sum, before);
    } else {
      for (let start = first; start < end; start += step) put(start, step, at(start), eventsIn(start - (end - first), step, now, narrowed, seed));
    }
  }
  // What was declared later is not known in windows that begin before, nor in a total over them.
  const late = query.metrics.filter((metric) => base.newer?.metrics.includes(metric) && first < base.newer.at);
  for (const row of rows) for (const metric of late) if (Date.parse(row.window_start) < base.newer.at) row[metric] = null;
  // Where nothing at all is known of a window there is no row.
  if (!total && late.length === query.metrics.length) rows.splice(0, Infinity, ...rows.filter((row) => Date.parse(row.window_start) >= base.newer.at));
  const order = query.order_by;
  if (order) {
    const column = order.replace("-", "");
    rows.sort((a, b) => ((a[column] ?? -1) - (b[column] ?? -1)) * (order.startsWith("-") ? -1 : 1));
  }
  const limit = query.limit ?? 1000;
  const estimated = query.metrics.filter((metric) => /users|dau|wau|mau|active/.test(metric));
  return {
    columns: [],
    rows: base.empty ? [] : rows.slice(0, limit),
    meta: {
      as_of: iso(now - 400), final_until: iso(now - 1_200_000), watermark: iso(now - 1_200_000), freshness_ms: 400 + Math.round(noise(String(now)) * 600),
      approximate: Object.fromEntries([...estimated.map((metric) => [metric, 0.016]), ...query.metrics.filter((metric) => metric.startsWith("p")).map((metric) => [metric, 0.01])]),
      took_ms: 1.8, source: "rollups", range: { from: iso(first), to: iso(end), granularity: query.granularity }, truncated: rows.length > limit, folded: [], filling: [], ...(late.length > 0 ? { since: Object.fromEntries(late.map((metric) => [metric, iso(base.newer.at)])) } : {}), import_running: false, ...base.meta,
    },
  };
}

/** Whether the real server keeps this combination. */
export function kept(query) {
  const names = [...new Set([...(query.group_by ?? []), ...Object.keys(query.filter ?? {})])];
  const session = query.metrics.some((metric) => /session|bounce|engagement/.test(metric));
  if (names.length === 0) return true;
  if (session) return names.length === 1 && ["country", "device_type", "channel", "subscription_tier"].includes(names[0]);
  if (names.every((name) => ["country", "device_type", "content_category"].includes(name))) return true;
  if (names.length === 1) return true;
  return names.length === 2 && names.includes("country") && !names.includes("content_id") && !names.includes("service_name");
}

const TYPES = Object.keys(SHARES.event_type).filter((name) => name !== "__null");

/** One event of the tail. */
export function eventAt(offset, now) {
  const pick = (dimension) => {
    let left = noise(`${dimension}${offset}`);
    for (const [value, part] of Object.entries(SHARES[dimension])) if ((left -= part) <= 0) return value === "__null" ? null : value;
    return null;
  };
  const received = now - Math.round(noise(`r${offset}`) * 900);
  return {
    topic: "events", partition: offset % 4, offset, received_at: new Date(received).toISOString(), timestamp: new Date(received - 200 - Math.round(noise(`t${offset}`) * 2400)).toISOString(),
    event_id: `018f3c${String(offset).padStart(10, "0")}`, event_type: TYPES[Math.floor(noise(`e${offset}`) * TYPES.length)], user_key: `u-${Math.floor(noise(`u${offset}`) * 90_000)}`,
    country: pick("country"), device_type: pick("device_type"), content_id: pick("content_id"), content_category: pick("content_category"), app_version: pick("app_version"), properties: { note: "<img src=x onerror=alert(1)>", position: offset % 12 },
  };
}
