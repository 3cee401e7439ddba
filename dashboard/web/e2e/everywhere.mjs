// What holds against any server, the mock and the real one, whatever it has counted.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

/** The pages and their views. */
export const VIEWS = {
  Live: "/live",
  "Live, filtered": "/live?f=country%3ADE",
  Explore: "/explore",
  "Explore, split": "/explore?by=device_type&last=6h",
  "Live tail": "/events",
  "Dead letters": "/events?tab=letters",
  Trace: "/events?tab=trace&id=nobody",
  System: "/system",
};

export async function signIn(page, { url, token }) {
  await page.goto(`${url}/`);
  await page.fill("input[name=token]", token);
  await page.click("button[type=submit]");
  await page.waitForSelector("header.top");
}

export async function linked(page) {
  await page.waitForSelector(".badge.link.live");
}

/** Runs axe over the page as it stands; it is evaluated by the debugger, which the page's policy does not bind. */
export async function accessible(page, what) {
  await page.evaluate(axe);
  const violations = await page.evaluate(async (values) => {
    const { violations: found } = await window.axe.run(document, { runOnly: { type: "tag", values } });
    return found.map((one) => `${one.id}: ${one.help}\n  ${one.nodes.slice(0, 4).map((node) => `${node.html.slice(0, 160)} ${node.any.map((check) => check.message).join("; ").slice(0, 200)}`).join("\n  ")}`);
  }, RULES);
  assert.deepEqual(violations, [], `${what} is not accessible:\n${violations.join("\n")}`);
}

/** Waits until every tile shows its answer, each of which comes by itself. */
async function answered(page) {
  await linked(page);
  await page.waitForFunction(() => document.querySelectorAll(".tile .big").length > 0 && document.querySelectorAll(".tile .big .ghost-number").length === 0);
}

async function fits(page, what) {
  const excess = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(excess <= 0, `${what} is ${excess} px wider than the window`);
}

async function everyView(page, { url }) {
  for (const [name, path] of Object.entries(VIEWS)) {
    await page.goto(`${url}${path}`);
    await page.waitForSelector("main h1");
    await page.waitForTimeout(1300);
    assert.equal(await page.locator(".trouble:not(.sum *, [aria-label=Senders] *)").count(), 0, `${name} shows trouble: ${await page.locator(".trouble").allTextContents()}`);
    await fits(page, name);
    await accessible(page, name);
  }
}

const TILES = ["Daily active users", "Active now", "Events per second", "Session duration", "Completion rate", "Engagement rate", "Click-through rate", "Events"];

/** What the tile says, without its small print. */
async function tile(page, label) {
  return page.locator(`section.tile[aria-label="${label}"] .big`).evaluate((big) => big.firstChild.textContent.trim());
}

