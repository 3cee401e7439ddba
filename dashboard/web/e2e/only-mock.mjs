// What needs a server that does as it is told: losses, gaps, strange strings.
import assert from "node:assert/strict";
import { start } from "../mock/server.mjs";
import { accessible, linked, signIn } from "./everywhere.mjs";

const TILES = ["Daily active users", "Active now", "Events per second", "Session duration", "Completion rate", "Engagement rate", "Click-through rate", "Events"];

async function tile(page, label) {
  return (await page.locator(`section.tile[aria-label="${label}"] .big`).textContent()).trim();
}

/** Runs against a mock of its own. */
async function against(page, options, run) {
  const mock = await start(0, options);
  try {
    await signIn(page, { url: mock.url, token: "demo" });
    await run(mock);
  } finally {
    mock.stop();
  }
}

export const onlyMock = [
  ["a one-time code in the fragment signs in, once, and leaves the address", async (page) => {
    const mock = await start();
    await page.goto(`${mock.url}/live?last=6h#code=river`);
    await page.waitForSelector("header.top");
    assert.equal(new URL(page.url()).hash, "");
    assert.equal(new URL(page.url()).search, "?last=6h");
    await page.context().clearCookies();
    await page.goto(`${mock.url}/#code=river`);
    await page.waitForSelector(".trouble");
    mock.stop();
  }, { signedOut: true }],

  ["every tile says a number, its change, its age and its error", async (page) => {
    await linked(page);
    await page.waitForFunction(() => document.querySelectorAll(".tile .big .ghost-number").length === 0);
    for (const label of TILES) {
      assert.match(await tile(page, label), /\d/, label);
      const foot = await page.locator(`section.tile[aria-label="${label}"] .foot`).textContent();
      assert.match(foot, /exact|±[\d.]+/, label);
      assert.match(foot, /\d\s?(ms|s)/u, label);
    }
    assert.equal(await page.locator(".tile .spark .over").count(), TILES.length);
  }],

  ["numbers move by themselves, and stand still while paused; resuming shows the latest", async (page) => {
    await linked(page);
    const first = await tile(page, "Active now");
    await page.waitForFunction((before) => document.querySelector("section[aria-label='Active now'] .big").textContent.trim() !== before, first);
    await page.keyboard.press("p");
    const held = await page.locator(".tiles .big").allTextContents();
    await page.waitForTimeout(2500);
    assert.deepEqual(await page.locator(".tiles .big").allTextContents(), held);
    await page.keyboard.press("p");
    await page.waitForTimeout(100);
    assert.notDeepEqual(await page.locator(".tiles .big").allTextContents(), held, "resuming shows the latest at once");
  }],

  ["only what changed is written", async (page) => {
    await linked(page);
    await page.waitForSelector("section[aria-label^='Country by'] li");
    const writes = await page.evaluate(() => new Promise((resolve) => {
      let added = 0;
      const observer = new MutationObserver((records) => { for (const record of records) added += record.addedNodes.length; });
      for (const list of document.querySelectorAll(".board ol")) observer.observe(list, { childList: true, subtree: true });
      setTimeout(() => resolve(added), 2500);
    }));
    assert.equal(writes, 0, `${writes} nodes were made anew`);
  }],

  ["a value clicked holds everything to it, clicked again lets go, and leads to its events", async (page) => {
    await linked(page);
    const all = await tile(page, "Events");
    const country = page.locator("section[aria-label^='Country by'] button.value", { hasText: "FR" });
    await country.click();
    await page.waitForURL("**/live?f=country%3AFR");
    await page.waitForFunction((before) => { const now = document.querySelector("section[aria-label=Events] .big")?.textContent.trim(); return now && /\d/.test(now) && now !== before; }, all);
    assert.equal(await country.getAttribute("aria-pressed"), "true");
    await page.locator("section[aria-label^='Country by'] button.value", { hasText: "DE" }).click();
    await page.waitForURL(/f=country%3AFR%2CDE/);
    await page.click("text=See these events");
    await page.waitForSelector("table.tail tbody tr");
    const countries = await page.locator("table.tail tbody tr td:nth-child(4)").allTextContents();
    assert.ok(countries.length > 0 && countries.every((name) => name === "FR" || name === "DE"), countries.join());
  }],

  ["a combination that is not counted is said quietly", async (page, { url }) => {
    await page.goto(`${url}/live?f=content_id%3Ac-1%20Pilot`);
    await page.waitForSelector("text=Not counted together with this filter.");
    assert.equal(await page.locator("[role=alert]").count(), 0);
    assert.match(await tile(page, "Events"), /\d/);
  }],

  ["strings of events are text, whatever they hold", async (page, { url }) => {
    await linked(page);
    await page.waitForSelector("text=<b>not bold</b>");
    assert.equal(await page.locator("main b:text-is('not bold')").count(), 0);
    await page.goto(`${url}/events`);
    await page.locator("table.tail button:has-text('More')").first().click();
    await page.waitForSelector("text=onerror=alert(1)");
    assert.equal(await page.locator("main img, main script").count(), 0);
  }],

  ["a server that goes away and comes back is followed again", async (page, { url }) => {
    await linked(page);
    await fetch(`${url}/mock/down?ms=2500`, { method: "POST" });
    await page.waitForSelector(".banner", { timeout: 2000 });
    const held = await page.locator(".tiles .big").allTextContents();
    assert.ok(held.every((text) => /\d/.test(text)), "the last numbers stay");
    await linked(page);
    await page.waitForFunction((before) => [...document.querySelectorAll(".tiles .big")].some((one, at) => one.textContent !== before[at]), held);
  }],

  ["late events are said and ringed once", async (page, { url }) => {
    await linked(page);
    await page.waitForTimeout(1500);
    await fetch(`${url}/mock/late`, { method: "POST" });
    await page.waitForSelector(".corrected", { timeout: 4000 });
    assert.match(await page.locator(".corrected").textContent(), /Corrected by late events: .* [\d,]+ → [\d,]+/);
    await accessible(page, "the correction");
    await page.waitForSelector(".corrected", { state: "detached", timeout: 5000 });
    await page.waitForTimeout(2500);
    assert.equal(await page.locator(".corrected").count(), 0, "it is said once");
  }],

  ["a missed revision is made good by a fresh snapshot", async (page) => {
    await against(page, { skip: 9 }, async (mock) => {
      await linked(page);
      const stats = async () => (await fetch(`${mock.url}/mock/stats`)).json();
      const before = await stats();
      await page.waitForTimeout(4000);
      const after = await stats();
      assert.ok(after.snapshots > before.snapshots, "nothing was asked for anew");
      assert.equal(await page.locator(".trouble").count(), 0);
      assert.match(await tile(page, "Events"), /\d/);
    });
  }, { signedOut: true }],

  ["without a WebSocket the same numbers are polled", async (page) => {
    await against(page, { websocket: false }, async (mock) => {
      await page.waitForSelector(".badge.link.polling");
      await page.waitForFunction(() => /\d/.test(document.querySelector("section[aria-label=Events] .big")?.textContent ?? ""));
      assert.ok((await (await fetch(`${mock.url}/mock/stats`)).json()).polls >= 10);
      await page.goto(`${mock.url}/explore?by=country`);
      await page.waitForSelector("section[aria-label^='Country by'] li");
    });
  }, { signedOut: true }],

  ["an empty page shows the command that fills it", async (page) => {
    await against(page, { empty: true }, async (mock) => {
      const text = await page.locator(".empty pre").textContent();
      assert.ok(text.includes(`curl -X POST ${mock.url}/v1/events`), text);
      await accessible(page, "the empty page");
    });
  }, { signedOut: true }],

  ["a brush across the chart zooms, and Zoom out takes it back", async (page, { url }) => {
    await page.goto(`${url}/explore`);
    const plot = page.locator(".u-over");
    await plot.waitFor();
    await page.waitForTimeout(500);
    const box = await plot.boundingBox();
    await page.mouse.move(box.x + box.width * 0.3, box.y + 60);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.6, box.y + 60, { steps: 5 });
    await page.mouse.up();
    await page.waitForURL(/from=.*to=/);
    const search = new URL(page.url()).searchParams;
    const length = Date.parse(search.get("to")) - Date.parse(search.get("from"));
    assert.ok(length >= 15 * 60_000 && length <= 23 * 60_000, `${length}`);
    await page.click("text=Zoom out");
    await page.waitForURL((next) => !next.search.includes("from="));
  }],

  ["a chart can be walked by arrow keys and read as a table", async (page) => {
    await linked(page);
    await page.waitForTimeout(300);
    await page.locator(".plot").focus();
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("ArrowLeft");
    await page.waitForFunction(() => document.querySelector(".legend .when").textContent !== "");
    assert.match(await page.locator(".plot").getAttribute("aria-label"), /windows from .* lowest .* highest .* latest/);
    await page.click("text=Show as table");
    await page.waitForFunction(() => document.querySelectorAll(".astable tbody tr").length >= 60);
    assert.match(await page.locator(".astable tbody tr").first().textContent(), /provisional/);
    assert.match(await page.locator(".astable tbody tr").last().textContent(), /final/);
    await accessible(page, "the chart as a table");
  }],

  ["the table sorts, and leaves as CSV", async (page, { url }) => {
    await page.goto(`${url}/explore?by=country`);
    const rows = page.locator("section[aria-label=Table] tbody tr");
    await rows.first().waitFor();
    const leader = await rows.first().textContent();
    await page.locator("section[aria-label=Table] button.sort", { hasText: "Events" }).click();
    await page.waitForURL(/sort=events/);
    assert.notEqual(await rows.first().textContent(), leader);
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("button:has-text('CSV')")]);
    assert.equal(download.suggestedFilename(), "events-by-country.csv");
    const chunks = [];
    for await (const chunk of await download.createReadStream()) chunks.push(chunk);
    assert.match(Buffer.concat(chunks).toString(), /^country,events,events_previous\r\n/);
  }],

  ["a dead letter is fixed and replayed", async (page, { url }) => {
    await page.goto(`${url}/events?tab=letters`);
    const letters = page.locator("table.letters tbody tr");
    await letters.first().waitFor();
    await page.click("text=Older letters");
    await page.waitForFunction(() => document.querySelectorAll("table.letters tbody tr").length > 20);
    await page.locator("button:has-text('Fix and replay')").first().click();
    await accessible(page, "the editor");
    await page.fill(".editor textarea", "{ not json");
    await page.click("text=Replay fixed");
    await page.waitForSelector("text=This is not JSON");
    await page.fill(".editor textarea", '{"event_type":"play_complete","user_id":"u-0"}');
    await page.click("text=Replay fixed");
    await page.waitForSelector("text=field timestamp is required");
    await page.fill(".editor textarea", '{"event_type":"play_complete","user_id":"u-0","timestamp":1795505229357}');
    await page.click("text=Replay fixed");
    await page.waitForFunction(() => !document.querySelector("table.letters")?.textContent.includes("0-900"));
  }],

  ["an event is traced to its windows", async (page, { url }) => {
    await page.goto(`${url}/events?tab=trace`);
    await page.fill("#trace-id", "018f3c0001000123");
    await page.keyboard.press("Enter");
    await page.waitForURL(/id=018f3c0001000123/);
    await page.waitForSelector(".way .verdict.counted");
    assert.equal(await page.locator(".steps .badge").count(), 5);
    await accessible(page, "the trace");
  }],

  ["the sum of the system is shown with its residual", async (page, { url }) => {
    await page.goto(`${url}/system`);
    await page.waitForSelector("text=The sum is exact");
    const numbers = (await page.locator(".sum dd").allTextContents()).map((text) => Number(text.replace(/,/g, "")));
    assert.equal(numbers[0], numbers.slice(1).reduce((sum, value) => sum + value, 0));
  }],
];
