# SPDX-License-Identifier: BSD-2-Clause
"""Keep as seeds what a campaign found: ``python -m fuzz.keep [TARGET...] [--work FOLDER] [--most BYTES]``.

The small ones of the inputs that take the code along a way which no seed takes, the smallest first.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from fuzz import targets
from fuzz.contract import fault_of

Steps = set[tuple[CodeType, int, int]]
"""From one line of a function to another."""


class _Ways:
    """What of the code a target is about an input makes run."""

    def __init__(self, name: str) -> None:
        self._run = targets.load(name).replay
        self._folders = tuple(f"/ksym/{each.replace('.', '/')}" for each in targets.about(name))
        self._wanted: dict[CodeType, bool] = {}
        self._found: Steps = set()

    def of(self, data: bytes) -> Steps:
        """The steps of one input."""
        self._found = set()
        sys.settrace(self._enter)
        try:
            fault_of(self._run, data, seconds=60)
        finally:
            sys.settrace(None)
        return self._found

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code not in self._wanted:
            self._wanted[code] = any(folder in code.co_filename for folder in self._folders)
        if not self._wanted[code]:
            return None
        last, found = 0, self._found

        def step(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "line":
                found.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step


def main() -> None:
    """Keep what is worth it."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.keep")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument(
        "--work", type=Path, default=Path("build/fuzz"), help="where the campaign's corpora are"
    )
    parser.add_argument("--most", type=int, default=24_000, help="bytes of a target's new seeds in all")
    args = parser.parse_args()
    for name in args.targets or targets.NAMES:
        ways = _Ways(name)
        taken = Counter[tuple[CodeType, int, int]]()
        for path in [*targets.seeds(name), *targets.found(name)]:
            taken.update(ways.of(path.read_bytes()))
        first, size, kept = len(taken), 0, dict[bytes, Steps]()
        for path in sorted((args.work / name / "corpus").glob("*"), key=lambda path: path.stat().st_size):
            data = path.read_bytes()
            if size + len(data) > args.most:
                break
            found = ways.of(data)
            if not all(map(taken.__contains__, found)):
                kept[data] = found
                taken.update(found)
                size += len(data)
        for data, found in list(kept.items()):  # a larger one may do what small ones do
            if all(taken[step] > 1 for step in found):
                taken.subtract(found)
                del kept[data]
        for data in kept:
            label = hashlib.sha1(data, usedforsecurity=False).hexdigest()[:8]
            (targets.FOLDER / "seeds" / name / f"kept-{label}").write_bytes(data)
        size = sum(map(len, kept))
        print(f"{name:<13} {len(kept)} kept, {size:,} bytes, {first:,} -> {len(taken):,} steps", flush=True)


if __name__ == "__main__":
    main()
