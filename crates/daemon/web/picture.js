// The picture: one plane at a time, with zoom, pan, contrast, a scale bar, a region, a line profile and its spectrum.
//
// Places are kept in pixels of the scanned grid ([row, column], a pixel's centre at whole numbers + 0.5 from its upper
// left edge), so they stay where they are when a coarser or finer picture of the same field comes.

import { histogram, levels, paint, table } from "./colour.js";
import { spectrum } from "./fourier.js";
import { digits, length } from "./text.js";

const NICE = [1, 2, 5];

export class Picture {
  constructor(canvas, { onRegion, onCursor, onLevels, onProfile, onSpectrum }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.raster = new OffscreenCanvas(1, 1);
    this.told = { onRegion, onCursor, onLevels, onProfile, onSpectrum };
    this.colours = table("grey");
    this.auto = true;
    this.range = [0, 1];
    this.plane = null;
    this.grid = { rows: 512, cols: 512 };
    this.pitchNm = 0;
    this.zoom = 1;
    this.centre = [256, 256];
    this.tool = "move";
    this.region = null;
    this.line = null;
    this.wantSpectrum = false;
    this.pointers = new Map();
    this.dirty = true;
    this.counted = -Infinity;
    this.spectrumDue = -Infinity;
    this.listen();
    new ResizeObserver(() => this.redraw()).observe(canvas);
    const turn = () => {
      if (this.dirty) this.draw();
      requestAnimationFrame(turn);
    };
    requestAnimationFrame(turn);
  }

  redraw() {
    this.dirty = true;
  }

  /** Shows a plane: `values` [rows, cols], `scale` pixels of the grid per pixel of it. */
  show(plane, grid, pitchNm) {
    const isOther = grid.rows !== this.grid.rows || grid.cols !== this.grid.cols;
    this.plane = plane;
    this.grid = grid;
    this.pitchNm = pitchNm;
    if (isOther) {
      this.region = null;
      this.line = null;
      this.told.onRegion(null);
      this.fit();
    }
    if (this.auto) this.range = levels(plane.values);
    this.repaint();
    this.measure();
  }

  /** Shows nothing. */
  clear() {
    this.plane = null;
    this.redraw();
  }

  setColours(name) {
    this.colours = table(name);
    this.repaint();
  }

  /** Grey levels by hand; `null`: automatic. */
  setRange(range) {
    this.auto = range === null;
    this.counted = -Infinity;
    if (range) this.range = range;
    else if (this.plane) this.range = levels(this.plane.values);
    this.repaint();
  }

  repaint() {
    const { plane } = this;
    if (!plane) return;
    if (this.raster.width !== plane.nCols || this.raster.height !== plane.nRows) {
      this.raster.width = plane.nCols;
      this.raster.height = plane.nRows;
    }
    const context = this.raster.getContext("2d");
    const image = context.createImageData(plane.nCols, plane.nRows);
    paint(plane.values, this.range[0], this.range[1], this.colours, new Uint32Array(image.data.buffer));
    context.putImageData(image, 0, 0);
    this.redraw();
    const now = performance.now();
    if (now - this.counted < 250) return;
    this.counted = now;
    this.told.onLevels(this.range, this.auto, this.bins());
  }

  bins() {
    const [low, high] = levels(this.plane.values, 0);
    const room = (high - low) * 0.02;
    return { low: low - room, high: high + room, counts: histogram(this.plane.values, low - room, high + room, 96) };
  }

  /** The whole field. */
  fit() {
    this.zoom = 1;
    this.centre = [this.grid.rows / 2, this.grid.cols / 2];
    this.redraw();
  }

