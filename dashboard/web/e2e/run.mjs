// The pages in a real browser.
//
//   NILOMETER_E2E_URL        server to test; without it, the mock is started and tested in every detail
//   NILOMETER_E2E_TOKEN      a read or admin token of it
//   NILOMETER_E2E_WRITE_KEY  where given, events are sent and have to appear
//   NILOMETER_E2E_CODE       where given, a one-time code that was not used yet
//   NILOMETER_E2E_BROWSER    path of Chromium, default /usr/bin/chromium
import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";
import { start } from "../mock/server.mjs";
import { everywhere, signIn } from "./everywhere.mjs";
import { onlyMock } from "./only-mock.mjs";
import { onlyReal } from "./only-real.mjs";
import { otherOrigin } from "./other-origin.mjs";

const url = process.env.NILOMETER_E2E_URL?.replace(/\/$/, "");
const mock = url ? null : await start();
const world = { url: url ?? mock.url, token: process.env.NILOMETER_E2E_TOKEN ?? "demo", writeKey: process.env.NILOMETER_E2E_WRITE_KEY, code: process.env.NILOMETER_E2E_CODE, mock };
// With a write key it is a server to play with; without one it is only looked at.
const chosen = !url ? [...everywhere, ...onlyMock] : world.writeKey ? [...everywhere, ...onlyReal, ...otherOrigin] : everywhere;
const tests = chosen.filter(([, , options]) => !options?.needs || world[options.needs]);
const only = process.argv[2];

const browser = await chromium.launch({ executablePath: process.env.NILOMETER_E2E_BROWSER ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
let failed = 0;
for (const [name, test, { signedOut = false, needs: _, expects, ...options } = {}] of tests.filter(([name]) => !only || name.includes(only))) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  const page = await context.newPage();
  // A shared machine may stand still for ten seconds; what is broken stays so for thirty.
  page.setDefaultTimeout(30_000);
  const noise = [];
  page.on("pageerror", (error) => noise.push(`page error: ${error}`));
  page.on("dialog", (dialog) => { noise.push(`dialog: ${dialog.message()}`); void dialog.dismiss(); });
  page.on("console", (message) => {
    // A refused request or a lost connection is told by the browser itself; the page's own errors, and its policy's, are not, but for those that a test `expects`.
    if (message.type() === "error" && !/Failed to load resource|WebSocket connection|net::ERR/.test(message.text()) && !expects?.test(message.text())) noise.push(message.text());
  });
  try {
    if (!signedOut) await signIn(page, world);
    await test(page, world);
    if (noise.length > 0) throw new Error(noise.join("\n"));
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    mkdirSync("test-results", { recursive: true });
    const picture = `test-results/${name.replace(/[^a-z0-9]+/gi, "-").slice(0, 80)}.png`;
    await page.screenshot({ path: picture }).catch(() => {});
    const shown = await page.evaluate(() => document.querySelector("main")?.innerText.slice(0, 1500) ?? "").catch(() => "");
    console.log(`FAILED  ${name}\n${error.stack ?? error}\n${noise.join("\n")}\npicture: ${picture}\nshown:\n${shown}`);
  }
  await context.close();
}
await browser.close();
mock?.stop();
console.log(failed === 0 ? "all passed" : `${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
