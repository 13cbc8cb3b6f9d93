# SPDX-License-Identifier: BSD-2-Clause
"""``make bench``: measure, print one table, write build/bench.json and build/bench.svg."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.figures import FIGURES
from bench.picture import caption, picture
from bench.report import Row, table, write_json
from bench.runner import PACKAGES, ROOT, BenchError, version
from bench.workload import Bench, build_loop, build_loops, find_kernel_variable, online_cpus


def main(argv: Sequence[str] | None = None) -> int:
    """Run the figures that are asked for; 1 if one of them could not be had (being behind is no failure)."""
    parser = _parser()
    args = parser.parse_args(argv)
    unknown = sorted(set(args.figures) - set(FIGURES))
    if unknown:
        parser.error(f"no figure is called {unknown[0]}; there are {', '.join(FIGURES)}")
    if os.geteuid() != 0:
        print("bench: kernel variables can be watched by root alone; run it with sudo", file=sys.stderr)
        return 1
    machine = _machine() | {"quick": args.quick}
    print(" ".join(f"{name}: {value};" for name, value in machine.items()).rstrip(";"), flush=True)
    try:
        rows, failed = _measure(args.figures or list(FIGURES), quick=args.quick)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    machine["load after"] = _load()
    print(table(rows))
    write_json(args.json, rows, machine)
    drawn = args.json.with_suffix(".svg")
    drawn.write_text(picture(rows, caption(machine)))
    print(f"all values: {os.path.relpath(args.json)}, as a picture: {os.path.relpath(drawn)}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="Measure what ksym costs, and its peers.")
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--json", type=Path, metavar="FILE", default=ROOT / "build" / "bench.json")
    return parser


def _measure(names: Sequence[str], *, quick: bool) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="ksym-bench-") as temporary:
        folder = Path(temporary)
        bench = Bench(folder, build_loop(folder), build_loops(folder), find_kernel_variable(), quick)
        for name in names:
            started = time.monotonic()
            try:
                rows += [replace(row, figure=name) for row in FIGURES[name](bench)]
            except BenchError as error:
                failed = True
                rows.append(Row(name, "", remark=f"FAILED: {error}", figure=name))
            print(f"bench: {name} took {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return rows, failed


def _machine() -> dict[str, Any]:
    facts = {
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cpus": online_cpus(),
        "date": time.strftime("%Y-%m-%d"),
        "load before": _load(),
        "python": platform.python_version(),
    }
    return facts | {tool: version(tool) for tool in PACKAGES}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _load() -> float:
    return os.getloadavg()[0]


if __name__ == "__main__":
    sys.exit(main())