  /** Screen pixels per pixel of the grid. */
  get factor() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return this.zoom * Math.min(w / this.grid.cols, h / this.grid.rows);
  }

  toScreen([row, col]) {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return [w / 2 + (col - this.centre[1]) * this.factor, h / 2 + (row - this.centre[0]) * this.factor];
  }

  toGrid(x, y) {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return [this.centre[0] + (y - h / 2) / this.factor, this.centre[1] + (x - w / 2) / this.factor];
  }

  zoomBy(by, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const before = this.toGrid(x, y);
    this.zoom = Math.min(200, Math.max(0.5, this.zoom * by));
    const after = this.toGrid(x, y);
    this.centre = this.centre.map((c, i) => c + before[i] - after[i]);
    this.redraw();
  }

  draw() {
    this.dirty = false;
    const { canvas, context } = this;
    const ratio = devicePixelRatio;
    const [w, h] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = "#0a0c0f";
    context.fillRect(0, 0, w, h);
    const [x0, y0] = this.toScreen([0, 0]);
    const [wide, high] = [this.grid.cols * this.factor, this.grid.rows * this.factor];
    context.strokeStyle = "#2b323c";
    context.lineWidth = 1;
    context.strokeRect(x0 - 0.5, y0 - 0.5, wide + 1, high + 1);
    if (!this.plane) return;
    context.imageSmoothingEnabled = this.factor * (this.plane.scale ?? 1) < 1;
    context.drawImage(this.raster, x0, y0, wide, high);
    this.drawRegion(context);
    this.drawLine(context);
    this.drawBar(context, w, h);
  }

  drawRegion(context) {
    if (!this.region) return;
    const { row, col, nRows, nCols } = this.region;
    const [x, y] = this.toScreen([row, col]);
    const [wide, high] = [nCols * this.factor, nRows * this.factor];
    context.lineWidth = 3;
    context.strokeStyle = "#000a";
    context.strokeRect(x, y, wide, high);
    context.lineWidth = 1.5;
    context.strokeStyle = "#ffd166";
    context.strokeRect(x, y, wide, high);
    const size = this.pitchNm ? `${length(nCols * this.pitchNm)} × ${length(nRows * this.pitchNm)}` : `${nCols} × ${nRows} px`;
    label(context, size, x + 4, Math.max(y - 8, 14), "#ffd166");
  }

  drawLine(context) {
    if (!this.line) return;
    const [a, b] = this.line.map((place) => this.toScreen(place));
    for (const [width, colour] of [[4, "#000a"], [1.5, "#6fd3ff"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.beginPath();
      context.moveTo(...a);
      context.lineTo(...b);
      context.stroke();
    }
  }

  drawBar(context, w, h) {
    const perUnit = this.pitchNm ? this.factor / this.pitchNm : this.factor;
    const most = Math.min(160, w / 4) / perUnit;
    const ten = 10 ** Math.floor(Math.log10(most));
    const size = Math.max(...NICE.map((n) => n * ten).filter((n) => n <= most));
    const px = size * perUnit;
    const [x, y] = [16, h - 18];
    context.fillStyle = "#000a";
    context.fillRect(x - 8, y - 24, px + 16, 34);
    context.fillStyle = "#fff";
    context.fillRect(x, y, px, 3);
    label(context, this.pitchNm ? length(size) : `${digits(size)} px`, x, y - 7, "#fff");
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * 0.0015), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      this.from = this.toGrid(event.offsetX, event.offsetY);
    });
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => {
        this.pointers.delete(event.pointerId);
        if (this.tool === "region" && this.region && (this.region.nRows < 2 || this.region.nCols < 2)) this.setRegion(null);
      });
    }
    canvas.addEventListener("pointerleave", () => this.told.onCursor(""));
    canvas.addEventListener("keydown", (event) => {
      const step = 40 / this.factor;
      const keys = {
        "+": () => this.zoomBy(1.25), "=": () => this.zoomBy(1.25), "-": () => this.zoomBy(0.8), 0: () => this.fit(),
        ArrowLeft: () => (this.centre[1] -= step), ArrowRight: () => (this.centre[1] += step),
        ArrowUp: () => (this.centre[0] -= step), ArrowDown: () => (this.centre[0] += step),
        Enter: () => this.plane && this.setRegion(this.seen()),
      };
      if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      keys[event.key]();
      this.redraw();
    });
  }

  moved(event) {
    const at = [event.offsetX, event.offsetY];
    this.tellCursor(at);
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const apart = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
      this.zoomBy(apart(at) / Math.max(1, apart(before)), (at[0] + other[0]) / 2, (at[1] + other[1]) / 2);
    } else if (this.tool === "region") {
      this.setRegion(between(this.from, this.toGrid(...at), this.grid));
    } else if (this.tool === "profile") {
      this.line = [this.from, this.toGrid(...at)];
      this.measure();
      this.redraw();
    } else {
      this.centre[0] -= (at[1] - before[1]) / this.factor;
      this.centre[1] -= (at[0] - before[0]) / this.factor;
      this.redraw();
    }
    this.pointers.set(event.pointerId, at);
  }

  /** The part of the field that is in sight. */
  seen() {
    const { clientWidth: w, clientHeight: h } = this.canvas;
    return between(this.toGrid(0, 0), this.toGrid(w, h), this.grid);
  }

  setRegion(region) {
    this.region = region;
    this.told.onRegion(region);
    this.redraw();
  }

  setTool(tool) {
    this.tool = tool;
    this.canvas.style.cursor = tool === "move" ? "grab" : "crosshair";
    if (tool !== "profile") this.line = null;
    this.measure();
    this.redraw();
  }

  valueAt([row, col]) {
    const { plane } = this;
    const [r, c] = [Math.floor(row / plane.scale), Math.floor(col / plane.scale)];
    return r >= 0 && c >= 0 && r < plane.nRows && c < plane.nCols ? plane.values[r * plane.nCols + c] : NaN;
  }

  tellCursor(at) {
    if (!this.plane) return;
    const [row, col] = this.toGrid(...at);
    const value = this.valueAt([row, col]);
    if (Number.isNaN(value)) return this.told.onCursor("");
    const nm = (place, n) => length((place - n / 2) * this.pitchNm);
    const place = this.pitchNm ? `x ${nm(col, this.grid.cols)}  y ${nm(row, this.grid.rows)}` : "";
    this.told.onCursor(`row ${Math.floor(row)}  col ${Math.floor(col)}  ${place}  ${digits(value, 4)}`);
  }

  /** Profile and spectrum of what is shown. */
  measure() {
    if (!this.plane) return;
    this.told.onProfile(this.line ? this.profile() : null);
    if (!this.wantSpectrum) return this.told.onSpectrum(null);
    // A spectrum takes longer than a frame: a tenth of the time at most, so that the page stays quick on a slow machine.
    const now = performance.now();
    clearTimeout(this.later);
    if (now < this.spectrumDue) {
      this.later = setTimeout(() => this.measure(), this.spectrumDue - now);
      return;
    }
    this.told.onSpectrum({ ...spectrum(this.plane.values, this.plane.nRows, this.plane.nCols), pitchNm: this.pitchNm * this.plane.scale });
    this.spectrumDue = now + Math.max(300, 10 * (performance.now() - now));
  }

  profile() {
    const [a, b] = this.line;
    const px = Math.hypot(b[0] - a[0], b[1] - a[1]);
    const n = Math.max(2, Math.min(1024, Math.ceil(px / this.plane.scale)));
    const values = Float32Array.from({ length: n }, (_, i) => {
      const t = i / (n - 1);
      return this.valueAt([a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t]);
    });
    return { values, size: this.pitchNm ? length(px * this.pitchNm) : `${digits(px)} px` };
  }
}

