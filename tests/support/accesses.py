# SPDX-License-Identifier: BSD-2-Clause
"""Accesses of a recording, made up row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from ksym.capture.instructions import Instruction
from ksym.capture.sites import Named, Site
from ksym.language.parser import parse_request
from ksym.recording.accesses import KINDS, Accesses, Traits
from ksym.recording.numbering import grouped
from ksym.symbols.ctext import parse_type
from ksym.symbols.types import Type
from ksym.symbols.variable import Space, Variable
from ksym.watch.plan import Watch, make_plan

START = 1_795_421_838_000_000_000
"""Where times count from."""


class Row(NamedTuple):
    """One access; ``old`` and ``new`` are numbers, bytes, or None where they are not known."""

    time: int = 0
    """Nanoseconds since START."""
    kind: str = "W"
    cpu: int = 0
    tid: int = 1
    comm: str = "task"
    new: int | bytes | None = None
    old: int | bytes | None = None
    site: int = 0
    watch: int = 0
    hits: int = 1
    pid: int = 1
    stack: int = -1
    uid: int = -1


def make_watch(
    name: str = "./prog:counter", kind: str | Type | None = "unsigned int", *, access: str = "rw-", index: int = 0,
    length: int = 0, per_cpu: dict[int, int] | None = None, bits: tuple[int, int] | None = None,
) -> Watch:  # fmt: skip
    """A watch on a variable at 0x4000 of a program, or of the kernel where the name says so."""
    made = parse_type(kind) if isinstance(kind, str) else kind
    space = Space.USER if "/" in name else Space.KERNEL
    size = length or (made.size if made else 4)
    variable = Variable(name, 0x4000, size, space, made, bits, per_cpu)
    (watch,) = make_plan([(parse_request(f"{name}:{access}"), variable)]).watches
    return Watch(index, watch.request, watch.variable, watch.pieces, watch.twin)


def make_site(
    function: str | None = "main", offset: int = 0x10, *, owner: str | None = "prog",
    text: str | None = "mov [rdx],eax", kind: str = "W", ip: int = 0x401010,
) -> Site:  # fmt: skip
    """Code that makes accesses; without ``text`` its instruction is not known."""
    instruction = None if text is None else Instruction(ip - 2, text, frozenset({kind}), 4)
    return Site(ip, ip if text is None else ip - 2, Named(function, offset, 0x80, owner), instruction, 4)


def make_accesses(
    rows: Sequence[Row], *, watches: Sequence[Watch] = (), sites: Sequence[Site] = (),
    stacks: Sequence[tuple[Named, ...]] = (),
) -> Accesses:  # fmt: skip
    """Columns of these rows, which must be in order of time."""
    watches = tuple(watches) or (make_watch(),)
    sites = tuple(sites) or (make_site(),)
    comms = tuple(dict.fromkeys(row.comm for row in rows))
    width = max(8, *(-(-watch.variable.length // 8) * 8 for watch in watches))

    def values(which: str) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        columns = np.zeros((len(rows), width), np.uint8)
        for number, row in enumerate(rows):
            value = getattr(row, which)
            if isinstance(value, int):
                length = watches[row.watch].variable.length
                value = (value & (1 << 8 * length) - 1).to_bytes(length, "little")
            columns[number, : len(value or b"")] = np.frombuffer(value or b"", np.uint8)
        return columns

    return from_columns(
        watches, sites, comms, tuple(stacks),
        time_ns=np.array([START + row.time for row in rows], np.int64),
        cpu=np.array([row.cpu for row in rows], np.int32),
        pid=np.array([row.pid for row in rows], np.int32),
        tid=np.array([row.tid for row in rows], np.int32),
        comm=np.array([comms.index(row.comm) for row in rows], np.int32),
        watch=np.array([row.watch for row in rows], np.int32),
        site=np.array([row.site for row in rows], np.int32),
        kind=np.array([KINDS.index(row.kind) for row in rows], np.uint8),
        address=np.array([watches[row.watch].variable.address for row in rows], np.uint64),
        hits=np.array([row.hits for row in rows], np.int32),
        uid=np.array([row.uid for row in rows], np.int64),
        old=values("old"),
        new=values("new"),
        old_known=np.array([row.old is not None for row in rows], np.bool_),
        new_known=np.array([row.new is not None for row in rows], np.bool_),
        stack=np.array([row.stack for row in rows], np.int32),
    )  # fmt: skip


def from_columns(
    watches: tuple[Watch, ...], sites: tuple[Site, ...], comms: tuple[str, ...], stacks: tuple[tuple[Named, ...], ...],
    **columns: Any,
) -> Accesses:  # fmt: skip
    """Accesses of a column for each field of `Traits` and the further ones of `Accesses`."""
    own = [columns.pop(field.name) for field in fields(Traits)]
    trait, first = grouped(*own)
    return Accesses(
        watches, sites, comms, stacks, Traits(*(column[first] for column in own)), trait=trait, **columns
    )
