// SPDX-License-Identifier: BSD-2-Clause
// The axis of time that the pictures share, down to nanoseconds.

const TIME_STEPS = [];
for (let power = 0; power <= 18; power++) for (const digit of [1, 2, 5]) TIME_STEPS.push(digit * 10 ** power);

// How ticks so far apart are written: in what unit, and from where they count.
function timeUnit(step, from) {
  if (step >= 1e6)
    return { unit: "s", size: 1e9, base: 0, digits: step >= 1e9 ? 0 : step >= 1e8 ? 1 : step >= 1e7 ? 2 : 3 };
  const [unit, size, room] = step >= 1e3 ? ["us", 1e3, 1e9] : ["ns", 1, 1e6];
  return { unit, size, base: Math.max(0, Math.floor(from / room) * room), digits: 0 };
}

const SPACE = 90; // pixels from tick to tick, at least

function timeStep(from, to, width) {
  const least = ((to - from) * SPACE) / Math.max(1, width);
  return TIME_STEPS.find((step) => step >= least) ?? TIME_STEPS[TIME_STEPS.length - 1];
}

// What stands under the axis.
function timeLabel(from, to, width) {
  const { unit, base } = timeUnit(timeStep(from, to, width), from);
  const after = base ? `after ${Number((base / 1e9).toFixed(3))} s` : "since the first access";
  return `${unit} ${after}`;
}

function timeTicks(from, to, width) {
  const step = timeStep(from, to, width),
    ticks = [];
  for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step) ticks.push(tick || 0); // never -0
  return ticks;
}

function timeTexts(ticks, from, to, width) {
  const { size, base, digits } = timeUnit(timeStep(from, to, width), from);
  return ticks.map((tick) =>
    ((tick - base) / size).toLocaleString("en-US", {
      minimumFractionDigits: digits,
      maximumFractionDigits: digits,
    }),
  );
}
