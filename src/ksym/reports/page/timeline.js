// SPDX-License-Identifier: BSD-2-Clause
// Reads and writes over time, in a lane for each CPU, task or variable: reads go up from its middle, writes down.

const LANE = 36; // pixels
const MOST_LANES = 12;
const ONE_BY_ONE = 400; // so many accesses, and fewer, are drawn each for itself
const KINDS_SHOWN = ["R", "W", "RW", "X", "?"];
const KIND_COLOURS = { R: "read", W: "write", RW: "both", X: "execute", "?": "unknown" };
const DOWN = new Set(["W", "RW"]);

// So many of each kind, in words: 12 R, 3 W.
function kindsInWords(counts, kinds) {
  const words = KINDS_SHOWN.filter((kind) => counts[kinds.indexOf(kind)]).map(
    (kind) => `${count(counts[kinds.indexOf(kind)])} ${kind}`,
  );
  return words.join(", ") || "no accesses";
}

class Timeline {
  constructor(section, view, lanes) {
    Object.assign(this, { section, view, lanesBy: lanes, kinds: view.recording.about.kinds });
    const picker = find("#lanes");
    picker.append(...Object.entries(lanes).map(([key, { noun }]) => make("option", { value: key }, noun)));
    picker.onchange = () => {
      this.arrange(picker.value);
      this.update();
    };
    this.arrange(Object.keys(lanes)[0]);
    find(".legend", section).append(
      ...KINDS_SHOWN.filter((kind) => this.there(kind)).map((kind) =>
        make(
          "li",
          { class: KIND_COLOURS[kind] },
          { R: "reads", W: "writes", RW: "reads and writes in one", X: "executions", "?": "not known" }[kind],
        ),
      ),
    );
    this.chart = new Chart(section, view, {
      series: [{}],
      data: this.frame(),
      height: () => this.lanes.length * LANE + 36,
      scale: { range: () => [0, this.lanes.length], dir: -1 },
      y: {
        grid: { show: false },
        ticks: { show: false },
        splits: () => this.lanes.map((_, lane) => lane + 0.5),
        values: (plot) => this.lanes.map((lane) => fitted(plot, lane.name)),
      },
      draw: (plot) => this.draw(plot),
      pick: (x, y) => this.pick(x, y),
      tell: (x, y) => this.inWords(x, y),
    });
    this.tools();
    this.table = whileOpen(find("details", section), () => this.asTable());
  }

  there(kind) {
    return this.view.recording.kind.includes(this.kinds.indexOf(kind));
  }

  // An empty series: what is drawn is drawn here.
  frame() {
    return [
      [this.view.from, this.view.to],
      [null, null],
    ];
  }

  // Who has a lane: in the order of their names where these are numbers, else those with most accesses first.
  arrange(key) {
    const { column, name, size, ordered } = this.lanesBy[key];
    const made = new Uint32Array(size);
    for (const code of column) made[code]++;
    const codes = [...made.keys()].filter((code) => made[code]).sort((a, b) => made[b] - made[a] || a - b);
    const own = codes.slice(0, codes.length > MOST_LANES ? MOST_LANES - 1 : MOST_LANES);
    if (ordered) own.sort((a, b) => a - b);
    this.lanes = own.map((code) => ({ name: name(code), code }));
    this.laneOf = new Uint8Array(size).fill(own.length);
    own.forEach((code, lane) => {
      this.laneOf[code] = lane;
    });
    if (own.length < codes.length)
      this.lanes.push({ name: `${count(codes.length - own.length)} others`, code: -1 });
    this.column = column;
  }

  tools() {
    const { view } = this;
    find(".tools", this.section).append(
      button("Zoom in", () => view.scale(0.5)),
      button("Zoom out", () => view.scale(2)),
      button("Earlier", () => view.move(-0.5)),
      button("Later", () => view.move(0.5)),
      (this.backButton = button("Back", () => view.goBack())),
      (this.wholeButton = button("All of the time", () => view.zoom(...view.everything))),
    );
  }

