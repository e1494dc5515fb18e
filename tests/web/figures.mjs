// The page's figures in a real browser that renders in software, beside a service that scans:
//
//     BEAMWRIGHT=target/release/beamwright node figures.mjs
//
// CHROMIUM names the browser. What else runs on the machine slows all of them.

import { loadavg } from "node:os";
import { chromium } from "playwright-core";
import { Service } from "./service.mjs";

const OPENINGS = 5;
const WATCHED_MS = 10_000;
const BLANKS = 20;

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const service = await new Service().start();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });

async function open() {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  const began = performance.now();
  await page.goto(service.url);
  return { context, page, began };
}

/** A scan of some minutes, 512 × 512. */
async function start(page) {
  await page.waitForFunction(() => beamwright.instrument.connected && beamwright.instrument.status);
  await page.fill("[name=dwell]", "8000");
  await page.waitForFunction(() => !document.getElementById("start").disabled);
  await page.click("#start");
  await page.waitForFunction(() => beamwright.picture.plane);
}

try {
  const { page } = await open();
  await start(page);

  const openings = [];
  for (let i = 0; i < OPENINGS; i++) {
    const other = await open();
    await other.page.waitForFunction(() => beamwright?.picture.plane);
    openings.push(performance.now() - other.began);
    await other.context.close();
  }
  console.log(`load ${loadavg()[0].toFixed(1)}`);
  console.log(`first picture after opening: median ${(median(openings) / 1000).toFixed(2)} s, longest ${(Math.max(...openings) / 1000).toFixed(2)} s, of ${OPENINGS}`);

  const frames = () => page.evaluate(() => beamwright.frames);
  const [before, began] = [await frames(), performance.now()];
  await page.waitForTimeout(WATCHED_MS);
  const rate = ((await frames()) - before) / ((performance.now() - began) / 1000);
  const { nRows, nCols } = await page.evaluate(() => ({ nRows: beamwright.picture.plane.nRows, nCols: beamwright.picture.plane.nCols }));
  console.log(`pictures of ${nRows} × ${nCols} shown: ${rate.toFixed(1)}/s`);

  const blanks = await page.evaluate(async (n) => {
    const told = [];
    for (let i = 0; i < n; i++) told.push(await beamwright.instrument.blank("figures"));
    return told;
  }, BLANKS);
  const of = (key) => blanks.map((told) => told[key]).toSorted((a, b) => a - b);
  const [clicks, served] = [of("ms"), of("serviceMs")];
  console.log(`blank, from the page to its acknowledgement: median ${median(clicks).toFixed(1)} ms, longest ${clicks.at(-1).toFixed(1)} ms; in the service alone median ${median(served).toFixed(2)} ms, longest ${served.at(-1).toFixed(2)} ms, of ${BLANKS}`);
} finally {
  await browser.close();
  await service.kill();
}
