# SPDX-License-Identifier: BSD-2-Clause
"""The accesses of a report packed for the page that shows it (``page/data.js`` unpacks them).

What is packed is four bytes with the length of a JSON object, that object, and then columns. The object has what
repeats itself (names, code, values) and says where each column stands. A column is so many numbers of the same width,
their lowest bytes first, then the bytes above these: bytes that seldom change stand together, and deflate to nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ksym.capture.sites import Site
from ksym.capture.values import Values, integer_layout
from ksym.recording.accesses import KINDS, Accesses
from ksym.reports.analysis import Analysis
from ksym.reports.call_tree import DEEPEST, MOST_STACKS
from ksym.reports.comparable import AnyColumn, Numbers, comparable, is_number, last_places, number
from ksym.reports.layout import cut
from ksym.reports.terminal import SourceOf
from ksym.symbols.types import Float, resolve
from ksym.symbols.variable import Variable
from ksym.views.text import as_json, printable

FLAGS = ("old_known", "new_known", "silent", "turned", "near", "unseen", "follows")
"""What the bits of the column ``flags`` say, the lowest first."""
_TEXT_MOST = 200
_OTHER_CHAINS = "(other call chains)"


class Packer:
    """Columns, one behind the other."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.columns: dict[str, tuple[int, int, int]] = {}
        """Of each column where it begins behind the JSON object, how many numbers it has, and their width."""

    def add(self, name: str, column: AnyColumn) -> None:
        """Add a column of numbers that are not negative."""
        most = int(column.max()) if len(column) else 0
        width = max(1, -(-most.bit_length() // 8))
        whole = np.ascontiguousarray(column, "<u8" if width > 4 else "<u4")
        planes = whole.view(np.uint8).reshape(len(column), whole.itemsize)[:, :width].T
        self.columns[name] = self._size, len(column), width
        self._parts.append(planes.tobytes())
        self._size += width * len(column)

    def pack(self, about: dict[str, Any]) -> bytes:
        """All of it, with this object in front."""
        head = as_json(about | {"columns": self.columns})
        data = head.encode()
        return b"".join((len(data).to_bytes(4, "little"), data, *self._parts))


def pack(analysis: Analysis, source: SourceOf, origin_ns: int, about: dict[str, Any]) -> bytes:
    """Pack the accesses of a report.

    Args:
        analysis: The report.
        source: Finds source lines.
        origin_ns: From where the page counts time; not later than the first access.
        about: What else the page is told; names that are in it must be printable.
    """
    accesses, packer = analysis.accesses, Packer()
    packer.add("time", np.diff(accesses.time_ns, prepend=np.int64(origin_ns)))
    packer.add("kind", accesses.kind)
    packer.add("watch", accesses.watch)
    packer.add("hits", accesses.hits.clip(0))
    packer.add("flags", _flags(analysis))
    cpus = number(accesses.cpu)
    packer.add("cpu", cpus.codes)
    tables = {
        "origin_ns": str(origin_ns),  # more than a double holds
        "kinds": KINDS,
        "flags": FLAGS,
        "cpus": cpus.different.tolist(),
        "tasks": _tasks(accesses, packer),
        **_code(accesses, source, packer),
        **_stacks(accesses, packer),
        "values": [
            _values(accesses, index, decode, packer) for index, decode in enumerate(accesses.decoders())
        ],
    }
    return packer.pack(about | tables)


def _flags(analysis: Analysis) -> NDArray[np.uint8]:
    accesses, marks = analysis.accesses, analysis.marks
    follows = marks.writer_before >= 0
    bits = (
        accesses.old_known, accesses.new_known, marks.silent, follows & (marks.writer_before != accesses.cpu),
        marks.near_ns >= 0, marks.unseen, follows,
    )  # fmt: skip
    flags = np.zeros(len(accesses), np.uint8)
    for place, bit in enumerate(bits):
        flags |= bit.astype(np.uint8) << np.uint8(place)
    return flags


def _text(text: str) -> str:
    return cut(printable(text), _TEXT_MOST)


def _tasks(accesses: Accesses, packer: Packer) -> list[str]:
    thread = number(accesses.tid)
    both = number(thread.codes * max(1, len(accesses.comms)) + accesses.comm)
    packer.add("task", both.codes)
    examples = last_places(both.codes, len(both)).tolist()
    return [_text(f"{accesses.comms[accesses.comm[at]]}-{accesses.tid[at]}") for at in examples]


def _code(accesses: Accesses, source: SourceOf, packer: Packer) -> dict[str, Any]:
    """Instructions and functions; a program that runs several times lies elsewhere each time, and is the same code."""
    found = number(accesses.site)
    instructions: dict[tuple[str, str], int] = {}
    functions: dict[str, int] = {}
    rows: list[tuple[str, str, str, int]] = []
    codes = []
    for each in found.different.tolist():
        site = accesses.sites[each]
        key = _text(str(site.named)), _text(site.instruction.text if site.instruction else "")
        if key not in instructions:
            instructions[key] = len(instructions)
            function = functions.setdefault(_function(site), len(functions))
            rows.append((*key, _text(source(site) or ""), function))
        codes.append(instructions[key])
    packer.add("instruction", np.array(codes, np.intp)[found.codes])
    return {"instructions": rows, "functions": list(functions)}


def _function(site: Site) -> str:
    named = site.named
    return f"{site.ip:#x}" if named.function is None else _text(named.code)


def _stacks(accesses: Accesses, packer: Packer) -> dict[str, Any]:
    """Call chains, those with most accesses: 0 is none, and where there are too many the last one is all others."""
    made = np.bincount(accesses.stack[accesses.stack >= 0], minlength=1)
    order = np.argsort(-made, kind="stable")[: min(MOST_STACKS, int((made > 0).sum()))].tolist()
    frames: dict[tuple[str, str], int] = {}
    depths, chain = [], []
    for each in order:
        named = accesses.stacks[each][:DEEPEST]
        depths.append(len(named))
        chain += [frames.setdefault((_text(str(frame)), _text(frame.code)), len(frames)) for frame in named]
    code = np.zeros(len(made) + 1, np.intp)  # the last one is that of -1
    code[np.flatnonzero(made)] = len(order) + 1
    code[order] = np.arange(1, len(order) + 1)
    if len(order) < int((made > 0).sum()):
        depths.append(1)
        chain.append(frames.setdefault((_OTHER_CHAINS, _OTHER_CHAINS), len(frames)))
    packer.add("stack", code[accesses.stack])
    packer.add("depth", np.array(depths, np.intp))
    packer.add("chain", np.array(chain, np.intp))
    names: dict[str, int] = {}
    rows = [(text, names.setdefault(name, len(names))) for text, name in frames]
    return {"frames": rows, "names": list(names)}


def _values(accesses: Accesses, index: int, decode: Values, packer: Packer) -> dict[str, Any] | None:
    """The values of one variable, as numbers or as places in a table of texts; None if there are none.

    The column ``old0`` (of variable 0) has by how much the value before each access differs from the one after the
    access before, ``new0`` by how much that after it differs from the one before: mostly nothing.
    """
    here = np.flatnonzero(accesses.watch == index)
    old_known, new_known = accesses.old_known[here], accesses.new_known[here]
    if not (old_known.any() or new_known.any()):
        return None
    variable = accesses.watches[index].variable
    old, new = accesses.old[here], accesses.new[here]
    layout = integer_layout(variable)
    about: dict[str, Any] = {}
    if layout and variable.length <= old.shape[1]:
        numbers = [comparable(variable, data) for data in (old, new)]
        about["signed"] = numbers[0].dtype.kind == "i"
        before, after = (
            column.astype(np.int64).view(np.uint64) if about["signed"] else column.astype(np.uint64)
            for column in numbers
        )
    else:
        codes, table = _table(variable, decode, old, new, old_known, new_known, index, packer)
        about.update(table)
        before, after = codes
    # What is not known is what it was before, so that it takes no room.
    latest = _carried(before, after, old_known, new_known)
    before = np.where(old_known, before, latest)
    after = np.where(new_known, after, before)
    packer.add(f"old{index}", _zigzag(before - latest))
    packer.add(f"new{index}", _zigzag(after - before))
    return about


def _carried(
    before: NDArray[np.uint64], after: NDArray[np.uint64], old_known: AnyColumn, new_known: AnyColumn
) -> NDArray[np.uint64]:
    """What the last value was that any access before each one told; 0 at first."""
    told = np.where(new_known, after, before)
    places = np.where(old_known | new_known, np.arange(len(told)), -1)
    last = np.concatenate(([-1], np.maximum.accumulate(places)[:-1]))
    return np.where(last >= 0, told[last], np.uint64(0))


def _zigzag(differences: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Differences of either sign as numbers that are small where these are: 0, -1, 1, -2 as 0, 1, 2, 3."""
    signed = differences.view(np.int64)
    return ((signed << 1) ^ (signed >> 63)).view(np.uint64)


def _table(
    variable: Variable, decode: Values, old: NDArray[np.uint8], new: NDArray[np.uint8],
    old_known: AnyColumn, new_known: AnyColumn, index: int, packer: Packer,
) -> tuple[list[NDArray[np.uint64]], dict[str, Any]]:  # fmt: skip
    """Values that are not plain integers: the texts of all, in their order, and numbers for a picture of them."""
    data = np.concatenate((old[old_known], new[new_known]))
    found = number(comparable(variable, data))
    examples: Numbers = last_places(found.codes, len(found))
    texts = [_text(decode.of(data[at].tobytes()).text) for at in examples.tolist()]
    columns = []
    for known, codes in (
        (old_known, found.codes[: int(old_known.sum())]),
        (new_known, found.codes[int(old_known.sum()) :]),
    ):
        column = np.zeros(len(known), np.uint64)
        column[known] = codes.astype(np.uint64)
        columns.append(column)
    about: dict[str, Any] = {"texts": texts, "real": False}
    if is_number(variable):
        about["real"] = isinstance(variable.type and resolve(variable.type), Float)
        heights = (
            np.ascontiguousarray(data[examples, : variable.length]).view(f"<f{variable.length}")[:, 0]
            if about["real"]
            else found.different
        )
        packer.add(f"height{index}", heights.astype(np.float64).view(np.uint64))
    return columns, about
