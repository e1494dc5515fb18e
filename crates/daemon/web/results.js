// Results: what has been acquired, its files, and the scan once more.

import { npy, save, tiff } from "./files.js";
import { node } from "./plan.js";
import { count, digits, time, words } from "./text.js";

/** Acquisitions that are listed at first, and more with each "Older". */
const PAGE = 30;

export class Results {
  constructor(list, older, instrument, { onChosen }) {
    this.list = list;
    this.instrument = instrument;
    this.onChosen = onChosen;
    this.chosen = "";
    this.wanted = PAGE;
    this.older = older;
    older.addEventListener("click", () => {
      this.wanted = Math.min(1000, this.wanted + PAGE);
      this.refresh();
    });
  }

  async refresh() {
    let answer;
    try {
      answer = await this.instrument.service.call("AcquisitionService/ListAcquisitions", { page_size: this.wanted });
    } catch {
      return; // told by the connection already
    }
    const rows = answer.acquisitions.map((told) => this.row(told));
    this.older.hidden = !answer.next_page_token;
    this.list.replaceChildren(...(rows.length ? rows : [node("p", "Nothing has been acquired yet.")]));
  }

  row(told) {
    const button = node("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(told.name === this.chosen));
    const dose = told.dose?.mean_dose_e_per_a2;
    const state = node("span", words(told.state));
    state.className = `state ${told.state}`;
    const head = node("b", told.plan?.texts?.title || words(told.plan?.pattern?.kind ?? "acquisition"));
    const facts = [time(told.create_time), `${count(told.progress?.n_sampled ?? 0)} positions`, dose ? `${digits(dose)} e/Å²` : ""];
    button.append(head, state, node("small", facts.filter(Boolean).join(" · ")));
    button.addEventListener("click", () => {
      this.chosen = told.name;
      for (const other of this.list.children) other.setAttribute("aria-pressed", String(other === button));
      this.onChosen(told);
    });
    return button;
  }
}

/** Saves what is shown. */
export function saveShown(kind, picture, name) {
  const { plane, raster, pitchNm } = picture;
  const file = `${name.replace("acquisitions/", "")}-${plane.name}`;
  if (kind === "npy") save(npy(plane.values, plane.nRows, plane.nCols), `${file}.npy`);
  else if (kind === "tiff") save(tiff(plane.values, plane.nRows, plane.nCols, pitchNm * plane.scale), `${file}.tif`);
  else raster.convertToBlob({ type: "image/png" }).then((blob) => save(blob, `${file}.png`));
}

/** Saves everything that was recorded: the data set as a zip file. */
export async function saveDataSet(service, name) {
  const file = `${name.replace("acquisitions/", "")}.zspy.zip`;
  save(await service.file(`data/${file}`), file);
}

/**
 * The scan once more: its positions in the order in which they were exposed, within `seconds`. Each is drawn as large as its share of
 * the field, so that few of many pixels can be seen, too.
 */
export async function replay(service, told, detector, seconds, show, signal) {
  const { n_rows: rows, n_cols: cols } = told.field.grid;
  const places = { row: [], col: [], value: [] };
  const request = { name: told.name, omit_paths: true, stored_only: true, detectors: detector ? [detector] : [] };
  for await (const { samples } of service.stream("SampleService/StreamSamples", request, signal)) {
    if (!samples) continue;
    const array = (bytes) => new Float32Array(bytes.slice().buffer);
    places.row.push(array(samples.row_px));
    places.col.push(array(samples.col_px));
    places.value.push(array(samples.signals[0].values));
  }
  const values = new Float32Array(rows * cols).fill(NaN);
  const total = places.row.reduce((n, part) => n + part.length, 0);
  const began = performance.now();
  const side = Math.max(1, Math.round(Math.sqrt((rows * cols) / Math.max(1, total))));
  const put = (row, col, value) => {
    const [top, left] = [Math.round(row - (side - 1) / 2), Math.round(col - (side - 1) / 2)];
    for (let r = Math.max(0, top); r < Math.min(rows, top + side); r++) {
      values.fill(value, r * cols + Math.max(0, left), r * cols + Math.min(cols, left + side));
    }
  };
  let shown = 0;
  for (const [i, row] of places.row.entries()) {
    for (let k = 0; k < row.length; k++, shown++) {
      put(row[k], places.col[i][k], places.value[i][k]);
      if (shown % 256 === 0 && ((performance.now() - began) / 1000 / seconds) * total < shown) {
        show({ name: "replay", values, nRows: rows, nCols: cols, scale: 1 }, shown / total);
        await new Promise(requestAnimationFrame);
        if (signal.aborted) return;
      }
    }
  }
  show({ name: "replay", values, nRows: rows, nCols: cols, scale: 1 }, 1);
}
