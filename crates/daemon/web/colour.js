// Colour maps that people with any colour vision can read: their lightness rises steadily.

const STOPS = {
  grey: "000000 ffffff",
  cividis: "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838",
  viridis: "440154 46327e 365c8d 277f8e 1fa187 4ac16d a0da39 fde725",
  magma: "000004 1c1044 4f127b 812581 b5367a e55964 fb8761 fec287 fcfdbf",
};

export const MAPS = Object.keys(STOPS);

/** 256 colours as little-endian RGBA words. */
export function table(name) {
  const stops = STOPS[name].split(" ").map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    const [r, g, b] = stops[low].map((c, k) => Math.round(c + (stops[low + 1][k] - c) * (at - low)));
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
}

/** Paints `values` from `low` to `high` into `words`; what is not a number becomes `missing`. */
export function paint(values, low, high, colours, words, missing = 0xff2b211d) {
  const scale = high > low ? 255 / (high - low) : 0;
  for (let i = 0; i < values.length; i++) {
    const level = (values[i] - low) * scale;
    words[i] = level >= 0 ? colours[level > 255 ? 255 : level | 0] : level < 0 ? colours[0] : missing;
  }
}

/** Values below and above which a share `clip` of the finite ones lies. */
export function levels(values, clip = 0.003) {
  const step = Math.max(1, Math.floor(values.length / 20_000));
  const seen = [];
  for (let i = 0; i < values.length; i += step) if (Number.isFinite(values[i])) seen.push(values[i]);
  if (!seen.length) return [0, 1];
  seen.sort((a, b) => a - b);
  const low = seen[Math.floor(clip * (seen.length - 1))];
  const high = seen[Math.ceil((1 - clip) * (seen.length - 1))];
  return high > low ? [low, high] : [low, low + (Math.abs(low) || 1)];
}

/** Counts of the values in `n` bins from `low` to `high`. */
export function histogram(values, low, high, n) {
  const counts = new Uint32Array(n);
  const scale = n / (high - low);
  for (let i = 0; i < values.length; i++) {
    const bin = Math.floor((values[i] - low) * scale);
    if (bin >= 0 && bin < n) counts[bin]++;
  }
  return counts;
}
