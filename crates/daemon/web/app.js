// The panel: what is told goes onto the screen, what is clicked becomes a call. Blank is always in reach.

import { Instrument } from "./api.js";
import { MAPS } from "./colour.js";
import { Picture, drawCurve, drawHistogram, drawSpectrum } from "./picture.js";
import { Planner, node } from "./plan.js";
import { Results, replay, saveDataSet, saveShown } from "./results.js";
import { beamOf, count, digits, duration, scaled, words } from "./text.js";
import { Service } from "./wire.js";

const $ = (id) => document.getElementById(id);
const FINAL = ["FINISHED", "ABORTED", "FAILED", "INTERRUPTED"];
const LIVE = ["ARMING", "RUNNING", "PAUSING", "PAUSED", "TRIPPED", "FINISHING"];
const PLANES = { ESTIMATE: "estimate", UNCERTAINTY: "uncertainty", VISITS: "visits" };

/** What says who calls, where the service asks for it; kept for as long as the tab is open. */
const TOKEN = "beamwright-token";
const service = await Service.load(() => sessionStorage.getItem(TOKEN) ?? "");
const instrument = new Instrument(service);
const shown = { plane: "ESTIMATE", frame: null, arrived: 0, replaying: null };
/** Counts of what has been drawn, for whoever measures. */
globalThis.beamwright = { instrument, frames: 0, blankMs: null };

const picture = new Picture($("canvas"), {
  onRegion: (region) => {
    const name = shown.frame?.acquisition;
    planner?.setRegion(region && name ? { ...region, acquisition: name } : null, picture?.pitchNm);
  },
  onCursor: (text) => ($("cursor").textContent = text),
  onLevels: ([low, high], auto, bins) => {
    for (const [id, value] of [["low", low], ["high", high]]) {
      if (document.activeElement !== $(id)) $(id).value = value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2) : Number(value.toPrecision(3));
    }
    $("auto").setAttribute("aria-pressed", String(auto));
    drawHistogram($("histogram"), bins, [low, high]);
  },
  onProfile: (profile) => {
    $("profile-box").hidden = !profile;
    if (profile) drawCurve($("profile"), profile.values, profile.size);
  },
  onSpectrum: (spectrum) => {
    $("spectrum-box").hidden = !spectrum;
    if (spectrum) drawSpectrum($("spectrum"), spectrum);
  },
});

const planner = new Planner($("plan"), instrument, {
  onStart: (plan) => attempt(async () => {
    stopReplay();
    await instrument.start(plan);
    picture.setRegion(null);
    setTool("move");
  }, (error) => plan.kind === "ACQUIRE" && planner.refused(error.field ? error : null)),
  onRegionCleared: () => picture.setRegion(null),
});

const results = new Results($("list"), $("older"), instrument, {
  onChosen: (told) => {
    stopReplay();
    look(told);
  },
});

Object.assign(globalThis.beamwright, { picture, planner });

/** Does what was clicked; says what went wrong. */
async function attempt(act, alsoTell = () => {}) {
  try {
    await act();
  } catch (error) {
    say(error.message, true);
    alsoTell(error);
  }
}

let quiet = 0;
function say(text, isBad = false) {
  $("said").textContent = text;
  $("said").classList.toggle("bad", isBad);
  clearTimeout(quiet);
  quiet = setTimeout(() => ($("said").textContent = ""), isBad ? 9000 : 4000);
}

// Blank, and the other commands.

/** A blank that is not acknowledged by then is told to be unconfirmed; it is waited for all the same, and can be asked for again. */
const BLANK_PATIENCE_MS = 1000;

async function blank() {
  const late = setTimeout(() => doubtBlank(`the service has not answered for ${BLANK_PATIENCE_MS / 1000} s`), BLANK_PATIENCE_MS);
  try {
    const { ms, serviceMs, parked } = await instrument.blank("asked for on the web page");
    globalThis.beamwright.blankMs = ms;
    const where = parked ? "There is no blanker: the beam is parked off the field." : "The controller has blanked the beam.";
    say(`${where} ${digits(ms, 2)} ms after the click, ${digits(serviceMs, 2)} ms of them in the service.`);
    alarms.delete("blank");
  } catch (error) {
    doubtBlank(error.message);
  }
  clearTimeout(late);
  drawStatus();
}

function doubtBlank(why) {
  alarms.set("blank", ["danger", "The blank is not confirmed", `${why}. The beam may be on: look at the microscope, and press Blank again.`, []]);
  drawStatus();
}

