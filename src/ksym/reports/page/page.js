// SPDX-License-Identifier: BSD-2-Clause
// Puts the page together.

function head({ about }) {
  document.title = `${about.file} - ksym report`;
  find("#file").textContent = about.file;
  find("#facts").append(
    ...about.facts.map(([name, text]) =>
      make("div", { class: name === "cut" ? "cut" : null }, make("dt", {}, name), make("dd", {}, text)),
    ),
  );
}

const NAMED_FRAMES = 6; // of a call chain

// What accesses can be grouped by and selected by.
function keysOf(recording) {
  const { about } = recording;
  const several = about.watches.length > 1;
  const keys = {
    instruction: {
      noun: "instruction",
      heading: "Function",
      column: recording.instruction,
      size: about.instructions.length,
      name: (code) => about.instructions[code][0],
    },
    function: {
      noun: "function",
      heading: "Function",
      column: recording.function,
      size: about.functions.length,
      name: (code) => about.functions[code],
    },
    task: {
      noun: "task",
      heading: "Task-PID",
      column: recording.task,
      size: about.tasks.length,
      name: (code) => about.tasks[code],
    },
    cpu: {
      noun: "CPU",
      heading: "CPU",
      column: recording.cpu,
      size: about.cpus.length,
      name: (code) => `CPU ${about.cpus[code]}`,
      ordered: true,
    },
    value: {
      noun: "value",
      heading: "Value",
      get column() {
        return recording.valueCodes.codes;
      },
      get size() {
        return recording.valueCodes.examples.length;
      },
      name: (code) => {
        const i = recording.valueCodes.examples[code];
        return (
          (several ? `${about.watches[recording.watch[i]].name} ` : "") + (recording.value(i) ?? "not known")
        );
      },
    },
  };
  if (recording.chains.length > 1) {
    keys.stack = {
      noun: "call chain",
      heading: "Call chain",
      column: recording.stack,
      size: recording.chains.length,
      name: (code) => chainName(recording, code),
    };
  }
  const watch = {
    noun: "variable",
    column: recording.watch,
    size: about.watches.length,
    name: (code) => about.watches[code].name,
    ordered: true,
  };
  return { groups: keys, watch, lanes: { cpu: keys.cpu, task: keys.task, ...(several ? { watch } : {}) } };
}

// Who made the access and who called that.
function chainName({ about, chains }, code) {
  const names = Array.from(chains[code].subarray(0, NAMED_FRAMES), (frame) => about.frames[frame][0]);
  const more = chains[code].length - names.length;
  return (names.join(" ← ") || "none") + (more > 0 ? ` and ${count(more)} more` : "");
}

class Variables {
  constructor(section, view, key) {
    Object.assign(this, { section, view, key });
  }

  update() {
    const { recording } = this.view,
      { about } = recording;
    const several = about.watches.length > 1,
      right = true;
    const counts = about.watches.map(() => new Array(about.kinds.length).fill(0));
    for (const i of this.view.except("watch")) counts[recording.watch[i]][recording.kind[i]]++;
    const kinds = KINDS_SHOWN.filter((kind) => recording.kind.includes(about.kinds.indexOf(kind)));
    keepingFocus(this.section, () =>
      fill(
        find("table", this.section),
        [
          { text: "Variable" },
          { text: "Accesses", right },
          ...kinds.map((kind) => ({ text: kind, right })),
          { text: "What it is" },
        ],
        about.watches.map(({ name, definition }, watch) => [
          several
            ? {
                head: true,
                element: button(
                  name,
                  () =>
                    this.view.toggle(
                      "watch",
                      watch,
                      recording.watch,
                      (each) => `variable ${about.watches[each].name}`,
                    ),
                  {
                    class: "choose",
                    "aria-pressed": String(this.view.chosen("watch").has(watch)),
                    "data-key": watch,
                  },
                ),
              }
            : { head: true, text: name },
          { text: count(counts[watch].reduce((a, b) => a + b, 0)), right },
          ...kinds.map((kind) => ({
            text: count(counts[watch][about.kinds.indexOf(kind)]),
            right,
            class: `kind ${KIND_COLOURS[kind]}`,
          })),
          { text: definition },
        ]),
      ),
    );
  }
}

