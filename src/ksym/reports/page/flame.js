// SPDX-License-Identifier: BSD-2-Clause
// The call chains of the selected accesses as a flame graph; a function's button selects what goes through it.

const FRAME = 22; // pixels
const LEAST_SHARE = 0.001,
  MOST_FRAMES = 3000,
  TABLE_ROWS = 200;

class Flame {
  constructor(section, view) {
    Object.assign(this, { section, view });
    const { about, chains } = view.recording;
    const names = about.frames.map((row) => row[1]);
    // Of each chain the functions, innermost first.
    this.paths = chains.map((frames) => Array.from(frames, (frame) => names[frame]));
    this.owners = about.names.map((name) => name.match(/ \[(.*)\]$/)?.[1] ?? "");
    this.readout = find(".readout", section);
    this.top = find("#flame-top");
    this.top.onchange = () => this.update();
    this.holder = find(".flames", section);
    this.holder.addEventListener("keydown", (event) => this.key(event));
    this.table = whileOpen(find("details", section), () => this.asTable());
    this.there = chains.length > 1;
    if (!this.there) {
      this.readout.textContent = "The recording has no call chains; ksym record -g takes them.";
      for (const part of section.querySelectorAll("label, .scroll, details")) part.hidden = true;
    }
  }

  path(chain) {
    return this.top.value === "outer" ? [...this.paths[chain]].reverse() : this.paths[chain];
  }

  grow() {
    const { recording, accesses } = this.view;
    const made = new Uint32Array(this.paths.length);
    for (const i of accesses) made[recording.stack[i]]++;
    const root = { name: -1, accesses: 0, children: new Map(), path: [], parent: null };
    for (let chain = 1; chain < made.length; chain++) {
      if (!made[chain]) continue;
      let node = root;
      node.accesses += made[chain];
      for (const name of this.path(chain)) {
        let child = node.children.get(name);
        if (!child)
          node.children.set(
            name,
            (child = { name, accesses: 0, children: new Map(), path: [...node.path, name], parent: node }),
          );
        child.accesses += made[chain];
        node = child;
      }
    }
    this.without = made[0];
    return root;
  }

  // Where each frame stands: those that are wide enough to be seen.
  lay(root) {
    const placed = [];
    let row = [{ node: root, left: 0 }];
    for (let depth = 0; row.length && placed.length < MOST_FRAMES; depth++) {
      const below = [];
      for (const { node, left } of row) {
        placed.push({ node, left, depth, width: node.accesses / root.accesses });
        let at = left;
        for (const child of [...node.children.values()].sort((a, b) => b.accesses - a.accesses)) {
          if (child.accesses >= LEAST_SHARE * root.accesses) below.push({ node: child, left: at });
          at += child.accesses / root.accesses;
        }
      }
      row = below;
    }
    return placed;
  }

  label(node) {
    return node.parent ? this.view.recording.about.names[node.name] : "all";
  }

  inWords(node) {
    return `${this.label(node)}: ${plural(node.accesses, "access")}, ${percent(node.accesses, this.root.accesses)}`;
  }

  frame({ node, left, width, depth }) {
    const words = this.inWords(node);
    const element = button(this.label(node), () => this.choose(node), {
      class: "frame",
      "aria-label": words,
      "data-key": node.path.join("/"),
      tabindex: depth ? "-1" : "0",
      onmouseenter: () => {
        this.readout.textContent = words;
      },
      onfocus: () => {
        this.readout.textContent = words;
      },
    });
    element.node = node;
    node.element = element;
    element.style.left = `${100 * left}%`;
    element.style.width = `${100 * width}%`;
    element.style.top = `${depth * FRAME}px`;
    element.style.setProperty("--hue", node.parent ? hue(this.owners[node.name]) : 0);
    if (!node.parent) element.classList.add("root");
    return element;
  }

  // All chains that go this way, whatever else is selected.
  choose(node) {
    const chains = new Set();
    const { stack } = this.view.recording,
      names = this.view.recording.about.names;
    if (node.parent) {
      this.paths.forEach((_, chain) => {
        const path = this.path(chain);
        if (node.path.every((name, depth) => path[depth] === name)) chains.add(chain);
      });
    }
    const inside = new Uint8Array(this.paths.length);
    for (const chain of chains) inside[chain] = 1;
    const text = `calls through ${node.path
      .slice(-3)
      .map((name) => names[name])
      .join(this.top.value === "outer" ? " > " : " < ")}`;
    this.view.choose("chain", chains, (i) => inside[stack[i]], [
      { text, drop: () => this.view.choose("chain", new Set(), null, []) },
    ]);
  }

  key(event) {
    const { node } = event.target;
    if (!node || event.ctrlKey || event.altKey || event.metaKey) return;
    const siblings = (each) =>
      each.parent
        ? [...each.parent.children.values()]
            .filter((child) => child.element)
            .sort((a, b) => b.accesses - a.accesses)
        : [each];
    const next = (by) => siblings(node)[siblings(node).indexOf(node) + by];
    const target = {
      ArrowUp: () => node.parent,
      ArrowDown: () =>
        [...node.children.values()]
          .filter((child) => child.element)
          .sort((a, b) => b.accesses - a.accesses)[0],
      ArrowLeft: () => next(-1),
      ArrowRight: () => next(1),
    }[event.key];
    if (!target) return;
    event.preventDefault();
    const found = target();
    if (!found) return;
    node.element.tabIndex = -1;
    found.element.tabIndex = 0;
    found.element.focus();
  }

  asTable() {
    const rows = [];
    const walk = (node, depth) => {
      if (rows.length >= TABLE_ROWS) return;
      rows.push([node, depth]);
      for (const child of [...node.children.values()].sort((a, b) => b.accesses - a.accesses))
        walk(child, depth + 1);
    };
    for (const child of [...this.root.children.values()].sort((a, b) => b.accesses - a.accesses))
      walk(child, 1);
    const table = newTable("Functions on the way to the accesses");
    const right = true;
    fill(
      table,
      [{ text: "Share", right }, { text: "Accesses", right }, { text: "Level", right }, { text: "Function" }],
      rows.map(([node, depth]) => [
        { text: percent(node.accesses, this.root.accesses), right },
        { text: count(node.accesses), right },
        { text: count(depth), right },
        { text: this.label(node), head: true },
      ]),
    );
    find("details .scroll", this.section).replaceChildren(table);
  }

  update() {
    if (!this.there) return;
    this.root = this.grow();
    const placed = this.root.accesses ? this.lay(this.root) : [];
    const depth = placed.reduce((most, frame) => Math.max(most, frame.depth), 0);
    keepingFocus(this.holder, () => {
      this.holder.style.height = `${(depth + 1) * FRAME}px`;
      this.holder.replaceChildren(...placed.map((frame) => this.frame(frame)));
    });
    const without = this.without ? `; ${plural(this.without, "access")} without a call chain` : "";
    this.readout.textContent = this.root.accesses
      ? this.inWords(this.root) + without
      : `no call chains are selected${without}`;
    this.table();
  }
}

// A colour for each program or module; the kernel's own is orange.
function hue(owner) {
  let hash = 30;
  for (const character of owner) hash = (hash * 31 + character.codePointAt(0)) % 360;
  return hash;
}