$("blank").addEventListener("click", blank);
$("pause").addEventListener("click", () => attempt(() => instrument.act("Pause")));
$("resume").addEventListener("click", () => attempt(resume));
$("abort").addEventListener("click", () => attempt(() => instrument.act("Abort")));
$("control").addEventListener("click", () => attempt(toggleControl));

async function resume() {
  if (instrument.status?.trip) await instrument.clearTrip();
  await instrument.act("Resume");
}

async function toggleControl() {
  if (instrument.holds) await instrument.releaseControl();
  else if (instrument.status?.lease?.held) {
    say(`Asking ${instrument.status.lease.holder}, who has 10 s to decline…`);
    await instrument.takeControl("asked for on the web page");
  } else await instrument.takeControl();
}

/** Arrows go from one choice to the next, as in any row of choices. */
for (const row of document.querySelectorAll("[role=radiogroup], [role=tablist]")) {
  row.addEventListener("keydown", (event) => {
    const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    const next = step && event.target[step];
    if (!next) return;
    next.focus();
    next.click();
  });
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key === "Escape") return void blank();
  // Where letters are written or choose, they do nothing else.
  if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
  const keys = {
    b: blank, p: () => $("pause").click(), r: () => $("resume").click(),
    1: () => setPlane("ESTIMATE"), 2: () => setPlane("UNCERTAINTY"), 3: () => setPlane("VISITS"),
  };
  const act = keys[event.key.toLowerCase()];
  if (act) {
    event.preventDefault();
    act();
  }
});

// The picture.

function setPlane(name) {
  shown.plane = name;
  check("planes", "plane", name);
  picture.auto = true;
  instrument.look({ plane: name });
}

function setTool(name) {
  check("tools", "tool", name);
  picture.setTool(name);
}

function check(group, key, value) {
  for (const button of $(group).children) button.setAttribute("aria-checked", String(button.dataset[key] === value));
}

$("planes").addEventListener("click", ({ target }) => target.dataset.plane && setPlane(target.dataset.plane));
$("tools").addEventListener("click", ({ target }) => target.dataset.tool && setTool(target.dataset.tool));
$("detector").addEventListener("change", ({ target }) => instrument.look({ detector: target.value }));
$("colours").replaceChildren(...MAPS.map((name) => new Option(name, name)));
$("colours").addEventListener("change", ({ target }) => picture.setColours(target.value));
$("fit").addEventListener("click", () => picture.fit());
$("auto").addEventListener("click", () => picture.setRange(null));
$("fft").addEventListener("click", () => {
  picture.wantSpectrum = !picture.wantSpectrum;
  $("fft").setAttribute("aria-pressed", String(picture.wantSpectrum));
  picture.measure();
});
for (const id of ["low", "high"]) {
  $(id).addEventListener("change", () => {
    const range = [Number($("low").value), Number($("high").value)];
    const isGood = range.every(Number.isFinite) && range[1] > range[0];
    $(id).toggleAttribute("aria-invalid", !isGood);
    if (isGood) picture.setRange(range);
    else say("The white level has to be above the black level.", true);
  });
}

instrument.addEventListener("preview", ({ detail }) => {
  shown.frame = detail;
  shown.arrived = performance.now() - detail.age_us / 1000;
  if (shown.replaying || shown.isDue) return;
  // The newest of what has come is drawn when the screen is: a slow machine draws fewer, and never hangs.
  shown.isDue = true;
  requestAnimationFrame(() => {
    shown.isDue = false;
    if (!shown.replaying) drawFrame();
  });
});

function drawFrame() {
  const { frame } = shown;
  const told = instrument.acquisition;
  const plane = frame?.planes.find(({ plane }) => plane === shown.plane);
  if (!plane || !told?.field || told.name !== frame.acquisition) return;
  const values = new Float32Array(plane.data.slice().buffer);
  const grid = { rows: told.field.grid.n_rows, cols: told.field.grid.n_cols };
  const scale = Math.max(1, Math.round(grid.rows / plane.n_rows));
  showPlane({ name: PLANES[shown.plane], values, nRows: plane.n_rows, nCols: plane.n_cols, scale }, grid, told.field.pitch_nm ?? 0);
  const about = shown.plane === "VISITS" ? "visits" : `${plane.detector} ${PLANES[shown.plane]}`;
  $("shown").textContent = `${about}, revision ${frame.revision}, ${count(frame.n_positions)} positions`;
}