// What was found in all accesses; the button selects those that show it.
class Findings {
  constructor(section, view) {
    Object.assign(this, { section, view });
    section.hidden = !view.recording.about.findings.length;
  }

  passes({ flag, watch }) {
    const { recording } = this.view,
      bit = recording.flag(flag);
    return (i) => (recording.flags[i] & bit) !== 0 && recording.watch[i] === watch;
  }

  toggle(number) {
    const { about } = this.view.recording;
    const chosen = new Set(this.view.chosen("finding").has(number) ? [] : [number]);
    const parts = [...chosen].map((each) => ({
      text: about.findings[each].name,
      drop: () => this.toggle(each),
    }));
    this.view.choose("finding", chosen, this.passes(about.findings[number]), parts);
  }

  update() {
    const { recording } = this.view,
      { about } = recording;
    const several = about.watches.length > 1,
      accesses = this.view.except("finding");
    keepingFocus(this.section, () =>
      find("ul", this.section).replaceChildren(
        ...about.findings.map((finding, number) => {
          const passes = this.passes(finding);
          let made = 0;
          for (const i of accesses) if (passes(i)) made++;
          const name = several ? `${finding.name} of ${about.watches[finding.watch].name}` : finding.name;
          return make(
            "li",
            {},
            button(name, () => this.toggle(number), {
              class: "choose",
              "aria-pressed": String(this.view.chosen("finding").has(number)),
              "data-key": number,
            }),
            make("span", { class: "number" }, ` ${count(made)} selected. `),
            finding.text,
          );
        }),
      ),
    );
  }
}

class Chosen {
  constructor(section, view) {
    Object.assign(this, { section, view });
    find("#clear").onclick = () => {
      view.clear();
      section.focus();
    };
  }

  update() {
    const { view } = this,
      { recording } = view;
    const parts = [...view.choices.values()].flatMap(({ parts }) => parts);
    if (view.zoomed()) {
      parts.unshift({ text: view.inWords(), drop: () => view.zoom(...view.everything) });
    }
    const shown = plural(view.accesses.length, "access");
    find("#selected").textContent = parts.length
      ? `${shown} of ${count(recording.length)} selected:`
      : `All ${shown}`;
    find("#chips").replaceChildren(
      ...parts.map(({ text, drop }) =>
        make(
          "li",
          {},
          button(
            `${text} ×`,
            () => {
              drop();
              this.section.focus();
            },
            { "aria-label": `Select without: ${text}` },
          ),
        ),
      ),
    );
    find("#clear").hidden = !parts.length;
  }
}

// Do all work that was asked for once, before the next picture is drawn.
function soon(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      work();
    });
  };
}

const DARK = matchMedia("(prefers-color-scheme: dark)");

// Light or dark: what is chosen, else what the system has.
function setTheme() {
  document.documentElement.dataset.theme = find("#theme").value || (DARK.matches ? "dark" : "light");
}

async function start() {
  const status = find("#status");
  setTheme();
  try {
    const data = find("#data");
    const recording = new Recording(await inflate(data.textContent));
    data.remove();
    head(recording);
    find("main").hidden = false;
    const view = new Selection(recording);
    const { groups, watch, lanes } = keysOf(recording);
    const parts = [
      new Chosen(find("#selection"), view),
      new Variables(find("#variables"), view, watch),
      new Groups(find("#groups"), view, groups),
      new Findings(find("#findings"), view),
      new Timeline(find("#timeline"), view, lanes),
      new ValueChart(find("#values"), view),
      new Flame(find("#flame"), view),
      new Rows(find("#rows"), find("#access"), view),
    ];
    const update = () => {
      for (const part of parts) part.update();
    };
    view.listeners.push(soon(update));
    const retheme = () => {
      setTheme();
      update();
    };
    find("#theme").onchange = retheme;
    DARK.addEventListener("change", retheme);
    update();
    status.hidden = true;
  } catch (error) {
    status.textContent =
      typeof DecompressionStream === "undefined"
        ? "This browser cannot unpack the report. Chrome 80, Firefox 113, Safari 16.4 and later ones can."
        : `The report cannot be shown: ${error.message}`;
    console.error(error);
  }
}

start();
