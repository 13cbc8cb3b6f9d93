// SPDX-License-Identifier: BSD-2-Clause
// Which accesses are selected: by the stretch of time that is shown, and by what was clicked. All that is selected
// holds together; of one kind of thing (tasks, say) each one that was clicked will do.

class Selection {
  constructor(recording) {
    this.recording = recording;
    this.outside = new Uint16Array(recording.length); // a bit for each choice that an access does not meet
    this.choices = new Map();
    this.listeners = [];
    this.back = [];
    this.taken = null; // the access that is shown in full
    const time = recording.time;
    const [first, last] = time.length ? [time[0], time[time.length - 1]] : [0, 0];
    const margin = Math.max(10, Math.round((last - first) / 200));
    this.everything = [first - margin, last + margin];
    this.show(...this.everything);
  }

  // -- time

  show(from, to) {
    this.from = from;
    this.to = to;
    this.low = place(this.recording.time, from);
    this.high = place(this.recording.time, to, true);
  }

  inWords() {
    return `${since(this.from)} to ${since(this.to)}`;
  }

  zoomed() {
    return this.from !== this.everything[0] || this.to !== this.everything[1];
  }

  // To a stretch of at least some nanoseconds, within all that there is.
  zoom(from, to) {
    const [start, end] = this.everything;
    const length = Math.min(Math.max(to - from, 20), end - start);
    const low = Math.min(Math.max((from + to - length) / 2, start), end - length);
    const shown = length === end - start ? this.everything : [Math.round(low), Math.round(low + length)];
    if (shown[0] === this.from && shown[1] === this.to) return;
    this.back.push([this.from, this.to]);
    this.show(...shown);
    this.tell();
  }

  scale(factor, middle = (this.from + this.to) / 2) {
    this.zoom(middle - (middle - this.from) * factor, middle + (this.to - middle) * factor);
  }

  move(part) {
    const by = (this.to - this.from) * part;
    const [start, end] = this.everything;
    const low = Math.min(Math.max(this.from + by, start), end - (this.to - this.from));
    this.zoom(low, low + (this.to - this.from));
  }

  goBack() {
    if (!this.back.length) return;
    this.show(...this.back.pop());
    this.tell();
  }

  take(access) {
    this.taken = access;
    for (const listener of this.listeners) listener();
  }

  // -- choices

  // `passes` says of an access whether it is chosen; `parts` are what is shown: {text, drop}.
  choose(key, codes, passes, parts) {
    const bit = 1 << Selection.KEYS.indexOf(key);
    const { outside } = this;
    if (!codes.size) {
      this.choices.delete(key);
      for (let i = 0; i < outside.length; i++) outside[i] &= ~bit;
    } else {
      this.choices.set(key, { codes, parts });
      for (let i = 0; i < outside.length; i++) outside[i] = passes(i) ? outside[i] & ~bit : outside[i] | bit;
    }
    this.tell();
  }

  // Add a code of a column to what is chosen of it, or take it away.
  toggle(key, code, column, describe) {
    const codes = new Set(this.chosen(key));
    if (!codes.delete(code)) codes.add(code);
    const parts = [...codes].map((each) => ({
      text: describe(each),
      drop: () => this.toggle(key, each, column, describe),
    }));
    this.choose(key, codes, (i) => codes.has(column[i]), parts);
  }

  chosen(key) {
    return this.choices.get(key)?.codes ?? new Set();
  }

  clear() {
    this.choices.clear();
    this.outside.fill(0);
    this.back = [];
    this.show(...this.everything);
    this.tell();
  }

  // -- what is selected

  tell() {
    this.made = null;
    for (const listener of this.listeners) listener();
  }

  // Numbers of the selected accesses.
  get accesses() {
    this.made ??= this.except(null);
    return this.made;
  }

  // The same as if nothing were chosen of one key.
  except(key) {
    const bits = key ? ~(1 << Selection.KEYS.indexOf(key)) : ~0;
    const found = new Uint32Array(this.high - this.low);
    const { outside } = this;
    let length = 0;
    for (let i = this.low; i < this.high; i++) if (!(outside[i] & bits)) found[length++] = i;
    return found.subarray(0, length);
  }
}

Selection.KEYS = ["watch", "kind", "cpu", "task", "function", "instruction", "value", "stack", "chain", "finding"];
