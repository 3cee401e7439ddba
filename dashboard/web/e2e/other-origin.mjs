// Pages of another site that send events, whatever their libraries add; and the examples of the documentation, as they stand there.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { createServer } from "node:http";

/** Serves a page on another origin while `test` runs: for the browser localhost is another site than 127.0.0.1. */
async function beside(html, test) {
  const server = createServer((_, response) => response.writeHead(200, { "content-type": "text/html" }).end(`<!doctype html><title>A shop</title>${html}`));
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  try {
    return await test(`http://localhost:${server.address().port}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

/** Events of the last hour by country, as any client of the API would ask. */
async function byCountry({ url, token }) {
  const response = await fetch(`${url}/v1/query?metrics=events&group_by=country&last=1h&granularity=total&limit=1000`, { headers: { authorization: `Bearer ${token}` } });
  assert.equal(response.status, 200, await response.clone().text());
  const { rows } = await response.json();
  return Object.fromEntries(rows.map((row) => [row.country, row.events]));
}

/** Waits until what `read` answers is `expected`; says what it was when time is up. */
async function until(read, expected) {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const found = await read();
    try {
      return assert.deepEqual(found, expected);
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
    await new Promise((wake) => setTimeout(wake, 200));
  }
}

const TRACING = {
  traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
  tracestate: "dd=s:1;o:rum",
  baggage: "sentry-environment=production,sentry-sample_rate=1",
  "sentry-trace": "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
  "x-datadog-trace-id": "8448287261165121",
  "x-datadog-parent-id": "1311768467463790320",
  "x-datadog-origin": "rum",
  "x-datadog-sampling-priority": "1",
  b3: "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1",
};

/** How pages send: each runs in the page, and answers what must be true of it. */
const WAYS = {
  "fetch with the headers of tracing libraries": async ({ url, key, body, tracing }) => {
    const response = await fetch(`${url}/v1/events`, { method: "POST", headers: { authorization: `Bearer ${key}`, "content-type": "application/json", ...tracing }, body });
    return (await response.json()).accepted === 1;
  },
  "fetch with credentials and tracing, kept alive": async ({ url, key, body, tracing }) => {
    const response = await fetch(`${url}/v1/events`, { method: "POST", credentials: "include", keepalive: true, headers: { authorization: `Bearer ${key}`, "content-type": "application/json", ...tracing }, body });
    return (await response.json()).accepted === 1;
  },
  "fetch with credentials and nothing to ask for first": async ({ url, key, body }) => {
    const response = await fetch(`${url}/v1/events?write_key=${key}`, { method: "POST", credentials: "include", body });
    return (await response.json()).accepted === 1;
  },
  "fetch that may not read the answer": async ({ url, key, body }) => (await fetch(`${url}/v1/events?write_key=${key}`, { method: "POST", mode: "no-cors", body })).type === "opaque",
  "XMLHttpRequest with credentials and tracing": ({ url, key, body, tracing }) => new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", `${url}/v1/events`);
    request.withCredentials = true;
    for (const [name, value] of Object.entries({ authorization: `Bearer ${key}`, "content-type": "application/json", ...tracing })) request.setRequestHeader(name, value);
    request.onload = () => done(JSON.parse(request.responseText).accepted === 1);
    request.onerror = () => failed(new Error("refused"));
    request.send(body);
  }),
  "beacon of a text": ({ url, key, body }) => navigator.sendBeacon(`${url}/v1/events?write_key=${key}`, body),
  "beacon of text/plain": ({ url, key, body }) => navigator.sendBeacon(`${url}/v1/events?write_key=${key}`, new Blob([body], { type: "text/plain" })),
  "beacon of application/json": ({ url, key, body }) => navigator.sendBeacon(`${url}/v1/events?write_key=${key}`, new Blob([body], { type: "application/json" })),
  "beacon of application/json; charset=UTF-8": ({ url, key, body }) => navigator.sendBeacon(`${url}/v1/events?write_key=${key}`, new Blob([body], { type: "application/json; charset=UTF-8" })),
  "beacon of application/x-www-form-urlencoded": ({ url, key, body }) => navigator.sendBeacon(`${url}/v1/events?write_key=${key}`, new Blob([body], { type: "application/x-www-form-urlencoded" })),
  "beacon of application/x-ndjson": ({ url, key, body }) => navigator.sendBeacon(`${url}/v1/events?write_key=${key}`, new Blob([body], { type: "application/x-ndjson" })),
  "beacon of no type": ({ url, key, body }) => navigator.sendBeacon(`${url}/v1/events?write_key=${key}`, new Blob([body])),
  "beacon of bytes": ({ url, key, body }) => navigator.sendBeacon(`${url}/v1/events?write_key=${key}`, new TextEncoder().encode(body)),
  "beacon of a page that is left": ({ url, key, body }) => addEventListener("pagehide", () => navigator.sendBeacon(`${url}/v1/events?write_key=${key}`, body)) === undefined,
};

/** The blocks of a page of the documentation that run in a browser. */
function examples(page) {
  const text = readFileSync(new URL(`../../../${page}`, import.meta.url), "utf8");
  return [...text.matchAll(/^```(html|js)\n([\s\S]*?)^```$/gm)].map(([, kind, code]) => ({ page, code, html: kind === "js" ? `<script>${code}</script>` : code }));
}

const PAGES = ["README.md", ...readdirSync(new URL("../../../docs/", import.meta.url)).filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`)];

export const otherOrigin = [
  ["a page of another site sends as its libraries do, and every event is counted once", async (page, world) => {
    const mark = `o${Date.now() % 100_000}`;
    const expected = {};
    await beside("", async (origin) => {
      await page.goto(origin);
      for (const [at, [name, send]] of Object.entries(WAYS).entries()) {
        const country = `${mark}-${at} ${name}`;
        const body = JSON.stringify({ event_type: "page_view", anonymous_id: `a-${at}`, timestamp: Date.now(), country });
        assert.equal(await page.evaluate(send, { url: world.url, key: world.writeKey, body, tracing: TRACING }), true, name);
        expected[country] = 1;
      }
      await page.goto("about:blank");
    });
    await until(async () => Object.fromEntries(Object.entries(await byCountry(world)).filter(([country]) => country.startsWith(mark))), expected);
  }],

  ["the examples of the documentation run in a page of another site, and what they send is counted", async (page, world) => {
    const found = PAGES.flatMap(examples);
    assert.deepEqual(new Set(found.map((one) => one.page)), new Set(["README.md", "docs/api.md"]));
    for (const example of found) {
      // They say no country, which every other event here does.
      const count = async () => (await byCountry(world)).null ?? 0;
      const before = await count();
      const html = example.html.replaceAll("http://127.0.0.1:8080", world.url).replaceAll("Bearer WRITE_KEY", `Bearer ${world.writeKey}`).replaceAll("write_key=…", `write_key=${world.writeKey}`);
      await beside(html, async (origin) => {
        await page.goto(origin);
        await until(count, before + 1);
      });
    }
  }],
];
