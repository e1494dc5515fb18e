// The page in a real browser against a real service: what an operator does, and what may go wrong meanwhile.
//
// BEAMWRIGHT names the binary, CHROMIUM the browser, SCREENSHOTS a folder for pictures of what was seen.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { chromium } from "playwright-core";
import { BINARY, Service } from "./service.mjs";

const HANG_MS = Number(process.env.HANG_MS ?? 60_000);
let service, browser, page, problems;

before(async () => {
  service = await new Service().start();
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
});

beforeEach(async () => {
  await page?.context().close();
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  page = await context.newPage();
  page.setDefaultTimeout(HANG_MS);
  problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  await page.goto(service.url);
  await page.waitForFunction(() => globalThis.beamwright?.instrument.connected && beamwright.instrument.status);
  await page.evaluate(tidy);
});

/** Ends what an earlier test has left: the lease runs out, the trip is cleared, the acquisition aborted. */
async function tidy() {
  const { instrument } = beamwright;
  const until = async (isSo) => {
    while (!isSo()) await new Promise((done) => setTimeout(done, 50));
  };
  await until(() => instrument.status.lease.phase === "FREE");
  const isLive = () => instrument.acquisition && !/FINISHED|ABORTED|FAILED|INTERRUPTED/.test(instrument.acquisition.state);
  if (!instrument.status.trip && !isLive()) return;
  await instrument.takeControl();
  if (instrument.status.trip) await instrument.clearTrip();
  if (isLive()) await instrument.act("Abort").catch(() => {});
  await until(() => !isLive() && !instrument.status.trip);
  await instrument.releaseControl();
  await until(() => !instrument.status.lease.held);
}

afterEach(() => assert.deepEqual(problems, [], "nothing went wrong on the page itself"));

after(async () => {
  await browser?.close();
  await service?.kill();
});

const see = (selector, text) => page.locator(selector, { hasText: text }).first().waitFor();
const state = (wanted) => page.waitForFunction((wanted) => beamwright.instrument.acquisition?.state === wanted, wanted);

