// SPDX-License-Identifier: BSD-2-Clause
// The value of one variable over time: each step where there are few, else the range in each stretch.

const STEPS = 1000; // so many values, and fewer, are drawn as steps
const POINTS = 150; // so many, and fewer, have a point, too
const CATEGORIES = 16; // so many different texts, and fewer, have a line each
const HIGHEST = 1e300; // what is higher is drawn there: distances must be doubles, too
const STEPS_OF_VALUES = [];
for (let power = -300; power <= 300; power++)
  for (const digit of [1, 2, 5]) STEPS_OF_VALUES.push(digit * 10 ** power);
const SLICES = 20; // rows of the table

function axisNumber(number) {
  return Math.abs(number) >= 1e9
    ? number.toExponential(4)
    : number.toLocaleString("en-US", { maximumFractionDigits: 6 });
}

class ValueChart {
  constructor(section, view) {
    Object.assign(this, { section, view });
    const { about } = view.recording;
    this.there = [...about.watches.keys()].filter((watch) => about.values[watch]);
    section.hidden = !this.there.length;
    if (section.hidden) return;
    this.picker = find("select", section);
    this.picker.append(
      ...this.there.map((watch) => make("option", { value: watch }, about.watches[watch].name)),
    );
    this.picker.onchange = () => {
      this.watch = Number(this.picker.value);
      this.update();
    };
    find("#values-of").hidden = this.there.length < 2;
    this.watch = this.there[0];
    const line = { stroke: () => colour("accent"), width: 1, points: { show: false } };
    this.chart = new Chart(section, view, {
      series: [
        line,
        line,
        {
          ...line,
          width: 1.5,
          paths: uPlot.paths.stepped({ align: 1 }),
          points: {
            show: () => this.accesses.length <= POINTS,
            size: 5,
            stroke: () => colour("accent"),
            fill: () => colour("accent"),
          },
        },
      ],
      data: [[], [], [], []],
      height: () => 220,
      scale: { range: (_, low, high) => this.range(low, high) },
      y: {
        incrs: STEPS_OF_VALUES,
        grid: { stroke: () => colour("faint"), width: 1 },
        splits: (plot, axis, low, high, step) => this.ticks(low, high, step),
        values: (plot, ticks) => ticks.map((tick) => this.label(plot, tick)),
      },
      pick: (x) => this.pick(x),
      tell: (x) => this.inWords(x),
    });
    this.chart.plot.addBand({ series: [2, 1], fill: () => colour("band") });
    this.table = whileOpen(find("details", section), () => this.asTable());
  }

  get values() {
    return this.view.recording.about.values[this.watch];
  }

  // Whether values are told by name, in equal distances.
  get named() {
    const { texts, real, heights } = this.values;
    return texts && !real && (texts.length <= CATEGORIES || !heights);
  }

  heightOf(i) {
    if (this.named) return this.view.recording.seen(i)[0][i];
    return Math.max(-HIGHEST, Math.min(this.view.recording.height[i], HIGHEST));
  }

  range(low, high) {
    if (this.named) return [-0.5, this.values.texts.length - 0.5];
    if (low === null || low === undefined) return [0, 1];
    if (low !== high) return uPlot.rangeNum(low, high, 0.08, false);
    const room = Math.max(1, Math.abs(low) / 1e9); // a double of that size can hold
    return [low - room, high + room];
  }

  ticks(low, high, step) {
    if (this.named) return this.values.texts.length > CATEGORIES ? [] : [...this.values.texts.keys()];
    const ticks = [];
    if (!this.values.real) step = Math.max(1, step);
    for (let tick = Math.ceil(low / step) * step; tick <= high && ticks.length < 50; tick += step)
      ticks.push(tick);
    return ticks;
  }

  label(plot, tick) {
    return fitted(plot, this.named ? this.values.texts[tick] : axisNumber(Number(tick.toPrecision(12))));
  }

  // Selected accesses to the variable that have a value.
  known() {
    const { accesses, recording } = this.view;
    return accesses.filter(
      (i) => recording.watch[i] === this.watch && recording.seen(i) && isFinite(this.heightOf(i)),
    );
  }