function showPlane(plane, grid, pitchNm) {
  $("empty").hidden = true;
  picture.show(plane, grid, pitchNm);
  globalThis.beamwright.frames++;
  for (const button of document.querySelectorAll(".save")) button.disabled = false;
}

setInterval(() => {
  const told = instrument.acquisition;
  const running = told && !FINAL.includes(told.state);
  $("age").hidden = !shown.frame || shown.frame.final || !running;
  const age = (performance.now() - shown.arrived) / 1000;
  $("age").textContent = `${age.toFixed(1)} s old`;
}, 100);

// Results.

async function look({ name }) {
  shown.frame = null;
  picture.clear();
  $("shown").textContent = "";
  await attempt(async () => {
    const { acquisition } = await service.call("AcquisitionService/GetAcquisition", { name });
    instrument.acquisition = acquisition;
    instrument.tell("acquisition", acquisition);
    instrument.look({ acquisition: name });
    // Of a run of the service before this one there are files and samples, but no estimate to stream.
    setTimeout(() => !shown.frame && !shown.replaying && instrument.acquisition.name === name && playScan(0.5), 1500);
  });
}

function stopReplay() {
  shown.replaying?.abort();
  shown.replaying = null;
  $("replay").setAttribute("aria-pressed", "false");
}

$("live").addEventListener("click", () => {
  stopReplay();
  results.chosen = "";
  instrument.look({ acquisition: "" });
  results.refresh();
});
$("replay").addEventListener("click", () => attempt(async () => {
  if (shown.replaying) {
    stopReplay();
    return drawFrame();
  }
  await playScan(6);
}, stopReplay));

async function playScan(seconds) {
  const told = instrument.acquisition;
  shown.replaying = new AbortController();
  $("replay").setAttribute("aria-pressed", "true");
  const grid = { rows: told.field.grid.n_rows, cols: told.field.grid.n_cols };
  picture.auto = true;
  const show = (plane, done) => {
    showPlane(plane, grid, told.field.pitch_nm ?? 0);
    $("shown").textContent = `replay of the scan, ${Math.round(done * 100)} %`;
  };
  await replay(service, told, $("detector").value, seconds, show, shown.replaying.signal);
}
for (const button of document.querySelectorAll(".save")) {
  button.addEventListener("click", () => saveShown(button.dataset.kind, picture, instrument.acquisition.name));
}
$("data-set").addEventListener("click", () => attempt(async () => {
  say("Fetching the data set…");
  await saveDataSet(service, instrument.acquisition.name);
}));
for (const [tab, panel] of [["tab-plan", "plan"], ["tab-results", "results"]]) {
  $(tab).addEventListener("click", () => {
    for (const [other, of] of [["tab-plan", "plan"], ["tab-results", "results"]]) {
      $(other).setAttribute("aria-selected", String(other === tab));
      $(of).hidden = of !== panel;
    }
    if (panel === "results") results.refresh();
  });
}

// The state of the instrument.

function lamp(id, text, kind = "") {
  $(id).textContent = text;
  $(id).className = `lamp ${id === "beam" ? "big " : ""}${kind}`;
}

const LINKS = { UP: ["Link up", "safe"], DOWN: ["Link down", "danger"], HANDSHAKE: ["Link: identifying", "warn"], INCOMPATIBLE: ["Link: incompatible", "danger"] };

function drawStatus() {
  const { status, connected } = instrument;
  document.body.classList.toggle("disconnected", !connected);
  if (!connected) {
    lamp("beam", "Beam unknown", "danger");
    lamp("link", "No connection", "danger");
    lamp("controller", "");
  } else if (status) {
    lamp("beam", ...beamOf(status));
    lamp("link", ...(LINKS[status.link] ?? ["Link unknown", "danger"]));
    lamp("controller", `Controller ${words(status.controller)}`, status.controller === "TRIPPED" ? "danger" : "");
    drawNotes(status.warnings);
  }
  drawLease();
  noteAlarms();
  if (alarms.has("blank")) lamp("beam", "BEAM MAY BE ON", "danger");
  drawAlarms();
}

