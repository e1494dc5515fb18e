// Planning: a form, and what it would cost before anything moves.

import { bytes, count, digits, duration, length, words } from "./text.js";

const PATTERNS = [
  "JITTERED", "ADAPTIVE", "UNCERTAINTY", "EDGES", "REVISIT", "POISSON_DISC", "RANDOM", "LINE_HOP", "SPIRAL", "SERPENTINE", "RASTER", "INTERLEAVED",
];

/** Patterns that a view can repeat for ever, of which the first stands in for those that it cannot. */
const OF_VIEWS = ["JITTERED", "POISSON_DISC", "RANDOM", "LINE_HOP", "SPIRAL", "SERPENTINE", "RASTER", "INTERLEAVED"];

/** Which input answers for which field of a refused plan. */
const INPUTS = [
  ["plan.fraction", "fraction"], ["plan.exposure", "dwell"], ["plan.field.grid", "pixels"], ["plan.field", "fov"], ["plan.region", "pixels"],
  ["plan.limits", "limit"], ["plan.detectors", "detectors"], ["plan.pattern", "pattern"],
  ["plan.n_frames", "frames"], ["plan.estimation", "estimator"], ["plan.texts", "title"], ["column", "current"],
];

/** Stop rules by input, in the order in which the plan has them. */
const STOPS = {
  resolution: (angstrom) => ({ resolution_nm: angstrom / 10 }),
  dose: (dose) => ({ dose_e_per_a2: dose }),
  time: (seconds) => ({ time_ns: Math.round(seconds * 1e9) }),
  precision: (percent) => ({ precision: { relative: percent / 100 } }),
};

