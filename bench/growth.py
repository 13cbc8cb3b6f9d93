# SPDX-License-Identifier: BSD-2-Clause
"""How the costs grow: with hits, with watches, with CPUs, and with the symbols among which a name is looked for.

A point a row, each beside the peer at the same point: where the ratios of a group stay level, ksym grows as the
peer does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.report import Row
from bench.runner import (
    BenchError,
    Done,
    in_turns,
    ksym,
    missing,
    perf_record,
    perf_samples,
    run,
    summary,
)
from bench.workload import Bench, Loops, address, compiled, loop_source, loop_times, loops_times, online_cpus

REGISTERS = 4


def growth(bench: Bench) -> list[Row]:
    """How the costs grow with hits, watches, CPUs and symbols."""
    return [*_hits(bench), *_watches(bench), *_cpus(bench), *_symbols(bench)]


def _hits(bench: Bench) -> list[Row]:
    """The cost of a hit over ever longer runs of ``trace``, and the memory that these take."""
    most = 100_000 if bench.quick else 1_000_000
    rows, sizes = [], dict[int, list[float]]()
    for accesses in (most // 1000, most // 100, most // 10, most):
        command = bench.loop.command(accesses)
        rows_of = partial(_traced, bench, [bench.loop.request], command, accesses)
        peer = partial(_perf_recorded, bench, [bench.loop.perf_event], command)
        pairs = _pairs(rows_of, "perf", peer, 3)
        rows.append(_row(f"{accesses:,} hits, trace: cost a hit", "ns", pairs, "perf record", _loop_ns))
        sizes[accesses] = [done.rss_kib / 1024 for done, _ in pairs]
    memory = Row(
        f"{most:,} hits, trace: largest resident set", "MiB", sizes[most],
        f"with {most // 1000:,} hits", sizes[most // 1000], note="",
    )  # fmt: skip
    return [*rows, memory]


def _watches(bench: Bench) -> list[Row]:
    """The cost of a hit, and the way to armed, with one to four watches."""
    source, program = bench.folder / "several.c", bench.folder / "several"
    # The loop writes all of them, whichever are watched.
    names = [f"v{number}" for number in range(REGISTERS)]
    source.write_text(loop_source(*names))
    compiled(source, program)
    accesses, count = (3_000, 3) if bench.quick else (20_000, 7)
    cost, way = [], []
    for watches in range(1, REGISTERS + 1):
        requests = [f"{program}:{name}:-w-" for name in names[:watches]]
        addresses = [address(program, name) for name in names[:watches]]
        events = [f"mem:{each:#x}/8:wu" for each in addresses]
        traced = partial(_traced, bench, requests, [str(program), str(accesses)], accesses * watches)
        recorded = partial(_perf_recorded, bench, events, [str(program), str(accesses)])
        pairs = _pairs(traced, "perf", recorded, count)
        cost.append(
            _row(
                f"{_many(watches, 'watch', 'watches')}, trace: cost a hit", "ns", pairs, "perf record",
                partial(_loop_ns, share=1 / watches),
            )
        )  # fmt: skip
        armed = partial(run, ksym("trace", *requests, "--", str(program), "0"))
        pairs = _pairs(armed, "bpftrace", partial(_bpftraced, addresses, program), count)
        way.append(
            _row(
                f"{_many(watches, 'watch', 'watches')}, trace: whole process", "ms", pairs, "bpftrace",
                _wall_ms,
            )
        )  # fmt: skip
    return [*cost, *way]


def _cpus(bench: Bench) -> list[Row]:
    """Hits on one CPU, and on all of them at once: what all threads together get through."""
    each, count = (20_000, 3) if bench.quick else (200_000, 5)
    rows = []
    for cpus in sorted({1, online_cpus()}):
        loops = replace(bench.loops, most=cpus)
        pairs = _pairs(
            partial(_loops_recorded, bench, loops, each * cpus),
            "perf",
            partial(_loops_perf_recorded, bench, loops, each * cpus),
            count,
        )
        what = f"hits on {_many(cpus, 'CPU', 'CPUs')}, record: time of {each:,} hits on each"
        rows.append(_row(what, "ms", pairs, "perf record", _loops_ms))
    return rows


def _symbols(bench: Bench) -> list[Row]:
    """A run of a program that does nothing, for a variable whose name is to be found among more and more."""
    most, count = (100_000, 3) if bench.quick else (1_000_000, 5)
    rows = []
    for symbols in (most // 1000, most // 10, most):
        program, name = _with_symbols(bench.folder, symbols), f"v{symbols // 2}"
        ours = partial(run, ksym("stat", f"{program}:{name}:-w-", "--", str(program)))
        pairs = _pairs(ours, "gdb", partial(_gdb_watched, program, name), count)
        rows.append(_row(f"1 of {symbols:,} symbols, stat: whole process", "ms", pairs, "gdb", _wall_ms))
        program.unlink()
    return rows


def _with_symbols(folder: Path, count: int) -> Path:
    source, program = folder / "symbols.s", folder / f"symbols{count}"
    with source.open("w") as file:
        file.write(
            '.section .note.GNU-stack,"",@progbits\n.text\n.globl main\nmain: xorl %eax, %eax\nret\n.data\n'
        )
        for number in range(count):
            file.write(
                f".globl v{number}\n.type v{number}, @object\n.size v{number}, 8\nv{number}: .quad 0\n"
            )
    compiled(source, program)
    return program


def _gdb_watched(program: Path, name: str) -> Done:
    # The symbols have no types there; a cast of the value instead of its place would make gdb single-step.
    done = run(["gdb", "-nx", "-q", "-batch", "-ex", f"watch *(long *)&{name}", "-ex", "run", str(program)])
    if not re.search(r"^Hardware watchpoint 1: ", done.stdout, re.MULTILINE):
        raise BenchError(f"gdb did not watch {name}: {(done.stdout + done.stderr)[-200:]!r}")
    return done


def _traced(bench: Bench, requests: Sequence[str], command: Sequence[str], accesses: int) -> Done:
    file = bench.folder / "rows"
    done = run(ksym("trace", "-q", "-f", "-o", str(file), *requests, "--", *command))
    _all_of(accesses, done)
    file.unlink()
    return done


def _all_of(accesses: int, done: Done) -> None:
    hits, lost = summary(done.stderr)
    if (hits, lost) != (accesses, 0):
        raise BenchError(f"ksym: {accesses} hits expected, but {hits}, and {lost} lost")


def _perf_recorded(bench: Bench, events: Sequence[str], command: Sequence[str]) -> Done:
    return run([*perf_record(",".join(events), bench.folder / "perf.data"), *command])


def _bpftraced(addresses: Sequence[int], program: Path) -> Done:
    """Rows of a kind, as trace has them; no access is made."""
    script = " ".join(
        f'watchpoint:{each:#x}:8:w {{ printf("%s %d %d\\n", comm, tid, cpu); }}' for each in addresses
    )
    return run(["bpftrace", "-e", script, "-c", f"{program} 0"])


def _loops_recorded(bench: Bench, loops: Loops, accesses: int) -> Done:
    file = bench.folder / "record.data"
    done = run(ksym("record", "-q", "-f", "-o", str(file), loops.request, "--", *loops.command(accesses)))
    _all_of(loops_times(done.stdout).hits, done)
    file.unlink()
    return done


def _loops_perf_recorded(bench: Bench, loops: Loops, accesses: int) -> Done:
    file = bench.folder / "perf.data"
    done = run([*perf_record(loops.perf_event, file), *loops.command(accesses)])
    if (held := perf_samples(file)) < loops_times(done.stdout).hits * 0.999:
        raise BenchError(f"perf record has {held} of {loops_times(done.stdout).hits} hits")
    file.unlink()
    return done


def _loop_ns(done: Done, share: float = 1.0) -> float:
    return loop_times(done.stdout).ns_per_access * share


def _wall_ms(done: Done) -> float:
    return done.wall_ms


def _loops_ms(done: Done) -> float:
    return loops_times(done.stdout).seconds * 1000


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _pairs(
    ours: Callable[[], Done], tool: str, peer: Callable[[], Done], count: int
) -> list[tuple[Done, Done | None]]:
    return in_turns(ours, None if missing(tool) else peer, count)


def _row(
    what: str, unit: str, pairs: Sequence[tuple[Done, Done | None]], peer: str, value: Callable[[Done], float]
) -> Row:
    return Row(
        what, unit, [value(ours) for ours, _ in pairs], peer,
        [value(other) for _, other in pairs if other is not None], note=missing(peer.split()[0]) or "",
    )  # fmt: skip