let noted = "";
/** What the installation cannot promise, and what else the operator should know. */
function drawNotes(warnings) {
  const told = JSON.stringify(warnings);
  if (told === noted) return;
  noted = told;
  const serious = warnings.filter(({ kind }) => kind !== "UNSPECIFIED");
  $("notes").hidden = !warnings.length;
  $("notes").classList.toggle("warn", serious.length > 0);
  $("notes").firstElementChild.textContent = warnings.length === 1 ? "1 note" : `${warnings.length} notes`;
  $("notes-list").replaceChildren(...[...new Set([...serious, ...warnings])].map(({ text }) => node("li", text)));
}

function drawLease() {
  const lease = instrument.status?.lease;
  const holder = $("holder");
  holder.className = instrument.holds && instrument.connected ? "mine" : "";
  holder.textContent = !instrument.connected ? "" : instrument.holds ? "You have control" : lease?.held ? `${lease.holder} has control` : "Nobody has control";
  $("control").textContent = instrument.holds ? "Release" : lease?.held ? "Ask for control" : "Take control";
  $("control").disabled = !instrument.connected;
  $("start").textContent = instrument.holds ? "Start" : "Take control and start";
}

const alarms = new Map();

function noteAlarms() {
  const { status, connected, lost, holds } = instrument;
  const set = (key, when, ...alarm) => (when ? alarms.set(key, alarm) : alarms.delete(key));
  set("connection", !connected && instrument.failed, "danger", "No connection to the service",
    "The picture is old. If the service is gone the controller blanks the beam by its own watchdog; if in doubt, look at the microscope. Trying again every second.", []);
  const told = connected ? status : null;
  set("unconfirmed", told?.beam === "UNCONFIRMED", "danger", "The beam may be on",
    "The controller has not acknowledged the blank. Look at the microscope: close the valves or blank by hand.", []);
  set("link", told && told.link !== "UP", "danger", "No link to the controller",
    "The controller blanks by its own watchdog. Check its cable and power; the service keeps trying.", []);
  set("trip", told?.trip, "danger", `Tripped: ${words(told?.trip?.cause ?? "")}`, told?.trip?.text ?? "",
    [["Clear and resume", () => attempt(resume), instrument.acquisition?.state !== "TRIPPED"], ["Clear", () => attempt(() => instrument.clearTrip())]]);
  // While nobody answers, nobody knows whether the beam is blanked: that is told once the service is back.
  const other = told?.lease?.held && !holds;
  set("lost", connected && lost && !holds, "danger", "You lost control",
    `${other ? `${told.lease.holder} has it now` : lost}. The beam was blanked. Take control again to resume or abort.`,
    [[other ? "Ask for control" : "Take control", () => attempt(toggleControl)]]);
  const asks = holds ? told?.lease?.takeover : null;
  set("takeover", asks, "info", `${asks?.holder} asks for control`, `${asks?.reason} — given in ${Math.ceil((asks?.grace_ms ?? 0) / 1000)} s unless you keep it.`,
    [["Keep control", () => instrument.declineTakeover()], ["Give it", () => attempt(() => instrument.releaseControl())]]);
}

let drawn = "";
function drawAlarms() {
  const text = JSON.stringify([...alarms].map(([key, [kind, title, words, buttons]]) => [key, kind, title, words, buttons.filter(([, , isHidden]) => !isHidden).map(([label]) => label)]));
  if (text === drawn) return;
  drawn = text;
  const rows = [...alarms.values()].map(([kind, title, text, buttons]) => {
    const row = node("div", node("b", title), node("span", text));
    row.className = `alarm ${kind}`;
    for (const [label, act, isHidden] of buttons) {
      if (isHidden) continue;
      const button = node("button", label);
      button.type = "button";
      button.addEventListener("click", act);
      row.append(button);
    }
    return row;
  });
  $("alarms").replaceChildren(...rows);
}