  // -- drawing

  // How many accesses of each lane and kind lie in each of so many stretches.
  bins(width) {
    const { recording, from, to, accesses } = this.view;
    const kinds = this.kinds.length,
      counts = new Uint32Array(this.lanes.length * kinds * width);
    const scale = width / (to - from);
    for (let k = 0; k < accesses.length; k++) {
      const i = accesses[k];
      const bin = Math.min(width - 1, ((recording.time[i] - from) * scale) | 0);
      counts[(this.laneOf[this.column[i]] * kinds + recording.kind[i]) * width + bin]++;
    }
    return counts;
  }

  draw(plot) {
    const { left, top, width, height } = plot.bbox,
      { ctx } = plot;
    const pixel = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    const lane = height / this.lanes.length;
    this.lanes.forEach((_, number) => {
      ctx.fillStyle = colour("faint");
      ctx.fillRect(left, Math.round(top + lane * (number + 0.5)), width, pixel);
      if (number) {
        ctx.fillStyle = colour("line");
        ctx.fillRect(left, Math.round(top + lane * number), width, pixel);
      }
    });
    if (this.view.accesses.length <= ONE_BY_ONE) this.drawEach(plot, lane);
    else this.drawBins(ctx, plot.bbox, lane, Math.round(width / pixel));
    ctx.restore();
  }

  drawBins(ctx, { left, top, width: all }, lane, width) {
    const counts = this.bins(width),
      kinds = this.kinds.length;
    const groups = [
      ["R", "X", "?"],
      ["W", "RW"],
    ].map((names) => names.map((name) => this.kinds.indexOf(name)));
    let most = 1;
    const sums = groups.map((group) =>
      this.lanes.map((_, number) => {
        const sum = new Uint32Array(width);
        for (const kind of group) {
          const start = (number * kinds + kind) * width;
          for (let bin = 0; bin < width; bin++) sum[bin] += counts[start + bin];
        }
        // Others together may be many; their bars end at the lane's edge.
        if (this.lanes[number].code >= 0) for (const each of sum) if (each > most) most = each;
        return sum;
      }),
    );
    const room = lane / 2 - 2 * devicePixelRatio,
      least = 2 * devicePixelRatio,
      step = all / width;
    groups.forEach((group, side) =>
      this.lanes.forEach((_, number) => {
        const middle = Math.round(top + lane * (number + 0.5));
        for (let bin = 0; bin < width; bin++) {
          const sum = sums[side][number][bin];
          if (!sum) continue;
          const x = left + Math.floor(bin * step),
            wide = Math.ceil(step);
          const tall = Math.min(room, Math.max(least, (room * sum) / most));
          let done = 0;
          for (const kind of group) {
            const part = counts[(number * kinds + kind) * width + bin];
            if (!part) continue;
            const size = (tall * part) / sum;
            ctx.fillStyle = this.colours[kind];
            ctx.fillRect(x, side ? middle + done : middle - done - size, wide, size);
            done += size;
          }
        }
      }),
    );
  }

  drawEach(plot, lane) {
    const { ctx } = plot,
      { recording, accesses } = this.view,
      pixel = devicePixelRatio;
    for (const i of accesses) {
      const x = Math.round(plot.valToPos(recording.time[i], "x", true));
      const middle = plot.bbox.top + lane * (this.laneOf[this.column[i]] + 0.5);
      const way = DOWN.has(recording.kindName(i)) ? 1 : -1,
        tall = lane / 2 - 4 * pixel;
      ctx.fillStyle = this.colours[recording.kind[i]];
      ctx.fillRect(x - pixel, way > 0 ? middle : middle - tall, 2 * pixel, tall);
      ctx.beginPath(); // an arrow's head
      ctx.moveTo(x - 4 * pixel, middle + way * (tall - 6 * pixel));
      ctx.lineTo(x + 4 * pixel, middle + way * (tall - 6 * pixel));
      ctx.lineTo(x, middle + way * tall);
      ctx.fill();
    }
  }