export class Planner {
  constructor(form, instrument, { onStart, onRegionCleared }) {
    this.form = form;
    this.instrument = instrument;
    this.region = null;
    this.inputs = Object.fromEntries([...form.elements].filter((e) => e.name).map((e) => [e.name, e]));
    fill(this.inputs.pattern, PATTERNS);
    form.addEventListener("input", () => this.changed());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      onStart(this.plan(form.dataset.kind));
    });
    form.querySelector("#start").addEventListener("click", () => (form.dataset.kind = "ACQUIRE"));
    form.querySelector("#view").addEventListener("click", () => (form.dataset.kind = "VIEW"));
    form.querySelector("#clear-region").addEventListener("click", onRegionCleared);
    form.querySelector("#state-current").addEventListener("click", () => this.stateCurrent());
  }

  /** What the instrument offers. */
  offer({ detectors, default_detectors, default_field, patterns, estimators }) {
    const chosen = this.detectors();
    fill(this.inputs.pattern, PATTERNS.filter((name) => patterns.includes(name)));
    fill(this.inputs.estimator, estimators.sort((a) => (a === "AUTO" ? -1 : 1)));
    const boxes = detectors.map(({ name }) => {
      const box = document.createElement("label");
      box.innerHTML = `<input type="checkbox" name="detector">`;
      box.firstChild.value = name;
      box.firstChild.checked = (chosen.length ? chosen : default_detectors).includes(name);
      box.append(name);
      return box;
    });
    this.form.querySelector("#detectors").replaceChildren(...boxes);
    if (!this.inputs.pixels.value) this.inputs.pixels.value = default_field.grid.n_rows;
    const fov = default_field.pitch_nm * default_field.grid.n_cols;
    if (!this.inputs.fov.value && fov) this.inputs.fov.value = digits(fov, 5).replace(/\s/g, "");
    this.changed();
  }

  detectors() {
    return [...this.form.querySelectorAll("input[name=detector]:checked")].map((box) => box.value);
  }

  number(name) {
    const { value } = this.inputs[name];
    return value.trim() === "" ? undefined : Number(value);
  }

  /** The stop rules that are stated. */
  stops() {
    return Object.keys(STOPS).filter((name) => this.number(`stop-${name}`) !== undefined);
  }

  /** The first input that is not the number it has to be. */
  misread() {
    for (const [input, element] of Object.entries(this.inputs)) {
      const value = element.inputMode ? this.number(input) : undefined;
      if (Number.isNaN(value)) return { input, message: "not a number. Decimals are written with a point." };
      if (element.inputMode === "numeric" && value !== undefined && !Number.isInteger(value)) return { input, message: "not a whole number." };
    }
    return null;
  }

  /** The plan that the form states, as the API carries it. Ranges are the service's business. */
  plan(kind = "ACQUIRE") {
    const plan = {
      kind,
      pattern: { kind: this.inputs.pattern.value },
      fraction: this.number("fraction") / 100,
      exposure: { dwell_ns: Math.max(0, Math.round(this.number("dwell") * 1000)) || 0 },
      detectors: this.detectors().map((name) => ({ name })),
      limits: {},
      stop_rules: [],
      estimation: { estimator: this.inputs.estimator.value || "AUTO" },
      texts: { title: this.inputs.title.value },
    };
    const frames = this.number("frames");
    if (kind === "ACQUIRE" && frames !== undefined) plan.n_frames = frames;
    if (kind === "VIEW") {
      plan.limits.dose_rate_e_per_a2_s = this.number("viewrate");
      if (!OF_VIEWS.includes(plan.pattern.kind)) plan.pattern.kind = OF_VIEWS[0];
    }
    const limit = this.number("limit");
    if (limit !== undefined) plan.limits.mean_dose_e_per_a2 = limit;
    for (const name of this.stops()) plan.stop_rules.push(STOPS[name](this.number(`stop-${name}`)));
    this.addField(plan);
    return plan;
  }

  addField(plan) {
    const pixels = this.number("pixels");
    const grid = pixels === undefined ? undefined : { n_rows: pixels, n_cols: pixels };
    if (!this.region) {
      const fov = this.number("fov");
      plan.field = { grid, ...(fov === undefined ? {} : { fov_nm: fov }) };
      return;
    }
    const { acquisition, row, col, nRows, nCols } = this.region;
    // Pixels stay square: those of the picture, each divided by a whole number.
    const finer = Math.max(1, Math.round(pixels / Math.max(nRows, nCols)));
    plan.region = {
      parent: {
        acquisition,
        pixels: { row, col, n_rows: nRows, n_cols: nCols },
        ...(pixels ? { grid: { n_rows: nRows * finer, n_cols: nCols * finer } } : {}),
      },
    };
  }

  /** A region drawn on the picture of `acquisition`; `null`: the whole field. */
  setRegion(region, pitchNm) {
    this.region = region;
    const note = this.form.querySelector("#region-note");
    note.hidden = !region;
    this.inputs.fov.disabled = Boolean(region);
    if (region) {
      const size = pitchNm ? `${length(region.nCols * pitchNm)} × ${length(region.nRows * pitchNm)}` : `${region.nCols} × ${region.nRows} px`;
      note.querySelector("span").textContent = `Only the region drawn on the picture: ${size}`;
    }
    this.changed();
  }

  /** Asks what the plan would cost, once the hand has come to rest. */
  changed() {
    clearTimeout(this.timer);
    this.asking?.abort();
    this.timer = setTimeout(() => this.predict(), 200);
  }

  async predict() {
    if (!this.instrument.connected) return;
    const misread = this.misread();
    if (misread) return this.refused(misread);
    this.asking = new AbortController();
    const { signal } = this.asking;
    try {
      const told = await this.instrument.predict(this.plan(), signal);
      this.refused(null);
      this.tell(told);
    } catch (error) {
      if (!signal.aborted) this.refused(error);
    }
  }

  tell({ prediction: p, field }) {
    const dose = p.dose_e_per_a2 === undefined ? "unknown" : `${digits(p.dose_e_per_a2)} e/Å²`;
    const faster = p.full_raster_time_ns / p.scan_time_ns;
    const rows = [
      ["Time", duration(p.scan_time_ns), faster > 1.05 ? `${digits(faster, 2)}× faster than ${duration(p.full_raster_time_ns)}` : ""],
      ["Dose", dose, p.peak_dose_e_per_a2 ? `${digits(p.peak_dose_e_per_a2)} at an exposed pixel` : p.dose_e_per_a2 === undefined ? "state the probe current below" : "mean over the field"],
      ["Storage", `≤ ${bytes(p.storage_bytes)}`, `${count(p.n_positions)} positions`],
      ["Pixel", field?.pitch_nm ? length(field.pitch_nm) : "unknown", field ? `${field.grid.n_cols} × ${field.grid.n_rows}` : ""],
    ];
    const list = this.form.querySelector("#prediction");
    list.replaceChildren(...rows.flatMap(([name, value, more]) => [node("dt", name), node("dd", value, node("small", more))]));
    const warnings = p.warnings.map((words) => node("p", words));
    this.form.querySelector("#warnings").replaceChildren(...warnings);
    this.form.querySelector("#explanation").textContent = p.explanation;
  }

  /** Marks the input that answers for a refused value. */
  refused(error) {
    const refusal = this.form.querySelector("#refusal");
    for (const input of this.form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
    refusal.hidden = !error;
    this.form.querySelector("#start").disabled = Boolean(error);
    this.form.querySelector("#prediction").classList.toggle("stale", Boolean(error));
    if (!error) return;
    const [, rule] = /^plan\.stop_rules\[(\d+)\]/.exec(error.field ?? "") ?? [];
    const [, name] = error.input ? [, error.input] : rule ? [, `stop-${this.stops()[rule]}`] : INPUTS.find(([path]) => error.field?.startsWith(path)) ?? [];
    const input = name === "detectors" ? this.form.querySelector("#detectors") : this.inputs[name];
    input?.setAttribute("aria-invalid", "true");
    input?.setAttribute("aria-describedby", "refusal");
    const said = error.field ? `${inWords(error.field)}: ${error.value || "nothing"} is not allowed. Allowed: ${error.allowed}.` : error.message;
    refusal.textContent = asTyped(input) + said;
  }

  async stateCurrent() {
    const current = this.number("current");
    const known = { probe_current_pa: current, probe_current_source: "stated on the web page" };
    try {
      await this.instrument.command("InstrumentService/UpdateColumn", {
        column: current === undefined ? {} : known,
        update_mask: { paths: ["probe_current_pa", "probe_current_source"] },
      });
      this.changed();
    } catch (error) {
      this.refused(error);
    }
  }

  /** What the column is known to be. */
  column(column) {
    if (document.activeElement !== this.inputs.current && column.probe_current_pa !== undefined) this.inputs.current.value = column.probe_current_pa;
  }
}

function fill(select, names) {
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(words(name), name)));
  if (names.includes(chosen)) select.value = chosen;
}

/** An input as the person sees it, whose unit may differ from that of the API: "Fraction, 130 %: ". */
function asTyped(input) {
  const unit = input?.parentElement.querySelector("i")?.textContent;
  return unit && input.value ? `${input.labels[0].textContent.replace(unit, "").trim()}, ${input.value} ${unit}: ` : "";
}

const inWords = (path) => path.replace(/^plan\./, "").replace(/\[\d+\]/g, "").replaceAll("_", " ").replaceAll(".", ", ");

export function node(tag, ...content) {
  const made = document.createElement(tag);
  made.append(...content);
  return made;
}
