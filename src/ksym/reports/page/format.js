// SPDX-License-Identifier: BSD-2-Clause
// Numbers and times as the report writes them.

const whole = new Intl.NumberFormat("en-US");
const count = (number) => whole.format(number);
const plural = (number, noun) =>
  `${count(number)} ${noun}${number === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;
const percent = (part, all) => (all ? `${((100 * part) / all).toFixed(1)}%` : "");

// A stretch of time: 21 ms, 1.24 s, 2 h 3 min.
function stretch(ns) {
  if (ns >= 3600e9) return `${Math.floor(ns / 3600e9)} h ${Math.round((ns % 3600e9) / 60e9)} min`;
  if (ns >= 120e9) return `${Math.floor(ns / 60e9)} min ${Math.round((ns % 60e9) / 1e9)} s`;
  for (const [unit, size] of [
    ["s", 1e9],
    ["ms", 1e6],
    ["us", 1e3],
  ]) {
    if (ns >= size) return `${Number((ns / size).toPrecision(3))} ${unit}`;
  }
  return `${Math.round(ns)} ns`;
}

// Seconds since the first access, to the nanosecond: 3.123 456 789 s.
function since(ns) {
  const sign = ns < 0 ? "-" : "";
  const [seconds, rest] = [Math.floor(Math.abs(ns) / 1e9), Math.round(Math.abs(ns) % 1e9)];
  const digits = String(rest).padStart(9, "0");
  return `${sign}${count(seconds)}.${digits.slice(0, 3)} ${digits.slice(3, 6)} ${digits.slice(6)} s`;
}

// The time of day, in the zone of the machine that wrote the report. `origin` is a BigInt: since 1970.
function clock(origin, ns, minutesEast, digits = 9) {
  const time = origin + BigInt(Math.round(ns)) + BigInt(minutesEast) * 60_000_000_000n;
  const day = 86_400_000_000_000n;
  const rest = ((time % day) + day) % day;
  const seconds = Number(rest / 1_000_000_000n);
  const two = (number) => String(number).padStart(2, "0");
  const fraction = String(rest % 1_000_000_000n)
    .padStart(9, "0")
    .slice(0, digits);
  return `${two(Math.floor(seconds / 3600))}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}.${fraction}`;
}

// +2, -5:30
function zone(minutesEast) {
  const minutes = Math.abs(minutesEast);
  const half = minutes % 60 ? `:${String(minutes % 60).padStart(2, "0")}` : "";
  return `UTC${minutesEast ? (minutesEast < 0 ? "-" : "+") + Math.floor(minutes / 60) + half : ""}`;
}

// The first place in an ascending array whose element is not below `value`; with `after` is above it.
function place(array, value, after = false) {
  let low = 0,
    high = array.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (array[middle] < value || (after && array[middle] === value)) low = middle + 1;
    else high = middle;
  }
  return low;
}