  // -- pointing

  // The selected accesses of a lane within some pixels of a place, the nearest first.
  near(x, y) {
    const { plot } = this.chart,
      { recording, outside } = this.view;
    const lane = Math.min(this.lanes.length - 1, Math.max(0, Math.floor(plot.posToVal(y, "y"))));
    const [from, at, to] = [x - 5, x, x + 5].map((each) => plot.posToVal(each, "x"));
    const found = [],
      counts = new Array(this.kinds.length).fill(0);
    const end = place(recording.time, Math.min(to, this.view.to), true);
    for (let i = place(recording.time, Math.max(from, this.view.from)); i < end; i++) {
      if (outside[i] || this.laneOf[this.column[i]] !== lane) continue;
      counts[recording.kind[i]]++;
      found.push(i);
    }
    found.sort((a, b) => Math.abs(recording.time[a] - at) - Math.abs(recording.time[b] - at));
    return { lane, found, counts, at };
  }

  pick(x, y) {
    const { found, at } = this.near(x, y);
    if (found.length === 1 || (found.length && this.view.accesses.length <= ONE_BY_ONE))
      this.view.take(found[0]);
    else if (found.length) this.view.scale(1 / 8, at);
  }

  inWords(x, y) {
    const { lane, found, counts, at } = this.near(x, y);
    const where = `${this.lanes[lane].name}, ${since(at)}: `;
    if (found.length === 1) return where + accessInWords(this.view.recording, found[0]);
    return where + kindsInWords(counts, this.kinds) + (found.length ? "; click to zoom in" : "");
  }

  // -- the rest

  asTable() {
    const { recording, accesses } = this.view;
    const kinds = KINDS_SHOWN.filter((kind) => this.there(kind)).map((kind) => this.kinds.indexOf(kind));
    const counts = this.lanes.map(() => new Array(this.kinds.length).fill(0));
    for (const i of accesses) counts[this.laneOf[this.column[i]]][recording.kind[i]]++;
    const table = newTable("Selected accesses by lane");
    const right = true;
    fill(
      table,
      [
        { text: "Lane" },
        { text: "Accesses", right },
        ...kinds.map((kind) => ({ text: this.kinds[kind], right })),
      ],
      this.lanes.map(({ name }, lane) => [
        { text: name, head: true },
        { text: count(counts[lane].reduce((a, b) => a + b, 0)), right },
        ...kinds.map((kind) => ({ text: count(counts[lane][kind]), right })),
      ]),
    );
    find("details .scroll", this.section).replaceChildren(table);
  }

  update() {
    const { view } = this;
    this.colours = this.kinds.map((kind) => colour(KIND_COLOURS[kind]));
    this.chart.redraw(this.frame());
    const lanes = plural(this.lanes.length, "lane");
    const label = `Timeline of ${plural(view.accesses.length, "access")} in ${lanes}, ${view.inWords()}`;
    this.chart.holder.setAttribute("aria-label", label);
    this.backButton.disabled = !view.back.length;
    this.wholeButton.disabled = !view.zoomed();
    this.table();
  }
}

// A name, cut in its middle to what the gutter has room for.
function fitted(plot, text) {
  const { ctx } = plot,
    room = gutter(plot) - 14;
  ctx.save();
  ctx.font = "12px system-ui, sans-serif";
  let shown = text;
  for (let keep = text.length - 1; keep > 2 && ctx.measureText(shown).width > room; keep--) {
    shown = `${text.slice(0, Math.ceil(keep / 2))}…${text.slice(text.length - Math.floor(keep / 2))}`;
  }
  ctx.restore();
  return shown;
}

// A row of `ksym script` in short.
function accessInWords(recording, i) {
  const made = `${recording.kindName(i)} ${recording.change(i)}`;
  return `${made} by ${recording.taskName(i)} in ${recording.placeName(i)}`;
}
