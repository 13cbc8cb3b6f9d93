// SPDX-License-Identifier: BSD-2-Clause
// The table: selected accesses in groups, those with most accesses first. The button of a group selects it.

const FIRST_ROWS = 10,
  MORE_ROWS = 100;
const MOST_MARKS = 2e7; // bytes that counting different values may take
const LONG = 32; // a cell of so many characters is broken into lines

// How often each pair of a row and a code occurs.
class Tally {
  constructor(rows, codes) {
    this.codes = codes;
    this.matrix = rows * codes <= 4e6 ? new Uint32Array(rows * codes) : null;
    this.maps = this.matrix ? null : Array.from({ length: rows }, () => new Map());
  }

  add(row, code) {
    if (this.matrix) this.matrix[row * this.codes + code]++;
    else this.maps[row].set(code, (this.maps[row].get(code) ?? 0) + 1);
  }

  // [code, times] of a row, most often first.
  of(row) {
    const found = this.matrix
      ? Array.from(this.matrix.subarray(row * this.codes, (row + 1) * this.codes).entries()).filter(
          ([, made]) => made,
        )
      : [...this.maps[row]];
    return found.sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  }
}

class Groups {
  // `keys` say of each thing to group by: its noun, the column with the codes, how many codes, and a code's name.
  constructor(section, view, keys) {
    Object.assign(this, { section, view, keys });
    const picker = find("#by");
    picker.append(...Object.entries(keys).map(([key, { noun }]) => make("option", { value: key }, noun)));
    picker.onchange = () => this.by(picker.value);
    find("#groups-more").onclick = () => {
      this.most += MORE_ROWS;
      this.update();
    };
    this.by(Object.keys(keys)[0], false);
  }

  by(key, update = true) {
    this.key = key;
    this.most = FIRST_ROWS;
    this.order = "accesses";
    if (update) this.update();
  }

  // Numbers of all groups.
  count() {
    const { recording } = this.view,
      { column, size } = this.keys[this.key];
    const numbers = {
      accesses: new Uint32Array(size),
      hits: new Float64Array(size),
      silent: new Uint32Array(size),
    };
    const kinds = recording.about.kinds.map(() => new Uint32Array(size));
    const silent = recording.flag("silent");
    for (const i of this.view.except(this.key)) {
      const code = column[i];
      numbers.accesses[code]++;
      numbers.hits[code] += recording.hits[i];
      kinds[recording.kind[i]][code]++;
      if (recording.flags[i] & silent) numbers.silent[code]++;
    }
    recording.about.kinds.forEach((kind, number) => {
      numbers[kind] = kinds[number];
    });
    return numbers;
  }

  // Codes of the groups that there are, in the order that was asked for.
  sorted(numbers) {
    const by = numbers[this.order],
      keys = new Float64Array(by.length);
    let length = 0;
    // One number of both, number and code, sorts without a function.
    for (let code = 0; code < by.length; code++) {
      if (numbers.accesses[code]) keys[length++] = -Math.min(by[code], 2 ** 28) * 2 ** 24 + code;
    }
    return keys.subarray(0, length).sort();
  }

  // What else is told of the groups that are shown.
  details(codes, size) {
    const { recording } = this.view,
      { about } = recording,
      { column } = this.keys[this.key];
    const row = new Int32Array(size).fill(-1);
    codes.forEach((code, number) => {
      row[code] = number;
    });
    const found = codes.map(() => ({ first: -1, last: -1, low: -1, high: -1, writer: -1, mixed: false }));
    const tallies = {
      tasks: new Tally(codes.length, about.tasks.length),
      cpus: new Tally(codes.length, about.cpus.length),
      functions: new Tally(codes.length, about.functions.length),
    };
    const different = this.key === "value" ? null : this.differentValues(codes.length);
    const { height } = recording,
      kinds = about.kinds.map((kind) => DOWN.has(kind));
    for (const i of this.view.except(this.key)) {
      const number = row[column[i]];
      if (number < 0) continue;
      const group = found[number];
      tallies.tasks.add(number, recording.task[i]);
      tallies.cpus.add(number, recording.cpu[i]);
      tallies.functions.add(number, recording.function[i]);
      if (kinds[recording.kind[i]] && recording.flags[i] & 2) group.writer = i;
      if (!(recording.flags[i] & 3)) continue;
      if (group.first < 0) group.first = i;
      else if (recording.watch[i] !== recording.watch[group.first]) group.mixed = true;
      group.last = i;
      different?.(number, i);
      if (group.low < 0 || height[i] < height[group.low]) group.low = i;
      if (group.high < 0 || height[i] > height[group.high]) group.high = i;
    }
    different?.counts.forEach((made, number) => {
      found[number].different = made;
    });
    return { found, tallies };
  }

  // Takes a row and an access, and counts the different values of each row; nothing where that would take too much.
  differentValues(rows) {
    const { codes, examples } = this.view.recording.valueCodes,
      size = examples.length;
    if (rows * size > MOST_MARKS) return null;
    const seen = new Uint8Array(rows * size);
    const take = (row, i) => {
      const at = row * size + codes[i];
      take.counts[row] += 1 - seen[at];
      seen[at] = 1;
    };
    take.counts = new Uint32Array(rows);
    return take;
  }

  values({ first, last, low, high, mixed, different }) {
    const { recording } = this.view;
    if (first < 0) return "";
    if (mixed) return "of several variables";
    const text = (i) => recording.value(i),
      { texts, heights } = recording.about.values[recording.watch[first]];
    if (recording.height[low] === recording.height[high]) return text(first);
    const many = different === undefined ? "" : `, ${count(different)} different`;
    const ends = `first ${text(first)}, last ${text(last)}${many}`;
    return !texts || heights ? `${ends}, ${text(low)} to ${text(high)}` : ends;
  }