async function picture(name) {
  if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}.png`) });
}

/** Starts a scan that goes on until it is ended, and waits until there is a picture of it. */
async function start({ pattern = "JITTERED", dwell = "4000" } = {}) {
  await page.fill("[name=dwell]", dwell);
  await page.selectOption("[name=pattern]", pattern);
  await page.selectOption("[name=estimator]", "KRIGING");
  await page.waitForFunction(() => !document.getElementById("start").disabled);
  const before = await page.evaluate(() => beamwright.instrument.acquisition?.name);
  await page.click("#start");
  await page.waitForFunction((before) => beamwright.instrument.acquisition?.name !== before, before);
  await state("RUNNING");
  await page.waitForFunction(() => /positions/.test(document.getElementById("shown").textContent));
}

async function end() {
  if (await page.evaluate(() => Boolean(beamwright.instrument.status.trip))) await page.click(".alarm >> text=/^Clear$/");
  await page.click("#abort");
  await state("ABORTED");
  await page.click("#control");
  await see("#holder", "Nobody has control");
}

/** What the canvas shows, as a number that another picture would not have. */
const shown = () => page.evaluate(() => {
  const { plane } = beamwright.picture;
  return plane ? plane.values.reduce((sum, value, i) => sum + value * ((i % 97) + 1), 0) : null;
});

/** Waits until the canvas shows another picture than `first`. */
async function changes(first) {
  while ((await shown()) === first) await page.waitForTimeout(50);
}

test("the cost of a plan is told before anything moves, and bad input is refused where it was made", async () => {
  await see("#prediction", "e/Å²");
  await see("#prediction", "MiB");
  await page.fill("[name=fraction]", "130");
  await see("#refusal", "Fraction, 130 %: fraction: 1.3 is not allowed. Allowed: above 0, at most 1.");
  assert.equal(await page.getAttribute("[name=fraction]", "aria-invalid"), "true");
  assert.ok(await page.isDisabled("#start"));
  await picture("refused");
  await page.fill("[name=fraction]", "10");
  await page.locator("#refusal").waitFor({ state: "hidden" });
  assert.ok(await page.isEnabled("#start"));
  await page.fill("[name=limit]", "200");
  await see("#warnings", "the dose limit of 200 e/Å² ends the scan after about 10 % of its positions");
  await page.fill("[name=dwell]", "5,5");
  await see("#refusal", "Dwell, 5,5 µs: not a number. Decimals are written with a point.");
  await page.fill("[name=dwell]", "0");
  await see("#refusal", "Dwell, 0 µs: exposure, dwell ns: 0 is not allowed");
  assert.equal(await page.getAttribute("[name=dwell]", "aria-invalid"), "true");
});

test("several stop rules stand beside the dose limit, and the first that is reached ends the scan", async () => {
  await page.fill("[name=limit]", "600");
  await page.fill("[name=stop-time]", "100");
  await page.fill("[name=stop-precision]", "300");
  await see("#refusal", "Stop at uncertainty, 300 % uncertain");
  assert.equal(await page.getAttribute("[name=stop-precision]", "aria-invalid"), "true");
  assert.equal(await page.getAttribute("[name=stop-time]", "aria-invalid"), null);
  await page.fill("[name=stop-precision]", "");
  await page.fill("[name=stop-dose]", "500");
  await page.locator("#refusal").waitFor({ state: "hidden" });
  await see("#warnings", "the stop rule of 500 e/Å² ends the scan after about");
  await page.waitForFunction(() => !document.getElementById("start").disabled);
  await page.click("#start");
  await state("FINISHED");
  const { result, dose, plan } = await page.evaluate(() => beamwright.instrument.acquisition);
  assert.equal(result.reason, "STOP_RULE");
  assert.equal(plan.stop_rules[result.stop_rule].dose_e_per_a2, 500);
  assert.ok(dose.mean_dose_e_per_a2 <= 600, `${dose.mean_dose_e_per_a2} e/Å²`);
  await page.click("#control");
});

test("what the installation cannot promise is told", async () => {
  await page.click("#notes summary");
  await see("#notes-list", "the beam is simulated");
});

test("an acquisition is started by hand, its picture changes, the planes are shown", async () => {
  await start({ pattern: "ADAPTIVE" });
  await see("#beam", "Beam on");
  const first = await shown();
  await changes(first);
  assert.match(await page.textContent("#age"), /s old/);
  await page.keyboard.press("2");
  await see("#shown", "uncertainty");
  await page.keyboard.press("3");
  await see("#shown", "visits");
  await page.waitForFunction(() => beamwright.picture.plane?.values.some((visits) => visits > 0));
  await page.keyboard.press("1");
  await see("#shown", "estimate");
  await page.selectOption("#colours", "cividis");
  await page.click("#fft");
  await page.locator("#spectrum").waitFor();
  await page.waitForTimeout(500);
  await picture("running");
  await page.click("#fft");
  await end();
});

test("pause and resume by key; a region drawn on the picture becomes the next plan", async () => {
  await start();
  await page.keyboard.press("p");
  await state("PAUSED");
  await see("#beam", "Beam blanked");
  await page.keyboard.press("r");
  await state("RUNNING");
  await page.click("[data-tool=region]");
  const box = await page.locator("#canvas").boundingBox();
  await page.mouse.move(box.x + box.width * 0.4, box.y + box.height * 0.3);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.55, box.y + box.height * 0.6, { steps: 4 });
  await page.mouse.up();
  await see("#region-note", "Only the region drawn on the picture");
  const plan = await page.evaluate(() => beamwright.planner.plan());
  assert.equal(plan.region.parent.acquisition, await page.evaluate(() => beamwright.instrument.acquisition.name));
  await see("#prediction", "Time");
  assert.ok(await page.isHidden("#refusal"), "the region is a plan that the service accepts");
  // The same without a pointer: what is seen becomes the region.
  await page.focus("#canvas");
  await page.keyboard.press("+");
  await page.keyboard.press("+");
  await page.keyboard.press("Enter");
  const { n_rows } = await page.evaluate(() => beamwright.planner.plan().region.parent.pixels);
  assert.ok(n_rows > 300 && n_rows < 350, `512 / 1.25² rows are in sight, not ${n_rows}`);
  await end();
});

test("blank by key, from anywhere, and go on after the trip has been cleared", async () => {
  await start();
  await page.focus("[name=title]");
  await page.keyboard.press("Escape");
  await see(".alarm", "Tripped: blank request");
  await see("#beam", "Beam blanked");
  await see("#said", "ms after the click");
  await state("TRIPPED");
  await picture("blanked");
  await page.click("text=Clear and resume");
  await state("RUNNING");
  await page.locator(".alarm").waitFor({ state: "detached" });
  await end();
});

test("control lost to another is unmistakable, with what to do", async () => {
  await start();
  await page.evaluate(() =>
    beamwright.instrument.service.call("ControlService/TakeOverLease", { holder: "ana", reason: "the test", force: true }));
  await see(".alarm", "You lost control");
  await see(".alarm", "ana has it now");
  await page.locator(".alarm").getByRole("button", { name: "Ask for control" }).waitFor();
  await see(".alarm", "Take control again to resume or abort");
  await picture("lost-control");
  // Nobody keeps ana's lease alive: it runs out, and control can be had again.
  await page.waitForFunction(() => !beamwright.instrument.status.lease.held);
  await page.locator(".alarm").getByRole("button", { name: "Take control" }).click();
  await see("#holder", "You have control");
  await end();
});

test("a view starts whatever policy the form has, and the start of a scan stays in sight", async () => {
  await page.setViewportSize({ width: 1180, height: 800 });
  await page.selectOption("[name=pattern]", "ADAPTIVE");
  await page.waitForFunction(() => !document.getElementById("start").disabled);
  await page.click("#view");
  await state("RUNNING");
  assert.equal(await page.evaluate(() => beamwright.instrument.acquisition.plan.pattern.kind), "JITTERED");
  assert.ok(await page.isHidden("#refusal"));
  await see("#shown", "positions");
  const start = await page.locator("#start").boundingBox();
  assert.ok(start.y + start.height <= 800, `Start ends at ${start.y + start.height} px`);
  await picture("view");
  await end();
});

test("results are listed, saved, and scanned once more", async () => {
  await page.fill("[name=dwell]", "1");
  await page.fill("[name=title]", "for the results");
  await page.selectOption("[name=estimator]", "NEAREST");
  await page.waitForFunction(() => !document.getElementById("start").disabled);
  await page.click("#start");
  await state("FINISHED");
  await page.click("#tab-results");
  await page.locator("#list button", { hasText: "for the results" }).click();
  await see("#shown", "estimate");
  const [file] = await Promise.all([page.waitForEvent("download"), page.click("[data-kind=npy]")]);
  const npy = readFileSync(await file.path());
  assert.equal(npy.length, 128 + 512 * 512 * 4);
  assert.match(npy.toString("latin1", 10, 128), /'shape': \(512, 512\)/);
  const [set] = await Promise.all([page.waitForEvent("download"), page.click("#data-set")]);
  assert.match(set.suggestedFilename(), /^\d{8}-\d{6}-\d{3}\.zspy\.zip$/);
  assert.equal(readFileSync(await set.path()).readUInt32LE(0), 0x04034b50, "a zip file");
  await page.click("#replay");
  await see("#shown", "replay of the scan");
  await page.click("#replay");
});

test("more acquisitions than a list begins with can be reached", async () => {
  await page.evaluate(async () => {
    const { instrument, planner } = beamwright;
    for (let i = 0; i < 31; i++) await instrument.command("AcquisitionService/CreateAcquisition", { plan: planner.plan() });
  });
  await page.click("#tab-results");
  await page.waitForFunction(() => document.querySelectorAll("#list button").length === 30);
  await page.click("#older");
  await page.waitForFunction(() => document.querySelectorAll("#list button").length > 30);
  await page.locator("#older").waitFor({ state: "hidden" });
  await page.click("#control");
});

test("a blank that is not answered is told to be unconfirmed, and Blank stays in reach", async () => {
  await start();
  service.process.kill("SIGSTOP");
  await page.focus("[name=detector]"); // a box to tick is not a place for letters
  await page.keyboard.press("b");
  await see(".alarm", "The blank is not confirmed");
  await see("#beam", "BEAM MAY BE ON");
  assert.ok(await page.isEnabled("#blank"));
  await see(".alarm", "No connection to the service");
  await picture("frozen");
  service.process.kill("SIGCONT");
  await see("#beam", "Beam blanked");
  await page.locator(".alarm", { hasText: "not confirmed" }).waitFor({ state: "detached" });
  await page.waitForFunction(() => beamwright.instrument.status.lease.phase === "FREE");
  await page.locator(".alarm").getByRole("button", { name: "Take control" }).click();
  await end();
});

test("the service is lost and found again", async () => {
  await start();
  await service.kill();
  await see(".alarm", "No connection to the service");
  await see("#beam", "Beam unknown");
  assert.ok(await page.evaluate(() => document.body.classList.contains("disconnected")));
  await picture("no-connection");
  await service.start();
  await see("#beam", "Beam blanked");
  await page.locator(".alarm", { hasText: "No connection" }).waitFor({ state: "detached" });
  await page.reload();
  await page.waitForFunction(() => globalThis.beamwright?.instrument.connected);
});

test("nothing is out of reach for a keyboard or a screen reader", async () => {
  const context = await browser.newContext({ bypassCSP: true, viewport: { width: 1440, height: 900 } });
  const checked = await context.newPage();
  await checked.goto(service.url);
  await checked.waitForFunction(() => globalThis.beamwright?.instrument.connected);
  await checked.locator("#prediction dd").first().waitFor();
  await checked.addScriptTag({ path: createRequire(import.meta.url).resolve("axe-core/axe.min.js") });
  const { violations } = await checked.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] }));
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
  assert.deepEqual(found, []);
  await context.close();
});

test("arrows go from one choice to the next", async () => {
  await page.focus("#tab-plan");
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.getAttribute("#tab-results", "aria-selected"), "true");
  await page.focus("[data-plane=ESTIMATE]");
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.getAttribute("[data-plane=UNCERTAINTY]", "aria-checked"), "true");
  await page.keyboard.press("ArrowLeft");
  assert.equal(await page.getAttribute("[data-plane=ESTIMATE]", "aria-checked"), "true");
});

test("one who asks for control names itself, and who has it may keep or give it", async () => {
  await page.click("#control");
  await see("#holder", "You have control");
  const context = await browser.newContext();
  const other = await context.newPage();
  await other.goto(service.url);
  await other.locator("#holder", { hasText: /^web page of \d\d:\d\d has control$/ }).waitFor();
  await other.click("#control");
  await see(".alarm", "asks for control");
  await page.click("text=Keep control");
  await other.locator("#said", { hasText: "the holder declined" }).waitFor();
  await other.click("#control");
  await page.click("text=Give it");
  await other.locator("#holder", { hasText: "You have control" }).waitFor();
  await other.click("#control");
  await context.close();
});

test("a service that asks for a token gets one", async () => {
  const careful = await new Service('[access]\nwithout_token = "none"').start();
  const add = ["token", "add", "ana", "--role", "operator", "--config", careful.config, "--json"];
  const { token } = JSON.parse(execFileSync(BINARY, add, { encoding: "utf8" }));
  await page.goto(careful.url);
  await see("#identify", "Who are you?");
  await page.fill("#token", "nonsense");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("identify").open);
  await page.fill("#token", token);
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => globalThis.beamwright?.instrument.connected);
  await page.click("#control");
  await see("#holder", "You have control");
  await page.click("#control");
  await careful.kill();
});

test("nothing in the header lies over anything else, however narrow it is", async () => {
  await page.click("#control");
  for (const width of [1440, 1180, 1024, 800, 420]) {
    await page.setViewportSize({ width, height: 800 });
    const over = await page.evaluate(() => {
      const shown = [...document.querySelectorAll("header .lamp, header .brand b, #notes summary, #holder, #control, #blank")];
      const boxes = shown.map((e) => ({ name: e.id || e.textContent, ...e.getBoundingClientRect().toJSON() })).filter(({ width }) => width > 0);
      const cross = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
      const outside = boxes.filter(({ right }) => right > innerWidth + 1).map(({ name }) => `${name} outside`);
      return outside.concat(boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => cross(a, b)).map((b) => `${a.name} over ${b.name}`)));
    });
    assert.deepEqual(over, [], `at ${width} px`);
  }
  await page.click("#control");
});

test("on a tablet held upright the picture and Blank stay in sight", async () => {
  await page.setViewportSize({ width: 800, height: 1180 });
  const stage = await page.locator(".stage").boundingBox();
  assert.ok(stage.height > 500, `the picture is ${stage.height} px high`);
  await page.mouse.wheel(0, 3000);
  const blank = await page.locator("#blank").boundingBox();
  assert.ok(blank.y >= 0 && blank.y < 200);
  await picture("tablet");
});
