// Takes pictures of every page against the mock: node tools/shots.mjs [folder]
import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";
import { start } from "../mock/server.mjs";

const folder = process.argv[2] ?? "test-results/shots";
mkdirSync(folder, { recursive: true });
const mock = await start();
const empty = await start(0, { empty: true });
const browser = await chromium.launch({ executablePath: process.env.NILOMETER_E2E_BROWSER ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
const PAGES = { live: "/live", filtered: "/live?f=country%3ADE", explore: "/explore?by=device_type&last=6h", tail: "/events", letters: "/events?tab=letters", trace: "/events?tab=trace&id=018f3c0001000123", system: "/system" };
for (const colorScheme of ["light", "dark"]) {
  for (const [size, viewport] of Object.entries({ wide: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } })) {
    const page = await browser.newPage({ viewport, colorScheme });
    page.on("console", (message) => message.type() === "error" && console.log(`${size} ${colorScheme}: ${message.text()}`));
    page.on("pageerror", (error) => console.log(`${size} ${colorScheme}: ${error}`));
    await page.goto(`${mock.url}/`);
    await page.waitForSelector("input[name=token]");
    if (colorScheme === "light") await page.screenshot({ path: `${folder}/door-${size}.png` });
    await page.fill("input[name=token]", "demo");
    await page.click("button[type=submit]");
    await page.waitForSelector("header.top");
    for (const [name, path] of Object.entries(PAGES)) {
      await page.goto(`${mock.url}${path}`);
      await page.waitForTimeout(1600);
      if (name === "letters") await page.locator("button:has-text('Fix and replay')").first().click();
      await page.screenshot({ path: `${folder}/${name}-${size}-${colorScheme}.png`, fullPage: size === "phone" || name === "explore" || name === "live" });
    }
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (wide > 0) console.log(`${size}: the page is ${wide} px too wide`);
    await page.close();
  }
}
const page = await browser.newPage({ viewport: { width: 1440, height: 900 }, colorScheme: "light" });
await page.goto(`${empty.url}/#code=river`);
await page.waitForSelector(".empty");
await page.screenshot({ path: `${folder}/empty-wide.png` });
await browser.close();
mock.stop();
empty.stop();
