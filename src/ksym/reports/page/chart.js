// SPDX-License-Identifier: BSD-2-Clause
// What both pictures over time have in common: uPlot with the axis of time, zooming, the keyboard.

const CURSOR = { sync: { key: "time" } };
const GUTTER = 150; // pixels left of both pictures, so that they stand one below the other; less on small screens
const gutter = (plot) => Math.min(GUTTER, Math.round(plot.width * 0.25));

class Chart {
  // `parts` are uPlot's series, scales, axes and hooks of this picture; `one` an access at a place, or -1.
  constructor(section, view, { series, y, scale, draw, data, height, pick, tell }) {
    Object.assign(this, { section, view, pick, tell, height });
    this.holder = find(".plot", section);
    this.readout = find(".readout", section);
    const font = "12px system-ui, sans-serif";
    const axis = { stroke: () => colour("muted"), font, ticks: { stroke: () => colour("line") } };
    const width = () => this.plot.bbox.width / devicePixelRatio;
    this.plot = new uPlot(
      {
        width: this.width(),
        height: height(),
        legend: { show: false },
        padding: [8, 28, 0, 0],
        cursor: {
          ...CURSOR,
          drag: { x: true, y: false, setScale: false },
          points: { show: false },
          y: false,
          bind: { dblclick: () => () => view.zoom(...view.everything) },
        },
        select: { over: true },
        scales: { x: { time: false, range: () => [view.from, view.to] }, y: scale },
        axes: [
          {
            ...axis,
            grid: { stroke: () => colour("faint"), width: 1 },
            size: 28,
            splits: (_, __, from, to) => timeTicks(from, to, width()),
            values: (_, ticks) => timeTexts(ticks, view.from, view.to, width()),
          },
          { ...axis, size: (plot) => gutter(plot), ...y },
        ],
        series: [{}, ...series],
        hooks: {
          draw: [
            () => {
              draw?.(this.plot);
              this.mark(this.plot);
            },
          ],
          setSelect: [() => this.selected()],
        },
      },
      data,
      this.holder,
    );
    this.listen();
  }

  width() {
    return Math.max(320, this.holder.clientWidth);
  }

  listen() {
    const { over } = this.plot;
    const at = (event) => [event.offsetX, event.offsetY];
    over.addEventListener("mousemove", (event) => {
      this.readout.textContent = this.tell(...at(event));
    });
    over.addEventListener("mouseleave", () => this.rest());
    over.addEventListener("mousedown", (event) => {
      this.pressed = event.offsetX;
    });
    over.addEventListener("click", (event) => {
      if (Math.abs(event.offsetX - this.pressed) < 4) this.pick(...at(event));
    });
    over.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.shiftKey) return; // the page scrolls
        event.preventDefault();
        this.view.scale(
          (event.deltaY || event.deltaX) < 0 ? 0.7 : 1 / 0.7,
          this.plot.posToVal(event.offsetX, "x"),
        );
      },
      { passive: false },
    );
    this.holder.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => {
      if (this.width() !== this.plot.width) this.plot.setSize({ width: this.width(), height: this.height() });
    }).observe(this.holder);
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const view = this.view;
    const work = {
      "+": () => view.scale(0.5),
      "=": () => view.scale(0.5),
      "-": () => view.scale(2),
      ArrowLeft: () => view.move(-0.25),
      ArrowRight: () => view.move(0.25),
      0: () => view.zoom(...view.everything),
      Backspace: () => view.goBack(),
      Enter: () => this.takeMiddle(),
    }[event.key];
    if (!work) return;
    event.preventDefault();
    work();
  }

  // The selected access next to the middle of the picture.
  takeMiddle() {
    const { time } = this.view.recording,
      accesses = this.view.accesses;
    const middle = (this.view.from + this.view.to) / 2;
    let best = -1;
    for (const i of accesses)
      if (best < 0 || Math.abs(time[i] - middle) < Math.abs(time[best] - middle)) best = i;
    if (best >= 0) this.view.take(best);
  }

  // A stretch was dragged over.
  selected() {
    const { left, width } = this.plot.select;
    if (width < 4) return;
    const [from, to] = [this.plot.posToVal(left, "x"), this.plot.posToVal(left + width, "x")];
    this.plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.view.zoom(from, to);
  }

  // A line where the access is that is shown below.
  mark(plot) {
    const { taken, recording } = this.view;
    if (taken === null) return;
    const x = Math.round(plot.valToPos(recording.time[taken], "x", true));
    const { left, top, width, height } = plot.bbox;
    if (x < left || x > left + width) return;
    plot.ctx.fillStyle = colour("accent");
    plot.ctx.fillRect(x - devicePixelRatio / 2, top, devicePixelRatio, height);
  }

  // What stands under the picture while nothing is pointed at.
  rest() {
    const { view } = this;
    const shown = view.zoomed() ? `${stretch(view.to - view.from)}, ${view.inWords()}` : "all of the time";
    const axis = timeLabel(view.from, view.to, this.plot.bbox.width / devicePixelRatio);
    this.readout.textContent = `Time in ${axis}; shown: ${shown}`;
  }

  redraw(data) {
    const height = this.height();
    if (height !== this.plot.height) this.plot.setSize({ width: this.width(), height });
    this.plot.setData(data, true);
    this.rest();
  }
}
