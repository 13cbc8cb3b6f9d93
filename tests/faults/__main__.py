# SPDX-License-Identifier: BSD-2-Clause
"""``python -m faults kills [--count N] [--seed N] [--only WORDS]`` and ``python -m faults soak [--hits N]``."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from faults.cases import cases
from faults.kills import Kit, campaign
from faults.soak import SoakError, soak
from ksym.commands.samples import PARAMETERS, SYSCTLS, find_sample


def main() -> int:
    """Run what is asked for; 1 where something was found to be wrong."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    kills = verbs.add_parser("kills", help="kill ksym")
    kills.add_argument("--count", type=int, default=200, help="how often (default: 200)")
    kills.add_argument("--seed", type=int, default=1, help="of chance (default: 1)")
    kills.add_argument(
        "--only", default="", metavar="WORDS", help="the runs alone whose command line has these"
    )
    kills.add_argument("-v", "--verbose", action="store_true", help="tell of each")
    long_run = verbs.add_parser("soak", help="a run of very many hits")
    long_run.add_argument("--hits", type=int, default=100_000_000, help="how many (default: 100000000)")
    args = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # nothing of a run is left behind
    return run_kills(args) if args.verb == "kills" else run_soak(args.hits)


def run_kills(args: argparse.Namespace) -> int:
    """Kill, and say what became of it."""
    begun = time.monotonic()
    chosen = [case for case in cases() if args.only in str(case)]
    hits: Counter[str] = Counter()
    moments: Counter[str] = Counter()
    wrong = ended = 0
    with tempfile.TemporaryDirectory(prefix="ksym-kills-") as name:
        kit = Kit(Path(name), find_sample((*PARAMETERS, *SYSCTLS)))
        for kill in campaign(kit, chosen, args.count, args.seed):
            if not kill.hit:
                ended += 1
            else:
                hits[kill.case.verb] += 1
                moments["at random" if kill.moment.startswith("after") else "at an event"] += 1
            if args.verbose or kill.problems:
                print(f"{'killed' if kill.hit else 'ended '} {kill.case}  {kill.moment}", flush=True)
            for problem in kill.problems:
                print(f"  WRONG: {problem}", flush=True)
            wrong += bool(kill.problems)
    print(
        f"{hits.total()} kills (seed {args.seed}): "
        + ", ".join(f"{verb} {n}" for verb, n in sorted(hits.items()))
    )
    print(
        f"  {moments['at random']} at random, {moments['at an event']} at an event; {ended} runs ended before"
    )
    print(f"  {wrong} left something behind; {time.monotonic() - begun:.0f} s")
    return 1 if wrong else 0


def run_soak(hits: int) -> int:
    """Run, and say what came of it."""
    begun, total = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="ksym-soak-") as name:
        try:
            for outcome in soak(Path(name), find_sample((*PARAMETERS, *SYSCTLS)), hits):
                print(outcome, flush=True)
                total += outcome.counted
        except SoakError as error:
            print(f"WRONG: {error}")
            return 1
    print(f"soak: {total:,} hits, all shown or told as lost, memory flat; {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
