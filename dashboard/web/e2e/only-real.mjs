// What the shipped server has to show, end to end: the key, the code, a refusal mended, one event followed.
import assert from "node:assert/strict";
import { accessible, linked } from "./everywhere.mjs";

/** Sends events with the write key, and returns the answer. */
async function send({ url, writeKey }, events) {
  const response = await fetch(`${url}/v1/events`, { method: "POST", headers: { authorization: `Bearer ${writeKey}`, "content-type": "application/json" }, body: JSON.stringify(events) });
  assert.equal(response.status, 200, await response.clone().text());
  return response.json();
}

/** Asks as any client of the API would, past the page. */
async function ask({ url, token }, path) {
  const response = await fetch(`${url}${path}`, { headers: { authorization: `Bearer ${token}` } });
  assert.equal(response.status, 200, await response.clone().text());
  return response.json();
}

const numberIn = (text) => Number(text.replace(/[^\d.-]/g, ""));

export const onlyReal = [
  ["the address that the server printed signs in, once, and leaves no code behind", async (page, { url, code }) => {
    // Where the page is already, only what stands behind the # changes.
    await page.goto(`${url}/live?last=6h`);
    await page.waitForSelector("form");
    await page.goto(`${url}/live?last=6h#code=${code}`);
    await page.waitForSelector("header.top");
    assert.equal(new URL(page.url()).hash, "");
    assert.equal(new URL(page.url()).search, "?last=6h");
    await linked(page);
    await page.context().clearCookies();
    await page.goto(`${url}/#code=${code}`);
    await page.waitForSelector(".trouble");
    assert.equal(await page.locator("header.top").count(), 0);
  }, { signedOut: true, needs: "code" }],

  ["a number of the table is the number that the API answers", async (page, world) => {
    const minute = 60_000;
    const to = Math.floor(Date.now() / minute) * minute - 5 * minute;
    const from = to - 40 * minute;
    const iso = (ms) => new Date(ms).toISOString();
    // The tail of late events still moves these minutes: asked before and after, the page lies between.
    const answer = () => ask(world, `/v1/query?metrics=events&group_by=device_type&from=${iso(from)}&to=${iso(to)}&granularity=total&order_by=-events`);
    const before = await answer();
    await page.goto(`${world.url}/explore?by=device_type&from=${iso(from)}&to=${iso(to)}`);
    await page.waitForFunction((rows) => document.querySelectorAll("section[aria-label=Table] tbody tr").length === rows, before.rows.length);
    const shown = await page.locator("section[aria-label=Table] tbody tr").evaluateAll((rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent)));
    const after = await answer();
    assert.ok(before.rows.length >= 4, JSON.stringify(before.rows));
    for (const row of before.rows) {
      const [, text] = shown.find(([name]) => name === (row.device_type ?? "(none)")) ?? [];
      const latest = after.rows.find((other) => other.device_type === row.device_type).events;
      const value = numberIn(text ?? "");
      assert.ok(row.events <= value && value <= latest, `${row.device_type}: ${text} is not within ${row.events}..${latest}`);
    }
  }],

  ["twelve events sent raise their country by twelve, exactly, while one looks", async (page, world) => {
    const country = `Q${Date.now() % 1000}`;
    await send(world, [{ event_type: "page_view", user_id: "first", timestamp: Date.now(), country }]);
    await page.goto(`${world.url}/live?f=country%3A${country}`);
    const events = page.locator("section.tile[aria-label=Events]");
    await page.waitForFunction(() => document.querySelector("section.tile[aria-label=Events] .big")?.textContent.startsWith("1"));
    await send(world, Array.from({ length: 12 }, (_, at) => ({ event_id: `${country}-${at}`, event_type: "page_view", user_id: `v-${at % 4}`, timestamp: Date.now(), country })));
    await page.waitForFunction(() => document.querySelector("section.tile[aria-label=Events] .big").textContent.startsWith("13"));
    assert.match(await events.locator(".big").textContent(), /^135 users$/);
    // Sent again, they are the same events.
    await send(world, Array.from({ length: 12 }, (_, at) => ({ event_id: `${country}-${at}`, event_type: "page_view", user_id: `v-${at % 4}`, timestamp: Date.now(), country })));
    await page.waitForTimeout(2500);
    assert.match(await events.locator(".big").textContent(), /^135 users$/);
  }],

  ["a refused event is found, mended, replayed, and counts", async (page, world) => {
    const mark = `mend-${Date.now()}`;
    const answer = await send(world, [{ event_id: mark, event_type: "purchase", user_id: mark, timestamp: "yesterday", country: "NL" }]);
    assert.equal(answer.rejected, 1);
    await page.goto(`${world.url}/events?tab=letters`);
    const row = page.locator("table.letters tbody tr", { hasText: mark });
    await row.first().waitFor();
    assert.match(await row.first().textContent(), /timestamp/);
    await row.first().locator("button", { hasText: "Fix and replay" }).click();
    await accessible(page, "the editor");
    const editor = page.locator(".editor textarea");
    const body = await editor.inputValue();
    assert.ok(body.includes("yesterday"), body);
    await editor.fill("{ not json");
    await page.click("text=Replay fixed");
    await page.waitForSelector("text=This is not JSON");
    await editor.fill(body.replace("yesterday", "tomorrow"));
    await page.click("text=Replay fixed");
    await page.waitForFunction(() => /timestamp/.test(document.querySelector(".editor [role=status]").textContent));
    await editor.fill(body.replace("yesterday", new Date().toISOString()));
    await page.click("text=Replay fixed");
    await page.waitForSelector("text=Accepted: it counts from now on.");
    await page.goto(`${world.url}/events?tab=trace&id=${mark}`);
    await page.waitForSelector(".way .verdict.counted");
    await accessible(page, "the mended event's trace");
  }],

  ["an event sent twice is traced: counted once, in five windows, with both its copies", async (page, world) => {
    const id = `twice-${Date.now()}`;
    const event = { event_id: id, event_type: "click", user_id: "u-twice", timestamp: Date.now(), country: "SE" };
    await send(world, [event]);
    await send(world, [event]);
    await page.goto(`${world.url}/events?tab=trace`);
    await page.fill("#trace-id", id);
    await page.keyboard.press("Enter");
    await page.waitForSelector(".way .verdict.counted");
    await page.waitForFunction(() => [...document.querySelectorAll(".way table tbody tr td:last-child")].map((cell) => cell.textContent).toSorted().join() === "Duplicate,First");
    assert.equal(await page.locator(".steps .badge").count(), 5);
    await accessible(page, "the trace");
  }],

  ["the system's numbers are those of the pipeline", async (page, world) => {
    await page.goto(`${world.url}/system`);
    await page.waitForSelector("text=The sum is exact");
    const { totals, residual, partitions } = await ask(world, "/v1/pipeline");
    assert.equal(residual, 0);
    assert.ok(totals.dead_lettered > 0 && totals.duplicate > 0 && totals.unique > 1000, JSON.stringify(totals));
    assert.equal(await page.locator("section[aria-label=Partitions] tbody tr").count(), partitions.length);
    const received = numberIn(await page.locator("section[aria-label=Conservation] .total dd").textContent());
    assert.ok(received > 0 && received <= totals.received, `${received} of ${totals.received}`);
  }],
];
