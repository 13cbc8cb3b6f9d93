// SPDX-License-Identifier: BSD-2-Clause
// Unpacks what reports/embed.py packed: columns with an element for each access, in order of time.

async function inflate(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

class Recording {
  constructor(bytes) {
    const head = new DataView(bytes.buffer).getUint32(0, true);
    this.about = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + head)));
    this.bytes = bytes.subarray(4 + head);
    this.origin = BigInt(this.about.origin_ns);
    this.time = this.times();
    this.length = this.time.length;
    for (const name of ["kind", "watch", "hits", "flags", "cpu", "task", "instruction", "stack"]) {
      this[name] = this.codes(name);
    }
    const functions = this.about.instructions.map((row) => row[3]);
    this.function = this.instruction.map((code) => functions[code]);
    this.chains = this.unpackChains();
    this.unpackValues();
  }

  planes(name) {
    const [start, length, width] = this.about.columns[name];
    return Array.from({ length: width }, (_, k) =>
      this.bytes.subarray(start + k * length, start + (k + 1) * length),
    );
  }

  codes(name) {
    const planes = this.planes(name);
    if (planes.length === 1) return planes[0];
    const column = new (planes.length === 2 ? Uint16Array : Uint32Array)(planes[0].length);
    planes.forEach((plane, k) => {
      for (let i = 0; i < plane.length; i++) column[i] |= plane[i] << (8 * k);
    });
    return column;
  }

  // Numbers of 64 bits, in halves.
  halves(name) {
    const planes = this.planes(name);
    const low = new Uint32Array(planes[0].length),
      high = new Uint32Array(planes[0].length);
    planes.forEach((plane, k) => {
      const half = k < 4 ? low : high;
      for (let i = 0; i < plane.length; i++) half[i] |= plane[i] << (8 * (k % 4));
    });
    return [low, high];
  }

  // Nanoseconds since the recording's first access: exact for the first 104 days.
  times() {
    const planes = this.planes("time");
    const time = new Float64Array(planes[0].length);
    planes.forEach((plane, k) => {
      for (let i = 0; i < plane.length; i++) time[i] += plane[i] * 256 ** k;
    });
    for (let i = 1; i < time.length; i++) time[i] += time[i - 1];
    return time;
  }

  // Of each call chain its frames, innermost first; the first chain is none.
  unpackChains() {
    const frames = this.codes("chain");
    const chains = [frames.subarray(0, 0)];
    let start = 0;
    for (const depth of this.codes("depth")) {
      chains.push(frames.subarray(start, start + depth));
      start += depth;
    }
    return chains;
  }

  unpackValues() {
    const half = () => new Uint32Array(this.length);
    this.before = [half(), half()];
    this.after = [half(), half()];
    this.about.values.forEach((values, watch) => {
      if (!values) return;
      this.unpackVariable(watch);
      const name = `height${watch}`;
      if (name in this.about.columns) {
        const [low, high] = this.halves(name);
        const numbers = new BigUint64Array(low.length);
        for (let i = 0; i < low.length; i++) numbers[i] = (BigInt(high[i]) << 32n) | BigInt(low[i]);
        values.heights = new Float64Array(numbers.buffer);
      }
    });
    this.height = new Float64Array(this.length);
    for (let i = 0; i < this.length; i++) this.height[i] = this.heightOf(i);
  }

  // Each value is by so much more than the one before it.
  unpackVariable(watch) {
    const columns = [
      [...this.halves(`old${watch}`), ...this.before],
      [...this.halves(`new${watch}`), ...this.after],
    ];
    let low = 0,
      high = 0,
      at = 0;
    for (let i = 0; i < this.length; i++) {
      if (this.watch[i] !== watch) continue;
      for (const [lows, highs, toLow, toHigh] of columns) {
        const sign = -(lows[at] & 1); // of the difference, folded into the lowest bit
        const sum = low + ((((lows[at] >>> 1) | (highs[at] << 31)) ^ sign) >>> 0);
        high = (high + ((highs[at] >>> 1) ^ sign) + (sum > 0xffffffff ? 1 : 0)) >>> 0;
        low = sum >>> 0;
        toLow[i] = low;
        toHigh[i] = high;
      }
      at++;
    }
  }

  flag(name) {
    return 1 << this.about.flags.indexOf(name);
  }

  // The half columns of the value that an access left or found; nothing if that is not known.
  seen(i) {
    return this.flags[i] & 2 ? this.after : this.flags[i] & 1 ? this.before : null;
  }

  heightOf(i) {
    const halves = this.seen(i);
    if (!halves) return NaN;
    const values = this.about.values[this.watch[i]];
    const low = halves[0][i];
    if (values.texts) return values.heights ? values.heights[low] : low;
    return (values.signed ? halves[1][i] | 0 : halves[1][i]) * 4294967296 + low;
  }

  text(i, [lows, highs]) {
    const values = this.about.values[this.watch[i]];
    if (values.texts) return values.texts[lows[i]];
    if (!highs[i]) return String(lows[i]);
    const number = (BigInt(highs[i]) << 32n) | BigInt(lows[i]);
    return String(values.signed ? BigInt.asIntN(64, number) : number);
  }

  value(i) {
    const halves = this.seen(i);
    return halves ? this.text(i, halves) : null;
  }

  // As `ksym script` writes it.
  change(i) {
    const old = this.flags[i] & 1 ? this.text(i, this.before) : null;
    const after = this.flags[i] & 2 ? this.text(i, this.after) : null;
    if ((old === null && after === null) || this.kindName(i) === "X") return "-";
    if (old === after && ["R", "?"].includes(this.kindName(i))) return after;
    return `${old ?? "?"} -> ${after ?? "?"}`;
  }

  taskName(i) {
    return this.about.tasks[this.task[i]];
  }

  // The function with its offset.
  placeName(i) {
    return this.about.instructions[this.instruction[i]][0];
  }

  kindName(i) {
    return this.about.kinds[this.kind[i]];
  }

  // A number for each different value, and an access that has it; made when it is first asked for.
  get valueCodes() {
    this.madeValueCodes ??= this.makeValueCodes();
    return this.madeValueCodes;
  }

  makeValueCodes() {
    const codes = new Uint32Array(this.length),
      examples = [];
    const size = 2 ** Math.ceil(Math.log2(2 * this.length + 2));
    const slots = new Int32Array(size).fill(-1);
    for (let i = 0; i < this.length; i++) {
      const halves = this.seen(i);
      const [low, high, watch] = halves ? [halves[0][i], halves[1][i], this.watch[i]] : [0, 0, -1];
      const mixed = Math.imul(
        low ^ Math.imul(high, 0x9e3779b1) ^ Math.imul(watch + 1, 0x85ebca77),
        0xc2b2ae3d,
      );
      let slot = (mixed ^ (mixed >>> 15)) & (size - 1);
      for (; slots[slot] >= 0; slot = (slot + 1) & (size - 1)) {
        const other = examples[slots[slot]];
        const others = this.seen(other);
        if (!halves !== !others) continue;
        if (!halves || (this.watch[other] === watch && others[0][other] === low && others[1][other] === high))
          break;
      }
      if (slots[slot] < 0) {
        slots[slot] = examples.length;
        examples.push(i);
      }
      codes[i] = slots[slot];
    }
    return { codes, examples };
  }
}
