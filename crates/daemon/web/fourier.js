// The power spectrum of a picture: Hann window, mean taken off, logarithm, zero frequency in the middle.

/** In-place transform of `n` complex values (a power of two) that lie `stride` apart from `start`. */
function transform(re, im, start, stride, n) {
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      const [a, b] = [start + i * stride, start + j * stride];
      [re[a], re[b]] = [re[b], re[a]];
      [im[a], im[b]] = [im[b], im[a]];
    }
  }
  for (let size = 2; size <= n; size *= 2) {
    const [cos, sin] = [Math.cos((-2 * Math.PI) / size), Math.sin((-2 * Math.PI) / size)];
    for (let block = 0; block < n; block += size) {
      let [wr, wi] = [1, 0];
      for (let k = 0; k < size / 2; k++) {
        const a = start + (block + k) * stride;
        const b = a + (size / 2) * stride;
        const [tr, ti] = [re[b] * wr - im[b] * wi, re[b] * wi + im[b] * wr];
        re[b] = re[a] - tr;
        im[b] = im[a] - ti;
        re[a] += tr;
        im[a] += ti;
        [wr, wi] = [wr * cos - wi * sin, wr * sin + wi * cos];
      }
    }
  }
}

/** Logarithm of the power spectrum of the middle of a picture: `side` (a power of two ≤ 512) and values [side, side]. */
export function spectrum(values, nRows, nCols) {
  const side = 2 ** Math.floor(Math.log2(Math.min(nRows, nCols, 512)));
  const [top, left] = [(nRows - side) >> 1, (nCols - side) >> 1];
  const re = new Float64Array(side * side);
  const im = new Float64Array(side * side);
  let sum = 0;
  for (let r = 0; r < side; r++) for (let c = 0; c < side; c++) sum += values[(top + r) * nCols + left + c] || 0;
  const mean = sum / (side * side);
  const hann = Float64Array.from({ length: side }, (_, i) => Math.sin((Math.PI * (i + 0.5)) / side) ** 2);
  for (let r = 0; r < side; r++) {
    for (let c = 0; c < side; c++) {
      re[r * side + c] = ((values[(top + r) * nCols + left + c] || 0) - mean) * hann[r] * hann[c];
    }
  }
  for (let r = 0; r < side; r++) transform(re, im, r * side, 1, side);
  for (let c = 0; c < side; c++) transform(re, im, c, side, side);
  const power = new Float32Array(side * side);
  const half = side / 2;
  for (let r = 0; r < side; r++) {
    for (let c = 0; c < side; c++) {
      const from = ((r + half) % side) * side + ((c + half) % side);
      power[r * side + c] = Math.log10(1e-12 + re[from] ** 2 + im[from] ** 2);
    }
  }
  return { side, power };
}
