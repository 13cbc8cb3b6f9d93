# SPDX-License-Identifier: BSD-2-Clause
"""Run the fuzzers: ``python -m fuzz [TARGET...] [--runs N] [--jobs N] [--work FOLDER] [--totals FILE] [--resume]``.

Exits with 1 where a contract was broken; the inputs that broke it are in FOLDER/TARGET/found, and what happened in
FOLDER/TARGET/faults. Mend it, and put the input into tests/fuzz/found/TARGET. ``python -m fuzz.keep`` makes seeds of
the small inputs that reached new code.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

from fuzz import targets

_STEP = 50_000
"""Executions of a child before it is another target's turn; what it found is kept."""


class Campaign:
    """All runs of one target.

    Args:
        name: The target's.
        work: Where what it finds is kept.
        runs: How many executions it is to have.
        resume: Count what was done there before; else what was found is forgotten, and what reached new code is kept.
    """

    def __init__(self, name: str, work: Path, runs: int, *, resume: bool) -> None:
        self.name, self.folder, self.runs = name, work / name, runs
        self.crashes = 0
        self.child: subprocess.Popen[bytes] | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            shutil.rmtree(self.folder / "found", ignore_errors=True)
            for file in ("count", "faults"):
                (self.folder / file).unlink(missing_ok=True)

    @property
    def executions(self) -> int:
        """How many inputs were tried."""
        with contextlib.suppress(OSError, struct.error):
            return int(struct.unpack("<Q", (self.folder / "count").read_bytes())[0])
        return 0

    @property
    def faults(self) -> list[str]:
        """What was found."""
        with contextlib.suppress(OSError):
            return (self.folder / "faults").read_text().splitlines()
        return []

    @property
    def wants(self) -> bool:
        """Whether it has still to run."""
        return self.executions < self.runs and self.crashes < 20

    def start(self) -> None:
        """Go on."""
        command = [
            sys.executable, "-m", "fuzz.child", self.name, str(self.folder),
            str(min(_STEP, self.runs - self.executions)),
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ended(self) -> bool:
        """Whether the child is gone; one that crashed left an input beside the log."""
        if self.child is None or self.child.poll() is None:
            return False
        self.crashes += self.child.returncode != 0
        self.child = None
        return True

    def line(self) -> str:
        """How it stands."""
        return f"{self.name:<13} {self.executions:>9,} executions, {len(self.faults)} faults, {self.crashes} crashes"


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets.NAMES)}; default: all"
    )
    parser.add_argument("--runs", type=int, default=20_000, help="executions of each")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--work", type=Path, default=Path("build/fuzz"), help="where what they find is kept")
    parser.add_argument("--totals", type=Path, help="a file that tells how it stands")
    parser.add_argument("--resume", action="store_true", help="count what earlier runs in FOLDER did")
    args = parser.parse_args()
    if unknown := set(args.targets) - set(targets.NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    campaigns = [
        Campaign(name, args.work, args.runs, resume=args.resume) for name in args.targets or targets.NAMES
    ]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the children end with this one
    try:
        _run(campaigns, args.jobs, args.totals)
    finally:
        for each in campaigns:
            if each.child:
                each.child.kill()
                each.child.wait()
    print(_totals(campaigns), end="")
    return int(any(each.faults or each.crashes for each in campaigns))


def _run(campaigns: list[Campaign], jobs: int, totals: Path | None) -> None:
    queue, running = list(campaigns), list[Campaign]()
    while queue or running:
        while queue and len(running) < jobs:
            campaign = queue.pop(0)
            if campaign.wants:
                campaign.start()
                running.append(campaign)
        time.sleep(0.2)
        for campaign in [each for each in running if each.ended()]:
            running.remove(campaign)
            queue.append(campaign)
        if totals:
            draft = totals.with_name(f"{totals.name}.new")
            draft.write_text(_totals(campaigns))
            draft.replace(totals)


def _totals(campaigns: list[Campaign]) -> str:
    lines = []
    for campaign in campaigns:
        lines += [campaign.line(), *(f"    {fault}" for fault in campaign.faults)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