function drawRun() {
  const told = instrument.acquisition;
  if (!told) return;
  const { progress: p, dose, loop, prediction, state } = told;
  $("state").textContent = words(state);
  $("state").className = `state ${state}`;
  const endless = !p?.n_planned;
  const done = p?.done >= 0 ? p.done : 0;
  if (endless && LIVE.includes(state)) $("progress").removeAttribute("value");
  else $("progress").value = done;
  $("done").textContent = endless ? `${count(p?.n_sampled ?? 0)} positions` : `${count(p.n_sampled)} of ${count(p.n_planned)} positions`;
  $("remaining").textContent = p?.remaining_ns ? `${duration(p.remaining_ns)} left` : p?.scan_time_ns ? `${duration(p.scan_time_ns)} of scan` : "";
  const running = state === "RUNNING";
  const facts = [
    ["Rate", "positions sampled per second", running ? scaled(p.positions_per_s, "/s") : "–"],
    ["Lead", "exposure that the controller holds already", running ? duration((loop?.lead_us ?? 0) * 1000) : "–"],
    ["Underruns", "times that the controller had no positions, or no room for samples, and waited, blanked", loop?.holds ?? 0, loop?.holds > 0],
    ["Gaps", "positions without a sample", p?.n_gaps ?? 0, p?.n_gaps > 0],
    ["Idle", "time that the beam waited, blanked, for positions", duration(loop?.idle_ns ?? 0)],
    ["Late", "decisions of the policy that came too late", loop?.late_decisions ?? 0, loop?.late_decisions > 0],
  ];
  $("facts").replaceChildren(...facts.flatMap(([name, meaning, value, bad]) => {
    const [dt, dd] = [node("dt", name), node("dd", String(value))];
    dt.title = dd.title = meaning;
    if (bad) dd.className = "bad";
    return [dt, dd];
  }));
  drawDose(dose, told.plan, prediction);
  $("pause").disabled = state !== "RUNNING";
  $("resume").disabled = !["PAUSED", "TRIPPED"].includes(state);
  $("abort").disabled = !LIVE.includes(state) || state === "FINISHING";
  $("outcome").textContent = told.result?.text ? `${told.result.text}. ${told.result.dataset_path}` : "";
}

function drawDose(dose, plan, prediction) {
  const spent = dose?.mean_dose_e_per_a2 ?? (prediction?.dose_e_per_a2 === undefined ? undefined : 0);
  const limit = plan?.limits?.mean_dose_e_per_a2 ?? prediction?.dose_e_per_a2;
  const known = spent !== undefined && limit > 0;
  const isLimit = plan?.limits?.mean_dose_e_per_a2 !== undefined;
  $("dose").hidden = !known;
  $("dose").high = isLimit ? 0.9 : 1;
  if (known) $("dose").value = spent / limit;
  const of = isLimit ? "allowed" : "predicted";
  $("dose-text").textContent = known ? `Dose ${digits(spent)} of ${digits(limit)} e/Å² ${of}`
    : spent !== undefined ? `Dose ${digits(spent)} e/Å²` : "Dose unknown: the probe current is not stated";
}

let lastState = "";
instrument.addEventListener("acquisition", () => {
  const { acquisition: told } = instrument;
  drawRun();
  noteAlarms();
  drawAlarms();
  if (told.plan) offerDetectors(told.plan.detectors.map(({ name }) => name));
  if (shown.frame?.acquisition === told.name) return noteEnd(told);
  drawFrame();
  noteEnd(told);
});

function noteEnd(told) {
  const key = `${told.name} ${told.state}`;
  if (key !== lastState && !$("results").hidden) results.refresh();
  lastState = key;
  $("replay").disabled = $("data-set").disabled = !FINAL.includes(told.state);
}

function offerDetectors(names) {
  const select = $("detector");
  if ([...select.options].map((o) => o.value).join() === names.join()) return;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (instrument.asked.detector && !names.includes(instrument.asked.detector)) instrument.look({ detector: "" });
}

instrument.addEventListener("status", () => {
  if (instrument.status.beam === "BLANKED") alarms.delete("blank");
  drawStatus();
});
instrument.addEventListener("lease", drawStatus);
instrument.addEventListener("disconnected", ({ detail }) => {
  const { reason } = detail.error;
  if (reason === "UNAUTHENTICATED" || reason === "ROLE_REQUIRED") {
    $("identify-why").textContent = detail.error.message;
    if (!$("identify").open) $("identify").showModal();
    return;
  }
  instrument.failed = true;
  if (detail.was) say(detail.error.message, true);
  drawStatus();
});
instrument.addEventListener("connected", async ({ detail }) => {
  instrument.failed = false;
  $("server").textContent = `${detail.server_name} ${detail.version}`;
  $("simulated").hidden = !detail.simulated;
  planner.offer(instrument.capabilities);
  if (!instrument.acquisition) offerDetectors(instrument.capabilities.default_detectors);
  const { column } = await service.call("InstrumentService/GetColumn");
  planner.column(column);
  drawStatus();
});

$("identify").addEventListener("close", () => {
  sessionStorage.setItem(TOKEN, $("token").value.trim());
  $("token").value = "";
});

drawStatus();
instrument.follow();
