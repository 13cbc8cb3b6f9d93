# SPDX-License-Identifier: BSD-2-Clause
"""Sizes that no machine has, and runs with too little of something: each has its line, and nothing stays planted."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from native import starved
from native.mounting import FILTER, Mounted, mounted
from native.running import ONE_LINE, free, sample, summary
from support.program import environment, ksym

pytestmark = pytest.mark.native

DIGITS, MANY_DIGITS = "9" * 400, "9" * 5000  # more than a float holds; more than int() reads
TOO_LARGE = [
    ("trace", "--limit", DIGITS),
    ("trace", "--limit", MANY_DIGITS),
    ("trace", "--duration", DIGITS),
    ("trace", "--duration", "inf"),
    ("trace", "-C", f"0-{DIGITS}"),
    ("trace", "-p", MANY_DIGITS),
    ("stat", "--limit", str(1 << 64)),
    ("stat", "-I", DIGITS),
    ("record", "--max-size", DIGITS),
    ("record", "--max-size", f"{MANY_DIGITS}.5T"),
    ("record", "--max-size", "9999999999T"),
    ("record", "--flush-ms", DIGITS),
    ("record", "--limit", str(1 << 63)),
]


@pytest.mark.parametrize("words", TOO_LARGE, ids=lambda words: " ".join(words)[:40])
def test_sizes_that_no_machine_has(words: tuple[str, ...]) -> None:
    result = ksym(*words, sample().request, "--", "true")
    assert (result.status, result.out) == (2, "")
    assert ONE_LINE.fullmatch(result.err), result.err


@pytest.mark.parametrize(
    "words",
    [("stat", "-I", "9" * 18), ("stat", "--limit", "9" * 18), ("trace", "--duration", "999999999"),
     ("record", "-o", "/dev/null", "--flush-ms", "9" * 18, "--max-size", "4000000000G")],
    ids=" ".join,
)  # fmt: skip
def test_the_largest_that_are_taken(words: tuple[str, ...]) -> None:
    chosen = sample()
    result = ksym(*words, chosen.request, "--", "cat", str(chosen.file))
    assert result.status == 0, result.err
    assert ", 0 lost, 0 disarmed; " in summary(result.err)


# -- limits of the process -----------------------------------------------------------------------------

MIB = 1 << 20
RUNS = {
    ("NOFILE", "trace"): [*range(5, 64, 7), *range(63, 74, 2), 1 << 10],
    ("NOFILE", "record"): [5, 33, *range(63, 74, 2), 1 << 10],
    ("NOFILE", "stat"): [5, 33, *range(63, 74, 2), 1 << 10],
    ("AS", "trace"): [*range(0, 12 * MIB, 2 * MIB), 1 << 30],
    ("MEMLOCK", "trace"): [0, 65536],
}


@pytest.mark.parametrize(("what", "verb"), RUNS, ids=lambda word: word)
def test_less_and_less_of_something(what: str, verb: str, tmp_path: Path) -> None:
    """Each step of a run meets the limit once; it says so, or comes to its end. What fails leaves no file."""
    file = tmp_path / "x.data"
    words = [verb, *(["-f", "-o", str(file)] if verb == "record" else []), sample().request, "--", "true"]
    limits = RUNS[what, verb]
    done = subprocess.run(
        [sys.executable, starved.__file__, what, json.dumps(limits), *words],
        env=environment(), stdout=subprocess.PIPE, text=True, timeout=120,
    )  # fmt: skip
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [limit for limit, _, _ in results] == limits
    for limit, status, said in results:
        if status == 0:
            assert ", 0 lost, 0 disarmed; " in summary(said), limit
        else:
            assert status == 125, (limit, status, said)
            assert ONE_LINE.fullmatch(said), (limit, said)
            assert ("open files" in said) if what == "NOFILE" else ("memory" in said), (limit, said)
    refused = {status for _, status, _ in results[:1]}
    assert refused == ({0} if what == "MEMLOCK" else {125})  # root has no limit on locked memory
    assert results[-1][1] == 0


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Mounted]:
    with mounted(tmp_path / "it") as found:
        yield found


def space(pid: int) -> int:
    """Bytes of address space of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.mark.parametrize("what", ["NOFILE", "AS"])
def test_a_tracing_directory_with_less_and_less(it: Mounted, what: str) -> None:
    """It refuses what it cannot plant, keeps nothing of it, and goes on to its end."""
    variable, pid = sample(), it.process.pid
    number = getattr(resource, f"RLIMIT_{what}")
    it.write(FILTER, f"{variable.request}:rw-\n")  # what is loaded once, is
    it.write(FILTER, "0\n")

    def descriptors() -> list[str]:
        return sorted(os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir())

    before = descriptors()
    least, most, step = len(before), len(before) + 64, 4
    if what == "AS":
        least, most, step = space(pid), space(pid) + 16 * MIB, 2 * MIB
    numbers = []
    for limit in range(most, least - 1, -step):  # not even root may always raise it again
        resource.prlimit(pid, number, (limit, limit))
        try:
            it.write(FILTER, f"{variable.request}:rw-\n")
        except OSError as error:
            numbers.append(error.errno)
            why = it.read("error_log").splitlines()[-3]
            known = ("open files",) if what == "NOFILE" else ("no memory", "leaves no room")
            assert any(each in why for each in known), why
        else:
            numbers.append(0)
            it.write(FILTER, "0\n")
        assert it.read(FILTER) == ""
        assert descriptors() == before
        assert min(free()) == 4
    refused = errno.EMFILE if what == "NOFILE" else errno.ENOMEM
    assert (numbers[0], numbers[-1]) == (0, refused)
    assert set(numbers) == {0, refused}


@pytest.mark.parametrize("size", ["4611686018427387904", "18446744073709551616", "9" * 400, "-1", "1e3", "0"])
def test_buffers_that_no_memory_holds(it: Mounted, size: str) -> None:
    before = it.read("buffer_size_kb")
    with pytest.raises(OSError) as refused:
        it.write("buffer_size_kb", size)
    assert refused.value.errno == (errno.ENOMEM if len(size) in (19, 20) else errno.EINVAL)
    assert it.read("buffer_size_kb") == before
    assert len(it.read("error_log").splitlines()) == 3
