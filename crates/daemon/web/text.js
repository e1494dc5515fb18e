// Numbers and states in words.

const PREFIXES = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];

/** Three digits that matter. */
export function digits(value, n = 3) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  if (size >= 7 || size < -4) return value.toExponential(n - 1).replace("e+", "e");
  return value.toLocaleString("en", { maximumFractionDigits: Math.max(0, n - 1 - size), useGrouping: size > 3 }).replace(/,/g, "\u202f");
}

/** A value with a prefix before its unit. */
export function scaled(value, unit) {
  if (!Number.isFinite(value)) return "–";
  const [factor, prefix] = PREFIXES.find(([least]) => Math.abs(value) >= least) ?? [1, ""];
  return `${digits(value / factor)} ${prefix}${unit}`;
}

export const count = (n) => (Number(n) >= 100_000 ? scaled(Number(n), "").trim() : digits(Number(n), 6));

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let value = Number(n);
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at++;
  }
  return `${digits(value)} ${units[at]}`;
}

export function duration(ns) {
  const seconds = Number(ns) * 1e-9;
  if (seconds < 60) return scaled(seconds, "s");
  const whole = Math.round(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h} h ${m} min` : `${m} min ${s} s`;
}

export function length(nm) {
  if (!Number.isFinite(nm)) return "–";
  return Math.abs(nm) >= 1000 ? `${digits(nm / 1000)} µm` : Math.abs(nm) >= 0.1 ? `${digits(nm)} nm` : `${digits(nm * 1000)} pm`;
}

/** "poisson disc" of POISSON_DISC. */
export const words = (name) => name.toLowerCase().replaceAll("_", " ");

export const time = (stamp) => (stamp ? new Date(stamp.seconds * 1000).toLocaleString("sv").slice(5, 16) : "");

/** What an operator reads about the beam: words, and how alarming. */
export function beamOf(status) {
  const known = {
    BLANKED: ["Beam blanked", "safe"],
    EXPOSING: ["Beam on", "live"],
    PARKED: ["Beam parked off field", "warn"],
    UNCONFIRMED: ["BEAM MAY BE ON", "danger"],
    VENDOR: ["Beam with vendor scan", "warn"],
  };
  return known[status?.beam] ?? ["Beam unknown", "danger"];
}
