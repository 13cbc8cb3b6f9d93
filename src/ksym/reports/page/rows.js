// SPDX-License-Identifier: BSD-2-Clause
// Access by access: a table of those that are selected, page by page, and all about one of them.

const PAGE = 20;

class Rows {
  constructor(section, detail, view) {
    Object.assign(this, { section, detail, view, start: 0 });
    this.pages = make("span", {});
    this.tools = [
      button("First", () => this.go(0)),
      button("Previous", () => this.go(this.start - PAGE)),
      this.pages,
      button("Next", () => this.go(this.start + PAGE)),
      button("Last", () => this.go(Infinity)),
    ];
    find(".tools", section).append(...this.tools);
    find(".tools", detail).append(
      (this.before = button("Previous", () => this.step(-1))),
      (this.after = button("Next", () => this.step(1))),
      button("Zoom to it", () => this.zoom()),
      button("Close", () => view.take(null)),
    );
  }

  go(start) {
    const last = Math.max(0, Math.floor((this.view.accesses.length - 1) / PAGE) * PAGE);
    this.start = Math.min(Math.max(0, start), last);
    this.list();
  }

  list() {
    const { accesses, recording, taken } = this.view,
      { about } = recording;
    const shown = Array.from(accesses.subarray(this.start, this.start + PAGE));
    const several = about.watches.length > 1,
      traps = shown.some((i) => recording.hits[i] > 1);
    const right = true;
    keepingFocus(this.section, () =>
      fill(
        find("table", this.section),
        [
          { text: `Time (${zone(about.minutes_east)})` },
          { text: "Since the first", right },
          { text: "Task-PID" },
          { text: "CPU", right },
          ...(several ? [{ text: "Variable" }] : []),
          { text: "Type" },
          { text: "Old → new", right },
          ...(traps ? [{ text: "Hits", right }] : []),
          { text: "Function" },
          { text: "Instruction" },
        ],
        shown.map((i) => [
          {
            head: true,
            class: "code",
            element: button(
              clock(recording.origin, recording.time[i], about.minutes_east),
              () => this.view.take(i),
              { class: "choose", "aria-pressed": String(i === taken), "data-key": i },
            ),
          },
          { text: since(recording.time[i]), right, class: "code" },
          { text: about.tasks[recording.task[i]] },
          { text: String(about.cpus[recording.cpu[i]]), right },
          ...(several ? [{ text: about.watches[recording.watch[i]].name }] : []),
          { text: recording.kindName(i), class: `kind ${KIND_COLOURS[recording.kindName(i)]}` },
          { text: recording.change(i).replace(" -> ", " → "), right, class: "code" },
          ...(traps ? [{ text: count(recording.hits[i]), right }] : []),
          { text: about.instructions[recording.instruction[i]][0] },
          { text: about.instructions[recording.instruction[i]][1], class: "code" },
        ]),
      ),
    );
    const end = this.start + shown.length;
    this.pages.textContent = shown.length
      ? `${count(this.start + 1)} to ${count(end)} of ${count(accesses.length)}`
      : "none";
    this.tools[0].disabled = this.tools[1].disabled = !this.start;
    this.tools[3].disabled = this.tools[4].disabled = end >= accesses.length;
  }

  // -- one access

  // Where the access that is taken stands among those that are selected, or would stand.
  position() {
    return place(this.view.accesses, this.view.taken);
  }

  step(by) {
    const { accesses, taken } = this.view,
      at = this.position();
    const to = accesses[at] === taken || by < 0 ? at + by : at;
    if (to >= 0 && to < accesses.length) this.view.take(accesses[to]);
  }

  // As close as its neighbours in time let it stand alone.
  zoom() {
    const { recording, accesses, taken } = this.view,
      { time } = recording,
      at = this.position();
    const neighbours = [accesses[at - 1], accesses[accesses[at] === taken ? at + 1 : at]].filter(
      (i) => i !== undefined,
    );
    const gap = Math.min(2000, ...neighbours.map((i) => Math.abs(time[i] - time[taken])));
    const half = Math.max(10, Math.floor(gap / 2));
    this.view.zoom(time[taken] - half, time[taken] + half);
  }

  marks(i) {
    const { recording } = this.view,
      set = (name) => recording.flags[i] & recording.flag(name);
    return [
      set("silent") && "a silent store: the value was there already",
      set("turned") && "the write before it came from another CPU",
      set("near") && "close behind another CPU's access",
      set("unseen") && "the value had changed unseen",
    ]
      .filter(Boolean)
      .join("; ");
  }

  all() {
    const { recording, taken } = this.view;
    this.detail.hidden = taken === null;
    if (taken === null) return;
    const { about } = recording,
      i = taken;
    const [named, text, source, code] = about.instructions[recording.instruction[i]];
    const east = about.minutes_east;
    const facts = [
      ["Time", `${clock(recording.origin, recording.time[i], east)} (${zone(east)})`],
      ["Since the first", since(recording.time[i])],
      ["Variable", about.watches[recording.watch[i]].name],
      ["Type", recording.kindName(i)],
      ["Old → new", recording.change(i).replace(" -> ", " → ")],
      ["Task-PID", about.tasks[recording.task[i]]],
      ["CPU", String(about.cpus[recording.cpu[i]])],
      ["Function", about.functions[code]],
      ["Place", named],
      ["Instruction", text],
      ["Source", source],
      ["Hits", count(recording.hits[i])],
      ["Look", this.marks(i)],
    ].filter(([, words]) => words);
    find("h2", this.detail).textContent = `Access ${count(i + 1)} of ${count(recording.length)}`;
    find("dl", this.detail).replaceChildren(
      ...facts.map(([name, words]) => make("div", {}, make("dt", {}, name), make("dd", {}, words))),
    );
    const chain = find("ol", this.detail),
      frames = recording.chains[recording.stack[i]];
    chain.hidden = !frames.length;
    chain.replaceChildren(...Array.from(frames, (frame) => make("li", {}, about.frames[frame][0])));
    const at = this.position(),
      { accesses } = this.view;
    this.before.disabled = at === 0;
    this.after.disabled = at + (accesses[at] === taken ? 1 : 0) >= accesses.length;
  }

  update() {
    const { taken, accesses } = this.view;
    const at = taken === null ? -1 : this.position();
    if (taken !== this.shown && accesses[at] === taken) this.start = Math.floor(at / PAGE) * PAGE;
    this.shown = taken;
    this.go(this.start);
    this.all();
  }
}
