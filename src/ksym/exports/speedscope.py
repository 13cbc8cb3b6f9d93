# SPDX-License-Identifier: BSD-2-Clause
"""JSON for https://www.speedscope.app: a profile a thread, of its accesses in their order.

Format: "Importing from custom sources" in speedscope's wiki, and its schema, file-format-spec.ts. A sample is a run of
accesses with the same chain, and weighs as many; so time is counted in accesses.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from ksym import __version__
from ksym.exports.flames import chains
from ksym.recording.accesses import Accesses
from ksym.reports.comparable import number
from ksym.views.text import as_json

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def write(accesses: Accesses, out: BinaryIO, step: Callable[[int], None] = lambda done: None) -> None:
    """Write the profiles.

    Args:
        accesses: The accesses.
        out: The file, open for writing.
        step: Told how many have been taken.

    Raises:
        OSError: it cannot be written.
    """
    found = chains(accesses)
    frames: dict[str, int] = {}
    samples = [
        json.dumps([frames.setdefault(name, len(frames)) for name in chain], separators=(",", ":"))
        for chain in found.chains
    ]
    shared = as_json({"frames": [{"name": name} for name in frames]})
    head = {"$schema": _SCHEMA, "exporter": f"ksym {__version__}", "name": "accesses"}
    out.write(f'{json.dumps(head)[:-1]}, "shared": {shared}, "profiles": ['.encode())
    threads = number((accesses.pid.astype(np.int64) << 32) | accesses.tid)
    done = 0
    for code in range(len(threads)):
        here = np.flatnonzero(threads.codes == code)
        codes = found.codes[here]
        starts = np.flatnonzero(np.concatenate(([True], codes[1:] != codes[:-1])))
        weights = np.diff(np.append(starts, len(codes)))
        name = f"{accesses.comms[accesses.comm[here[-1]]]}-{accesses.tid[here[-1]]}"
        profile = {"type": "sampled", "name": name, "unit": "none", "startValue": 0, "endValue": len(codes)}
        out.write(
            f"{',' if code else ''}\n{as_json(profile)[:-1]}, "
            f'"samples": [{",".join(map(samples.__getitem__, codes[starts].tolist()))}], '
            f'"weights": {weights.tolist()}}}'.encode()
        )
        done += len(codes)
        step(done)
    out.write(b"\n]}\n")