function between(a, b, grid) {
  const cut = (value, most) => Math.min(most, Math.max(0, Math.round(value)));
  const [top, bottom] = [a[0], b[0]].sort((x, y) => x - y).map((v) => cut(v, grid.rows));
  const [left, right] = [a[1], b[1]].sort((x, y) => x - y).map((v) => cut(v, grid.cols));
  return { row: top, col: left, nRows: bottom - top, nCols: right - left };
}

function label(context, words, x, y, colour) {
  context.font = "600 12px system-ui, sans-serif";
  context.lineWidth = 3;
  context.strokeStyle = "#000c";
  context.strokeText(words, x, y);
  context.fillStyle = colour;
  context.fillText(words, x, y);
}

/** A curve of `values` over the whole of a small canvas, with its range written at the edges. */
export function drawCurve(canvas, values, right) {
  const context = fresh(canvas);
  const [w, h] = [canvas.clientWidth, canvas.clientHeight];
  const [low, high] = levels(values, 0);
  context.strokeStyle = "#6fd3ff";
  context.lineWidth = 1.5;
  context.beginPath();
  values.forEach((value, i) => {
    const y = h - 6 - ((value - low) / (high - low)) * (h - 12);
    if (Number.isFinite(y)) context.lineTo((i / (values.length - 1)) * w, y);
  });
  context.stroke();
  label(context, digits(high), 4, 12, "#9aa7b5");
  label(context, digits(low), 4, h - 4, "#9aa7b5");
  context.textAlign = "right";
  label(context, right, w - 4, h - 4, "#9aa7b5");
  context.textAlign = "left";
}

/** The power spectrum, with a ring at a round spacing. */
export function drawSpectrum(canvas, { side, power, pitchNm }) {
  const context = fresh(canvas);
  const [low, high] = levels(power, 0.01);
  const raster = new OffscreenCanvas(side, side);
  const image = new ImageData(side, side);
  paint(power, low + (high - low) * 0.35, high, table("magma"), new Uint32Array(image.data.buffer));
  raster.getContext("2d").putImageData(image, 0, 0);
  const size = Math.min(canvas.clientWidth, canvas.clientHeight);
  const left = (canvas.clientWidth - size) / 2;
  context.drawImage(raster, left, 0, size, size);
  if (!pitchNm) return;
  const spacing = [1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01].find((nm) => pitchNm / nm > 0.12) ?? pitchNm * 4;
  const radius = (size * pitchNm) / spacing;
  context.strokeStyle = "#fff8";
  context.beginPath();
  context.arc(left + size / 2, size / 2, radius, 0, 7);
  context.stroke();
  label(context, `ring: ${length(spacing)}`, left + 4, 14, "#fff");
}

/** The histogram, with the shown range marked. */
export function drawHistogram(canvas, { low, high, counts }, range) {
  const context = fresh(canvas);
  const [w, h] = [canvas.clientWidth, canvas.clientHeight];
  const most = Math.log1p(Math.max(...counts));
  const place = (value) => ((value - low) / (high - low)) * w;
  context.fillStyle = "#24405a";
  context.fillRect(place(range[0]), 0, place(range[1]) - place(range[0]), h);
  context.fillStyle = "#9aa7b5";
  counts.forEach((n, i) => {
    const size = most ? (Math.log1p(n) / most) * (h - 2) : 0;
    context.fillRect((i / counts.length) * w, h - size, w / counts.length - 0.5, size);
  });
}

function fresh(canvas) {
  const ratio = devicePixelRatio;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

