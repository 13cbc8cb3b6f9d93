# SPDX-License-Identifier: BSD-2-Clause
"""Recordings to make pages of: small ones row by row, and large ones that a formula makes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np

from ksym.capture.sites import Named
from ksym.recording.accesses import KINDS, Accesses
from ksym.reports import html
from ksym.reports.about import About
from ksym.reports.analysis import Analysis
from ksym.reports.select import Selection
from support.accesses import START, from_columns, make_site, make_watch

READ, WRITE, BOTH = (KINDS.index(kind) for kind in ("R", "W", "RW"))


def page(accesses: Accesses, about: About | None = None, *, sampled: bool = False) -> bytes:
    """The page of these accesses; in place of source lines it has the functions'."""
    file = BytesIO()
    about = about or About("made-up.data", machine={"hostname": "test", "release": "6.1.0", "cpus": 4})
    origin = int(accesses.time_ns[0]) if len(accesses) else 0
    selection = Selection()
    html.write(
        file, about, Analysis(accesses, selection, sampled=sampled), selection,
        lambda site: f"{site.named.function}.c:{site.named.offset}", origin,
    )  # fmt: skip
    return file.getvalue()


def write_page(folder: Path, accesses: Accesses, name: str = "page.html", *, sampled: bool = False) -> Path:
    """The same as a file."""
    path = folder / name
    path.write_bytes(page(accesses, sampled=sampled))
    return path


def many(count: int) -> Accesses:
    """So many accesses, one each microsecond, to a counter: a reader and two writers on three CPUs, with stacks.

    Access i is a read where i is a multiple of 4, else a write of i; every 16th write is silent.
    """
    at = np.arange(count)
    reads = at % 4 == 0
    silent = ~reads & (at % 16 == 1)
    new = np.maximum.accumulate(np.where(reads | silent, 0, at))
    old = np.concatenate(([0], new))[:count]
    who = np.where(reads, 0, 1 + at // 1000 % 2).astype(np.int32)
    values = [np.ascontiguousarray(column, "<u8").view(np.uint8).reshape(count, 8) for column in (old, new)]
    known = np.ones(count, np.bool_)
    callers = (
        *(Named(f"level{depth}", 4 * depth, 64, "prog") for depth in range(5)),
        Named("main", 16, 64, "prog"),
    )
    stacks = tuple((Named(name, 8, 64, "prog"), *callers) for name in ("reader", "writer", "writer_two"))
    return from_columns(
        (make_watch(kind="unsigned long"),),
        (
            make_site("reader", 0x10, text="mov rax,[rip+0x2f00]", kind="R"),
            make_site("writer", 0x20, text="mov [rip+0x2f00],rax", ip=0x401020),
            make_site("writer_two", 0x30, text="lock add [rip+0x2f00],rax", ip=0x401030),
        ),
        ("reader", "writer", "writer"),
        stacks,
        time_ns=START + 1000 * at.astype(np.int64) + at % 7,
        cpu=who, pid=np.full(count, 100, np.int32), tid=100 + who, comm=who, watch=np.zeros(count, np.int32),
        site=who, kind=np.where(reads, READ, np.where(who == 1, WRITE, BOTH)).astype(np.uint8),
        address=np.full(count, 0x4000, np.uint64), hits=np.ones(count, np.int32), uid=np.full(count, -1, np.int64),
        old=values[0], new=values[1], old_known=known, new_known=known, stack=who,
    )  # fmt: skip