  shares(pairs, names) {
    const all = pairs.reduce((sum, [, made]) => sum + made, 0);
    const several = pairs.length > 1 && !this.view.recording.about.sampled;
    const shown = pairs
      .slice(0, 3)
      .map(([code, made]) => names[code] + (several ? ` ${Math.round((100 * made) / all)}%` : ""));
    return shown.join(", ") + (pairs.length > 3 ? `, ${count(pairs.length - 3)} more` : "");
  }

  writer(i) {
    const { recording } = this.view;
    if (i < 0) return "";
    return `${since(recording.time[i])} by ${recording.taskName(i)} in ${recording.placeName(i)}`;
  }

  update() {
    const numbers = this.count(),
      order = this.sorted(numbers);
    const codes = Array.from(order.subarray(0, this.most), (key) => ((key % 2 ** 24) + 2 ** 24) % 2 ** 24);
    const all = numbers.accesses.reduce((sum, made) => sum + made, 0);
    const { found, tallies } = this.details(codes, numbers.accesses.length);
    const columns = this.columns(numbers, codes, found, tallies, all).filter(({ cells }) =>
      cells.some((cell) => cell.text !== ""),
    );
    keepingFocus(this.section, () =>
      fill(
        find("table", this.section),
        columns.map(({ head, right, sort }) => ({
          text: head,
          right,
          sorted: sort === this.order ? "descending" : null,
          sort:
            sort && sort !== this.order
              ? () => {
                  this.order = sort;
                  this.update();
                }
              : null,
        })),
        codes.map((_, row) =>
          columns.map(({ cells, right, kind }) => ({ ...cells[row], right, class: kind })),
        ),
      ),
    );
    const left = order.length - codes.length;
    find("#groups-left").textContent = left
      ? `${count(left)} more`
      : order.length
        ? ""
        : "Nothing is selected.";
    find("#groups-more").hidden = !left;
  }

  columns(numbers, codes, found, tallies, all) {
    const { recording } = this.view,
      { about } = recording,
      { name, heading } = this.keys[this.key];
    const text = (make) => codes.map((code, row) => ({ text: make(code, row) }));
    const number = (head, sort, kind) => ({
      head,
      sort,
      right: true,
      kind,
      cells: codes.map((code) => ({
        text: numbers[sort][code] || ["R", "W"].includes(sort) ? count(numbers[sort][code]) : "",
      })),
    });
    const hits = codes.some((code) => numbers.hits[code] !== numbers.accesses[code]);
    const share = {
      head: "Share",
      right: true,
      kind: "share",
      cells: codes.map((code) => ({ text: "share", element: this.share(numbers.accesses[code], all) })),
    };
    const columns = [
      ...(about.sampled ? [] : [share]), // of samples it tells nothing
      number(about.sampled ? "Samples" : "Accesses", "accesses"),
      ...(hits ? [number("Hits", "hits")] : []),
      ...KINDS_SHOWN.filter((kind) => recording.kind.includes(about.kinds.indexOf(kind))).map((kind) =>
        number(kind, kind, `kind ${KIND_COLOURS[kind]}`),
      ),
      number("Silent", "silent"),
      {
        head: heading,
        cells: codes.map((code) => ({ text: "name", head: true, element: this.chooser(code, name) })),
      },
    ];
    const add = (head, cells, kind = null) =>
      columns.push({
        head,
        cells,
        kind: kind ?? (cells.some(({ text }) => text.length > LONG) ? "long" : null),
      });
    if (this.key === "instruction") {
      add(
        "Instruction",
        text((code) => about.instructions[code][1]),
        "code",
      );
      add(
        "Source",
        text((code) => about.instructions[code][2]),
        "code",
      );
    }
    if (!["instruction", "function"].includes(this.key))
      add(
        "From",
        text((_, row) => this.shares(tallies.functions.of(row), about.functions)),
      );
    if (this.key === "value")
      add(
        "Last written",
        text((_, row) => this.writer(found[row].writer)),
      );
    if (this.key !== "cpu")
      add(
        "CPU",
        text((_, row) => ranges(tallies.cpus.of(row).map(([code]) => about.cpus[code]))),
      );
    if (this.key !== "task")
      add(
        "Tasks",
        text((_, row) => this.shares(tallies.tasks.of(row), about.tasks)),
      );
    if (this.key !== "value")
      add(
        "Values",
        text((_, row) => this.values(found[row])),
      );
    return columns;
  }

  share(part, all) {
    const bar = make("span", { class: "bar" });
    bar.style.width = `${(100 * part) / all}%`;
    return make("span", { class: "share" }, bar, make("span", {}, percent(part, all)));
  }

  chooser(code, name) {
    const { column } = this.keys[this.key],
      pressed = this.view.chosen(this.key).has(code);
    return button(
      name(code),
      () => this.view.toggle(this.key, code, column, (each) => `${this.keys[this.key].noun} ${name(each)}`),
      {
        class: "choose",
        "aria-pressed": String(pressed),
        "data-key": `${this.key}-${code}`,
      },
    );
  }
}

// 0-3,8; of many the first, the last and how many.
function ranges(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b),
    parts = [];
  for (const number of sorted) {
    if (parts.length && number === parts[parts.length - 1][1] + 1) parts[parts.length - 1][1] = number;
    else parts.push([number, number]);
  }
  if (parts.length > 6) return `${sorted[0]} … ${sorted[sorted.length - 1]} (${sorted.length})`;
  return parts.map(([low, high]) => (low === high ? low : `${low}-${high}`)).join(",");
}