export const everywhere = [
  ["the check of accessibility finds what is wrong", async (page, { url }) => {
    await page.goto(`${url}/`);
    await page.waitForSelector("input[name=token]");
    await page.evaluate(() => { document.querySelector("form").append(document.createElement("button")); });
    await assert.rejects(accessible(page, "a button without a name"), /button-name/);
  }, { signedOut: true }],

  ["a wrong token stays outside", async (page, { url }) => {
    await page.goto(`${url}/explore`);
    // The door stands only once the server has said that nobody is signed in.
    await page.waitForSelector("input[name=token]");
    await accessible(page, "the door");
    await page.fill("input[name=token]", "not-a-token");
    await page.click("button[type=submit]");
    await page.waitForSelector(".trouble");
    assert.equal(await page.locator("header.top").count(), 0);
  }, { signedOut: true }],

  ["the cookie cannot be read by scripts", async (page, { url }) => {
    const cookies = await page.context().cookies(url);
    assert.ok(cookies.length > 0, "no cookie was set");
    for (const cookie of cookies) assert.ok(cookie.httpOnly && cookie.sameSite === "Strict", JSON.stringify(cookie));
    assert.equal(await page.evaluate(() => document.cookie), "");
  }],

  ["no text becomes markup or script, and nothing may say that it is safe", async (page) => {
    const refused = await page.evaluate(() => {
      const tries = [
        () => { document.createElement("div").innerHTML = "<b>bold</b>"; },
        () => { document.createElement("script").src = "/app.js"; },
        () => { document.createElement("iframe").srcdoc = "<b>bold</b>"; },
        () => { window.trustedTypes.createPolicy("any", { createHTML: (text) => text }); },
      ];
      return tries.map((attempt) => { try { attempt(); return "done"; } catch (error) { return error.name; } });
    });
    assert.deepEqual(refused, ["TypeError", "TypeError", "TypeError", "TypeError"]);
  }, { expects: /Trusted/ }],

  ["signing out shuts the door", async (page, { url }) => {
    await page.click("button[aria-label='Sign out']");
    await page.waitForSelector("input[name=token]");
    await page.goto(`${url}/system`);
    await page.waitForSelector("input[name=token]");
  }],

  ["every view is accessible by day", everyView, { colorScheme: "light" }],
  ["every view is accessible by night", everyView, { colorScheme: "dark" }],
  ["every view fits a phone", everyView, { viewport: { width: 390, height: 844 }, colorScheme: "light", hasTouch: true, isMobile: true }],

  ["the connection is live within a second or two", async (page) => { await linked(page); }],

  ["losing the connection is said at once, and it comes back by itself", async (page) => {
    await linked(page);
    await page.context().setOffline(true);
    await page.waitForSelector(".banner", { timeout: 3000 });
    await accessible(page, "the page without a connection");
    await page.context().setOffline(false);
    await linked(page);
    assert.equal(await page.locator(".banner").count(), 0);
  }],

  ["keys lead to the filter, the time, the pages and the help", async (page) => {
    await linked(page);
    await page.keyboard.press("/");
    assert.equal(await page.evaluate(() => document.activeElement.id), "search");
    await page.keyboard.press("t");
    assert.equal(await page.inputValue("#search"), "t", "a key while typing is text");
    await page.evaluate(() => document.activeElement.blur());
    await page.keyboard.press("t");
    await page.waitForSelector(".panel");
    await page.waitForFunction(() => document.activeElement.closest(".panel"));
    await accessible(page, "the time picker");
    await page.keyboard.press("Escape");
    await page.waitForSelector(".panel", { state: "detached" });
    await page.keyboard.press("?");
    await page.waitForSelector("dialog[open]");
    await accessible(page, "the help");
    await page.keyboard.press("Escape");
    await page.waitForSelector("dialog[open]", { state: "detached" });
    await page.keyboard.press("2");
    await page.waitForURL("**/explore*");
    await page.keyboard.press("4");
    await page.waitForURL("**/system*");
  }],

  ["all that was chosen is in the address", async (page, { url }) => {
    const path = "/explore?last=6h&f=country%3ADE&tz=utc&m=unique_users&by=device_type&g=30m&cmp=0";
    await page.goto(`${url}${path}`);
    await page.waitForSelector(".chip");
    assert.equal(await page.locator(".choices select").nth(0).inputValue(), "unique_users");
    assert.equal(await page.locator(".choices select").nth(1).inputValue(), "device_type");
    assert.equal(await page.locator(".choices select").nth(2).inputValue(), "30m");
    await page.locator(".chip button").click();
    await page.waitForURL((next) => !next.search.includes("country"));
    await page.goBack();
    await page.waitForSelector(".chip");
  }],

  ["the theme is turned by a button, and kept", async (page) => {
    const before = await page.evaluate(() => document.documentElement.dataset.theme);
    await page.click("button[aria-label$=theme]");
    const after = await page.evaluate(() => document.documentElement.dataset.theme);
    assert.notEqual(after, before);
    await page.reload();
    await page.waitForSelector("header.top");
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), after);
  }],

  ["every tile says a number, its change, its age and its error", async (page) => {
    await answered(page);
    for (const label of TILES) {
      assert.match(await tile(page, label), /\d/, label);
      const foot = await page.locator(`section.tile[aria-label="${label}"] .foot`).textContent();
      assert.match(foot, /exact|±[\d.]+/, label);
      assert.match(foot, /\d\s?(ms|s)/u, label);
    }
    assert.equal(await page.locator(".tile .spark .over").count(), TILES.length);
  }],

  ["numbers move by themselves, and stand still while paused; resuming shows the latest", async (page) => {
    await answered(page);
    const first = await tile(page, "Active now");
    await page.waitForFunction((before) => document.querySelector("section[aria-label='Active now'] .big").firstChild.textContent.trim() !== before, first);
    await page.keyboard.press("p");
    const held = await page.locator(".tiles .big").allTextContents();
    await page.waitForTimeout(2500);
    assert.deepEqual(await page.locator(".tiles .big").allTextContents(), held);
    await page.keyboard.press("p");
    // Two frames, however long they take: what came while it was paused is there, not only the next answer.
    await page.evaluate(() => new Promise((drawn) => { requestAnimationFrame(() => requestAnimationFrame(drawn)); }));
    assert.notDeepEqual(await page.locator(".tiles .big").allTextContents(), held, "resuming shows the latest at once");
  }],

  ["a value clicked holds everything to it, clicked again lets go, and leads to its events", async (page) => {
    await answered(page);
    await page.waitForFunction(() => document.querySelectorAll("section[aria-label^='Country by'] li").length > 2);
    const [first, second] = await page.locator("section[aria-label^='Country by'] li:not(.lacking) .name").allTextContents();
    const number = (text) => Number(text.replace(/[^\d.]/g, "")) * (/M/.test(text) ? 1e6 : /k/.test(text) ? 1e3 : 1);
    const all = number(await tile(page, "Events"));
    const country = page.locator("section[aria-label^='Country by'] button.value", { hasText: first });
    await country.click();
    await page.waitForURL(`**/live?f=country%3A${first}`);
    await answered(page);
    const some = number(await tile(page, "Events"));
    assert.ok(0 < some && some < all, `${some} of ${all} events are of ${first}`);
    assert.equal(await country.getAttribute("aria-pressed"), "true");
    await page.locator("section[aria-label^='Country by'] button.value", { hasText: second }).click();
    await page.waitForURL((next) => next.search.includes(`f=country%3A${first},${second}`) || next.search.includes(`f=country%3A${first}%2C${second}`));
    await page.click("text=See these events");
    await page.waitForSelector("table.tail tbody tr");
    const countries = await page.locator("table.tail tbody tr td:nth-child(4)").allTextContents();
    assert.ok(countries.length > 0 && countries.every((name) => name === first || name === second), countries.join());
    await page.goBack();
    await page.locator("section[aria-label^='Country by'] button.value", { hasText: second }).click();
    await country.click();
    await page.waitForURL((next) => !next.search.includes("country"));
  }],

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
    await page.waitForFunction(() => /highest/.test(document.querySelector(".plot")?.getAttribute("aria-label") ?? ""));
    await page.locator(".plot").focus();
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("ArrowLeft");
    await page.waitForFunction(() => document.querySelector(".legend .when").textContent !== "");
    assert.match(await page.locator(".plot").getAttribute("aria-label"), /windows from .* lowest .* highest .* latest/);
    await page.click("text=Show as table");
    await page.waitForFunction(() => document.querySelectorAll(".astable tbody tr").length >= 60);
    assert.match(await page.locator(".astable tbody tr").first().textContent(), /provisional/);
    await accessible(page, "the chart as a table");
  }],

  ["a column is of one unit and one number of digits, of a board, too", async (page, { url }) => {
    let compared = 0;
    for (const path of ["/live?last=24h", "/explore?m=total_duration&last=6h&by=country", "/explore?m=p95_session_duration&last=6h", "/explore?m=completion_rate&by=device_type", "/events", "/system"]) {
      await page.goto(`${url}${path}`);
      await page.waitForFunction(() => document.querySelectorAll("td.n, .board .n").length > 0);
      await page.waitForTimeout(1300);
      const columns = await page.evaluate(() => {
        const seen = (cell) => {
          const copy = cell.cloneNode(true);
          for (const unseen of copy.querySelectorAll(".sr, [aria-hidden]")) unseen.remove();
          return copy.textContent;
        };
        const texts = (cells) => [...cells].map(seen);
        const boards = [...document.querySelectorAll(".board")].flatMap((board) => [".n:not(.second)", ".second"].map((of) => texts(board.querySelectorAll(of))));
        const tables = [...document.querySelectorAll("table")].flatMap((table) => [...table.querySelectorAll("thead th")].map((_, at) => texts(table.querySelectorAll(`td.n:nth-child(${at + 1})`))));
        return [...boards, ...tables];
      });
      for (const texts of columns) {
        const known = texts.filter((text) => /\d/.test(text));
        const shape = (text) => text.trim().replace(/^[+−±-]/, "").replace(/\.\d+/, (digits) => `.${"0".repeat(digits.length - 1)}`).replace(/(?<![.\d])\d[\d,]*/g, "#");
        assert.ok(new Set(known.map(shape)).size <= 1, `${path}: ${known.join(" | ")}`);
        compared += known.length > 1 ? 1 : 0;
      }
    }
    assert.ok(compared >= 12, `${compared} columns`);
  }],

  ["the table sorts, and leaves as CSV", async (page, { url }) => {
    await page.goto(`${url}/explore?by=country`);
    const rows = page.locator("section[aria-label=Table] tbody tr");
    await rows.first().waitFor();
    const leader = await rows.first().textContent();
    await page.locator("section[aria-label=Table] button.sort", { hasText: "Events" }).click();
    await page.waitForURL(/sort=events/);
    await page.waitForFunction((before) => document.querySelector("section[aria-label=Table] tbody tr").textContent !== before, leader);
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("button:has-text('CSV')")]);
    assert.equal(download.suggestedFilename(), "events-by-country.csv");
    const chunks = [];
    for await (const chunk of await download.createReadStream()) chunks.push(chunk);
    assert.match(Buffer.concat(chunks).toString(), /^country,events,events_previous\r\n/);
  }],

  ["the sum of the system is shown with its residual", async (page, { url }) => {
    await page.goto(`${url}/system`);
    await page.waitForSelector("text=The sum is exact");
    const numbers = (await page.locator("section[aria-label=Conservation] dd").allTextContents()).map((text) => Number(text.replace(/,/g, "")));
    assert.equal(numbers[0], numbers.slice(1).reduce((sum, value) => sum + value, 0));
  }],

  ["an event that was accepted is shown within seconds, without reload", async (page, { url, writeKey }) => {
    await answered(page);
    const before = await tile(page, "Events");
    const mark = `e2e-${Date.now()}`;
    const events = Array.from({ length: 40 }, (_, at) => ({ event_id: `${mark}-${at}`, event_type: "page_view", user_id: `${mark}-u${at % 7}`, timestamp: Date.now(), country: "DE", device_type: "tv", content_id: `<b>${mark}</b>` }));
    const response = await fetch(`${url}/v1/events`, { method: "POST", headers: { authorization: `Bearer ${writeKey}`, "content-type": "application/json" }, body: JSON.stringify(events) });
    assert.equal(response.status, 200, await response.text());
    await page.waitForFunction((text) => document.querySelector("section[aria-label=Events] .big").firstChild.textContent.trim() !== text, before);
    await page.goto(`${url}/events?tab=trace&id=${mark}-3`);
    await page.waitForSelector(".way");
    await page.goto(`${url}/events?f=country%3ADE`);
    await page.waitForSelector("table.tail tbody tr");
  }, { needs: "writeKey" }],
];
