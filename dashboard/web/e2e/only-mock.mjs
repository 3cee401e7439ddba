// What needs a server that does as it is told: losses, gaps, strange strings.
import assert from "node:assert/strict";
import { start } from "../mock/server.mjs";
import { accessible, linked, signIn } from "./everywhere.mjs";

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

  ["a sign-in address opened where the page is already signs in, or says why not", async (page) => {
    const mock = await start();
    await page.goto(mock.url);
    await page.waitForSelector("form");
    await page.goto(`${mock.url}/#code=wrong`);
    await page.waitForSelector(".trouble");
    await page.goto(`${mock.url}/#code=river`);
    await page.waitForSelector("header.top");
    assert.equal(new URL(page.url()).hash, "");
    mock.stop();
  }, { signedOut: true }],

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

  ["a character that turns its neighbours around is shown by its number", async (page, { url }) => {
    await page.goto(`${url}/events?tab=letters`);
    await page.waitForSelector("table.letters >> text=gpj.exe");
    const shown = await page.evaluate(() => document.documentElement.outerHTML);
    assert.ok(shown.includes("u-\\u202egpj.exe\\u0007"), "the user is not shown");
    assert.doesNotMatch(shown, /[\u202e\u0007]/);
  }],

  ["a combination that is not counted is said quietly", async (page, { url }) => {
    await page.goto(`${url}/live?f=content_id%3Ac-1%20Pilot`);
    await page.waitForSelector("text=Not counted together with this filter.");
    assert.equal(await page.locator("[role=alert]").count(), 0);
    assert.match(await tile(page, "Events"), /\d/);
  }],

  ["what was accepted and stands in no number is told beside the numbers", async (page) => {
    await against(page, { meta: { late_pending: 1203, unread: { completion_rate: 3 } } }, async (mock) => {
      await page.goto(`${mock.url}/live`);
      await page.waitForSelector("text=1,203 too late to count");
      const exactness = (label) => page.locator(`section.tile[aria-label='${label}'] .foot`);
      await exactness("Completion rate").locator("text=3 without a number").waitFor();
      assert.match(await exactness("Click-through rate").textContent(), /exact/);
      await accessible(page, "a page with events that count nowhere");
      await page.goto(`${mock.url}/explore`);
      await page.locator("section.trend header >> text=1,203 too late to count").waitFor();
    });
  }, { signedOut: true }],

  ["a metric that is newer than the range shows what there is, since when, and never as the whole", async (page) => {
    const at = Math.floor(Date.now() / 60_000) * 60_000 - 25 * 60_000;
    await against(page, { newer: { at, metrics: ["trials", "completion_rate"] } }, async (mock) => {
      await page.goto(`${mock.url}/live?last=6h`);
      const rate = page.locator("section.tile[aria-label='Completion rate']");
      await rate.locator(".since").waitFor();
      await page.waitForFunction(() => /\d/.test(document.querySelector("section.tile[aria-label='Completion rate'] .big").textContent));
      const clock = await page.evaluate((ms) => new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" }), at);
      assert.equal(await rate.locator(".since").textContent(), `since ${clock}`);
      // The others are of all of the range, and nothing fills anything in.
      assert.equal(await page.locator("section.tile .since").count(), 1);
      assert.equal(await page.locator("text=/filling in/i").count(), 0);
      await accessible(page, "a tile that is known since a moment");
      await page.goto(`${mock.url}/explore?m=trials&last=6h&by=country`);
      const board = page.locator("section[aria-label^='Country by']");
      await board.locator(".since").waitFor();
      await page.waitForFunction(() => /\d/.test(document.querySelector("section[aria-label^='Country by'] li .n")?.textContent ?? ""));
      await page.waitForFunction(() => /\d/.test(document.querySelector("section[aria-label=Table] tbody td.n")?.textContent ?? ""));
      assert.match(await page.locator("section.trend header").textContent(), /since \d\d:\d\d/);
      await page.waitForFunction(() => document.querySelectorAll("section.trend .legend span").length > 4);
      await accessible(page, "a question about a metric that is new");
    });
  }, { signedOut: true }],

  ["windows before a dimension was declared are not known, which is not zero", async (page) => {
    const at = Math.floor(Date.now() / 60_000) * 60_000 - 25 * 60_000;
    await against(page, { newer: { at, metrics: ["events", "unique_users", "completion_rate", "click_through_rate"] } }, async (mock) => {
      await page.goto(`${mock.url}/live?f=country%3ADE&tz=utc`);
      await page.waitForFunction(() => /\d/.test(document.querySelector("section.tile[aria-label=Events] .big")?.textContent ?? ""));
      assert.match(await tile(page, "Events"), /^[\d,.]+.*[\d,]+ users$/, "its users are known from the same moment on");
      await page.click("section.trend .astable summary");
      const rows = page.locator("section.trend .astable tbody tr");
      await page.waitForFunction(() => document.querySelectorAll("section.trend .astable tbody tr").length >= 60);
      const cells = await rows.evaluateAll((all) => all.map((row) => [...row.children].slice(1, 3).map((cell) => cell.textContent)));
      // Newest first: some 26 minutes are known, the others are not.
      assert.ok(cells.slice(0, 20).flat().every((text) => /^[\d,]+$/.test(text)), JSON.stringify(cells.slice(0, 20)));
      assert.deepEqual([...new Set(cells.slice(30).flat())], ["–"]);
      assert.match(await page.locator("section.trend header").textContent(), /since \d\d:\d\d/);
    });
  }, { signedOut: true }],

  ["money keeps its cents, on a board, too", async (page, { url }) => {
    await page.goto(`${url}/explore?m=revenue&last=6h&by=country`);
    await page.waitForFunction(() => document.querySelectorAll("section[aria-label^='Country by'] .n").length > 4 && document.querySelectorAll("section[aria-label=Table] td.n").length > 4);
    const texts = await page.locator("section[aria-label^='Country by'] .n, section[aria-label=Table] td.n:nth-child(2)").allTextContents();
    for (const text of texts) assert.match(text, /^[\d,]+\.\d\d$/, texts.join(" "));
  }],

  ["what masking changed is told by field, under the field's own name", async (page, { url }) => {
    await page.goto(`${url}/system`);
    const card = page.locator("section[aria-label='Masked values']");
    await card.waitFor();
    assert.deepEqual(await card.locator("dt").allTextContents(), ["user_id", "properties.elapsed_ms", "properties.file_bytes"]);
    assert.deepEqual(await card.locator("dd").allTextContents(), ["41", "12", "2,048"]);
  }],

  ["who sends most is told by label, else by id, and who is over a quota", async (page, { url }) => {
    await page.goto(`${url}/system`);
    const card = page.locator("section[aria-label='Senders']");
    await card.waitFor();
    assert.deepEqual(await card.locator("tbody th").allTextContents(), ["shop", "write-Xw93kPd0"]);
    assert.deepEqual(await card.locator("td.trouble").allTextContents(), ["412"]);
  }],

  ["who holds memory is told, and all of it together is what is in use", async (page, { url }) => {
    await page.goto(`${url}/system`);
    const card = page.locator("section[aria-label='Memory']");
    await card.waitFor();
    assert.equal(await card.locator(".badge").textContent(), "76.8\u202f% of 512\u202fMiB");
    const told = await card.locator("dd").allTextContents();
    assert.deepEqual(told.map((text) => text.replace("\u202fMiB", "")), ["393.2", "69.4", "113.4", "61.2", "20.7", "36.0", "64.1", "28.4"]);
    const sum = told.slice(1).reduce((sum, text) => sum + Number.parseFloat(text), 0);
    assert.ok(Math.abs(sum - Number.parseFloat(told[0])) < 0.4, told.join(" "));
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

  ["an event that claimed to be yet to come says so in its trace", async (page, { url }) => {
    await page.goto(`${url}/events?tab=trace&id=tomorrow`);
    await page.waitForSelector(".way .verdict.counted");
    assert.match(await page.locator(".steps li").first().textContent(), /sent as .*: it was yet to come, so it counts at its receipt/);
    await accessible(page, "the trace of a corrected event");
  }],
];
