# SPDX-License-Identifier: BSD-2-Clause
"""Accesses that exports are made of, and exports made of them."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from ksym.capture.sites import Named
from ksym.recording.accesses import KINDS, Accesses
from ksym.symbols.types import Array, Encoding, Enum, Field, Float, Integer, Pointer, Struct, Type
from ksym.views.bulk import bulk_rows_for, texts
from support.accesses import Row, make_accesses, make_site, make_watch

DAY = 86_400 * 10**9
INT = Integer("int", 4, signed=True)
CHAR = Integer("char", 1, True, Encoding.CHAR)
STATE = Enum("enum state", 4, False, (("IDLE", 0), ("BUSY", 1)))
POINT = Struct("struct point", 8, False, lambda: (Field("x", INT, 0), Field("y", INT, 4)))
KINDS_OF_VALUES: dict[str, tuple[Type, list[bytes]]] = {
    "signed": (INT, [b"\xff\xff\xff\xff", b"\x05\0\0\0"]),
    "unsigned": (Integer("u64", 8, signed=False), [b"\xff" * 8, b"\1" + bytes(7)]),
    "truth": (Integer("bool", 1, False, Encoding.BOOL), [b"\1", b"\0"]),
    "state": (STATE, [b"\1\0\0\0", b"\x07\0\0\0"]),
    "real": (Float("double", 8), [np.float64(0.1).tobytes(), np.float64("inf").tobytes()]),
    "text": (Array("char[8]", 8, CHAR, 8), [b"ab\"';,\n\0", b"\xffx\0\0\0\0\0\0"]),
    "point": (POINT, [b"\1\0\0\0\2\0\0\0", b"\xfe\xff\xff\xff\0\0\0\0"]),
    "link": (Pointer("void *", 8, lambda: INT), [bytes(8), b"\xef\xbe\xad\xde\xff\xff\xff\xff"]),
}
HOSTILE = ("task", "semi;colon", 'new\nline "quoted", \x1b[31m', "\udcff")


def everything() -> Accesses:
    """Accesses to variables of all kinds, by threads of all names, on two days; some values are not known."""
    watches = [
        make_watch(f"./prog:{name}", kind, index=index)
        for index, (name, (kind, _)) in enumerate(KINDS_OF_VALUES.items())
    ]
    watches.append(make_watch("./prog:flags", INT, index=len(watches), bits=(3, 4)))
    watches.append(make_watch("mine", INT, index=len(watches), per_cpu={0: 0x4000, 1: 0x5000}))
    contents = [*(values for _, values in KINDS_OF_VALUES.values()), [b"\x58\0\0\0"] * 2, [b"\2\0\0\0"] * 2]
    stacks = ((Named("f", 1, 0, "prog"), Named("main;x", 2, 0, "prog")), (Named(None, 0x401000),))
    made = [
        Row(
            time=number * DAY // 25, kind=KINDS[number % 5], cpu=number % 2, tid=7 + number % 3, pid=7,
            comm=HOSTILE[number % 4], new=contents[watch][number % 2] if number % 7 else None,
            old=contents[watch][1 - number % 2] if number % 5 else None, site=number % 3, watch=watch,
            hits=1 + number % 2, stack=number % 3 - 1, uid=number - 1,
        )
        for number in range(50)
        for watch in [number % len(watches)]
    ]  # fmt: skip
    sites = [
        make_site(),
        make_site(None, 0x99, owner=None, text=None, ip=0x99),
        make_site('"odd"', 3, ip=2**64 - 9),
    ]
    return make_accesses(made, watches=watches, sites=sites, stacks=stacks)


def plain(count: int = 9, kind: str | Type = "long", name: str = "./prog:counter") -> Accesses:
    made = [
        Row(time=1000 * number, kind="RW"[number % 2], new=number * 3 - 6, old=number * 3 - 9)
        for number in range(count)
    ]
    return make_accesses(made, watches=[make_watch(name, kind)])


def as_json(accesses: Accesses) -> list[dict[str, Any]]:
    """What ``ksym script --format json`` prints."""
    printed = "".join(text for text, _ in texts(bulk_rows_for("json", accesses), accesses))
    return [json.loads(line) for line in printed.splitlines()]


def written(write: Any, accesses: Accesses, **more: Any) -> bytes:
    out = io.BytesIO()
    taken: list[int] = []
    write(accesses, out, taken.append, **more)
    assert taken == sorted(taken)
    assert not taken or taken[-1] <= len(accesses)
    return out.getvalue()


EVERYTHING = everything()
SEVERAL = [EVERYTHING, plain(), plain(0), plain(1), EVERYTHING.select(slice(0, 0))]
