# SPDX-License-Identifier: BSD-2-Clause
"""Fetch stock Debian kernels and run commands in them.

Exit status of ``run``: the command's own; 124 at the time limit; 125 if the guest died; 126 if it
could not be started.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from lab.kernel import LabError
from lab.kernel.boot import CPUS, End, missing, run
from lab.kernel.fetch import cached, fetch, guest_root
from lab.kernel.initramfs import Job
from lab.kernel.kernels import KERNELS, chosen

STATUS = {End.TIME_LIMIT: 124, End.HUNG: 124, End.DIED: 125}
NOT_STARTED = 126


def main() -> int:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(prog="python -m lab.kernel", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="show the kernels of the suite, and what the cache has of them")
    verb = verbs.add_parser("fetch", help="download kernels")
    verb.add_argument("names", nargs="*", metavar="NAME", help="from the list, or all (default: quick set)")
    verb = verbs.add_parser("run", help="run a command as root in a kernel")
    verb.add_argument("--kernel", default="", metavar="NAME", help="from the list (default: a quick one)")
    verb.add_argument(
        "--rw", action="append", default=[], type=Path, metavar="DIR", help="keep what it writes"
    )
    verb.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="add to its environment"
    )
    verb.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="(default: 600)")
    verb.add_argument("--kaslr", action="store_true", help="randomise the kernel's addresses")
    verb.add_argument("--console", action="store_true", help="show what the kernel said, and the times taken")
    verb.add_argument(
        "--cpus", type=int, default=CPUS, metavar="N", help=f"CPUs of the guest (default: {CPUS})"
    )
    verb.add_argument("command", nargs="+", metavar="-- COMMAND")
    words = parser.parse_args()
    try:
        if words.verb == "run":
            return _run(words)
        return _list() if words.verb == "list" else _fetch(words)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return NOT_STARTED
    except KeyboardInterrupt:
        return 130


def _list() -> int:
    for kernel in KERNELS:
        image = cached(kernel)
        marks = " ".join(mark for mark in ("quick", "kaslr") if getattr(kernel, mark))
        have = image.release if image else "-"
        print(f"{kernel.name:20} {kernel.suite:18} {kernel.package:30} {have:28} {marks}".rstrip())
    return 0


def _fetch(words: argparse.Namespace) -> int:
    for kernel in chosen(" ".join(words.names)):
        print(f"{kernel.name:20} {fetch(kernel).release}")
    return 0


def _run(words: argparse.Namespace) -> int:
    kernel = chosen(words.kernel)[0]
    lacks = missing(kernel.machine)
    if lacks:
        raise LabError(f"not installed: {', '.join(lacks)}")
    for directory in words.rw:
        directory.mkdir(parents=True, exist_ok=True)
    image = fetch(kernel)
    root = guest_root(image)
    job = Job(
        argv=words.command,
        environment=dict(word.split("=", 1) for word in words.env),
        readable=root.needs,
        writable=[directory.resolve() for directory in words.rw],
        limit=words.limit,
    )
    kaslr = words.kaslr or kernel.kaslr
    outcome = run(
        image, job, sys.stdout.buffer, sys.stderr.buffer, kaslr=kaslr, root=root.directory, cpus=words.cpus
    )
    if outcome.status is None or words.console:
        print(outcome.tail, file=sys.stderr)
        ready = "never" if outcome.ready is None else f"after {outcome.ready:.1f} s"
        line = f"{outcome.end.value}; ready {ready}, {outcome.seconds:.1f} s in all"
        print(f"lab: {kernel.name}: {line}", file=sys.stderr)
    return STATUS.get(outcome.end, outcome.status or 0)


if __name__ == "__main__":
    # As on Ctrl-C: what was started is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