  data() {
    const { recording, from, to } = this.view;
    const accesses = (this.accesses = this.known());
    this.few = accesses.length <= STEPS;
    if (this.few) {
      const none = new Array(accesses.length).fill(null);
      return [
        Array.from(accesses, (i) => recording.time[i]),
        none,
        none,
        Array.from(accesses, (i) => this.heightOf(i)),
      ];
    }
    const width = Math.max(100, Math.round(this.chart.plot.bbox.width / devicePixelRatio));
    const low = new Float64Array(width).fill(Infinity),
      high = new Float64Array(width).fill(-Infinity);
    for (const i of accesses) {
      const bin = Math.min(width - 1, (((recording.time[i] - from) / (to - from)) * width) | 0);
      const value = this.heightOf(i);
      if (value < low[bin]) low[bin] = value;
      if (value > high[bin]) high[bin] = value;
    }
    const bins = [...low.keys()].filter((bin) => low[bin] <= high[bin]);
    return [
      bins.map((bin) => from + ((bin + 0.5) * (to - from)) / width),
      bins.map((bin) => low[bin]),
      bins.map((bin) => high[bin]),
      bins.map(() => null),
    ];
  }

  // The access with a value that is nearest to a place; -1 if there is none.
  nearest(x) {
    const { recording } = this.view,
      at = this.chart.plot.posToVal(x, "x");
    let low = 0,
      high = this.accesses.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (recording.time[this.accesses[middle]] < at) low = middle + 1;
      else high = middle;
    }
    const around = [low - 1, low]
      .filter((k) => k >= 0 && k < this.accesses.length)
      .map((k) => this.accesses[k]);
    around.sort((a, b) => Math.abs(recording.time[a] - at) - Math.abs(recording.time[b] - at));
    return around.length ? around[0] : -1;
  }

  pick(x) {
    const i = this.nearest(x);
    if (i < 0) return;
    if (this.few) this.view.take(i);
    else this.view.scale(1 / 8, this.chart.plot.posToVal(x, "x"));
  }

  inWords(x) {
    const i = this.nearest(x),
      { recording } = this.view;
    return i < 0 ? "no value" : `${since(recording.time[i])}: ${accessInWords(recording, i)}`;
  }

  // Slices of the time, with the accesses and the values of each.
  asTable() {
    const { recording, from, to } = this.view;
    const slices = Array.from({ length: SLICES }, () => ({ made: 0, low: -1, high: -1, last: -1 }));
    for (const i of this.accesses) {
      const slice =
        slices[Math.min(SLICES - 1, Math.floor(((recording.time[i] - from) / (to - from)) * SLICES))];
      slice.made++;
      slice.last = i;
      if (slice.low < 0 || this.heightOf(i) < this.heightOf(slice.low)) slice.low = i;
      if (slice.high < 0 || this.heightOf(i) > this.heightOf(slice.high)) slice.high = i;
    }
    const right = true,
      ordered = !this.values.texts || this.values.heights;
    const text = (i) => (i < 0 ? "" : recording.value(i));
    const table = newTable("Values in equal stretches of time");
    fill(
      table,
      [
        { text: "From", right },
        { text: "Accesses", right },
        ...(ordered
          ? [
              { text: "Lowest", right },
              { text: "Highest", right },
            ]
          : []),
        { text: "Last", right },
      ],
      slices.map(({ made, low, high, last }, number) => [
        { text: since(from + ((to - from) * number) / SLICES), right, head: true },
        { text: count(made), right },
        ...(ordered
          ? [
              { text: text(low), right },
              { text: text(high), right },
            ]
          : []),
        { text: text(last), right },
      ]),
    );
    find("details .scroll", this.section).replaceChildren(table);
  }

  update() {
    if (this.section.hidden) return;
    const chosen = [...this.view.chosen("watch")].filter((watch) => this.there.includes(watch));
    if (chosen.length === 1) this.watch = chosen[0];
    this.picker.value = this.watch;
    this.chart.redraw(this.data());
    const name = this.view.recording.about.watches[this.watch].name;
    const label = `Values of ${name} left or found by ${plural(this.accesses.length, "access")}`;
    this.chart.holder.setAttribute("aria-label", label);
    this.table();
  }
}
