# SPDX-License-Identifier: BSD-2-Clause
"""A recording of ksym's that was damaged in one to four places: its rows are a prefix of the true ones, or an error.

The input is the damage: a byte for the recording, then ten a step. It is not the file, as damage upon damage without
end makes any file, for which no row is wrong.
"""

from __future__ import annotations

import functools
import struct

from fuzz import targets
from fuzz.contract import Broken
from fuzz.target_perf_data import machine, opened, rows, told
from ksym.errors import KsymError

LONGEST = 41
_STEP = struct.Struct("<BBHHHH")
_WORDS = (0, 0xFF, 0xFFFFFFFF, 1 << 31, (1 << 64) - 1, 1 << 16, 9, 1 << 63)


def run(data: bytes) -> None:
    """Read the damaged recording, and compare its rows."""
    with machine():
        _read(data)


def _read(data: bytes) -> None:
    seeds = _seeds()
    name = sorted(seeds)[data[0] % len(seeds)] if data else min(seeds)
    whole, true = seeds[name]
    damaged = damage(whole, data[1:])
    recording = opened(damaged)
    if recording is None:
        return
    try:
        found = rows("json", recording.accesses()).splitlines()
    except KsymError as error:
        told(error)
        return
    if found and not recording.by_ksym:
        raise Broken("taken for perf's")
    if found != true[: len(found)]:
        raise Broken("a wrong row")
    if len(found) < len(true) and recording.cut is None:
        raise Broken("rows are missing, and nothing is said of it")


def damage(data: bytes, steps: bytes) -> bytes:
    """Do what the steps say."""
    out = bytearray(data)
    for start in range(0, min(len(steps), 4 * _STEP.size) - _STEP.size + 1, _STEP.size):
        kind, value, where, other, size, _ = _STEP.unpack_from(steps, start)
        at, source = where * len(out) >> 16, other * len(out) >> 16
        match kind % 8:
            case 0:
                out[at : at + 1] = bytes([value])
            case 1:
                at -= at % 8
                out[at : at + 8] = _WORDS[value % len(_WORDS)].to_bytes(8, "little")
            case 2:
                del out[at : at + size % 512]
            case 3:
                out[at : at + 64] = out[source : source + 64]
            case 4:
                out[at:at] = out[source : source + size % 512]
            case 5:
                del out[at:]
            case 6:  # sectors that never reached the disk
                at -= at % 512
                out[at : at + 512] = bytes(len(out[at : at + 512]))
            case 7:
                out[at : at + 1] = bytes([out[at] ^ 1 << value % 8]) if at < len(out) else b""
        if not out:
            break
    return bytes(out)


@functools.cache
def _seeds() -> dict[str, tuple[bytes, list[str]]]:
    found = {}
    for path in targets.seeds("perf_data"):
        data = path.read_bytes()
        if path.name.startswith("ksym"):
            recording = opened(data)
            assert recording is not None, path
            assert recording.by_ksym
            found[path.name] = data, rows("json", recording.accesses()).splitlines()
    return found
