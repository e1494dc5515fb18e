// Pictures as files, made here from what is on the screen: float values as .npy and TIFF, colours as PNG.

/** A NumPy file of [row, column] little-endian float32. */
export function npy(values, nRows, nCols) {
  let head = `{'descr': '<f4', 'fortran_order': False, 'shape': (${nRows}, ${nCols}), }`;
  head += " ".repeat(63 - ((10 + head.length) % 64)) + "\n";
  const start = new Uint8Array(10 + head.length);
  start.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, head.length & 255, head.length >> 8]);
  start.set(new TextEncoder().encode(head), 10);
  return new Blob([start, values]);
}

/** A TIFF file of one float32 plane; the pixel size is kept as pixels per centimetre where it is known. */
export function tiff(values, nRows, nCols, pitchNm) {
  const perCm = pitchNm > 0 ? Math.min(0xffffffff, Math.round(1e7 / pitchNm)) : 1;
  const entries = [
    [256, 4, 1, nCols], [257, 4, 1, nRows], [258, 3, 1, 32], [259, 3, 1, 1], [262, 3, 1, 1], [273, 4, 1, 200],
    [277, 3, 1, 1], [278, 4, 1, nRows], [279, 4, 1, values.length * 4], [282, 5, 1, 180], [283, 5, 1, 180],
    [296, 3, 1, pitchNm > 0 ? 3 : 1], [339, 3, 1, 3],
  ];
  const head = new DataView(new ArrayBuffer(200));
  head.setUint32(0, 0x49492a00);
  head.setUint32(4, 8, true);
  head.setUint16(8, entries.length, true);
  entries.forEach(([tag, type, n, value], i) => {
    const at = 10 + 12 * i;
    head.setUint16(at, tag, true);
    head.setUint16(at + 2, type, true);
    head.setUint32(at + 4, n, true);
    if (type === 3) head.setUint16(at + 8, value, true);
    else head.setUint32(at + 8, value, true);
  });
  head.setUint32(180, perCm, true);
  head.setUint32(184, 1, true);
  return new Blob([head.buffer, values]);
}

/** Gives a file to the person. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
