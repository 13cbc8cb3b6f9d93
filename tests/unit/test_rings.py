# SPDX-License-Identifier: BSD-2-Clause
"""How the memory that may be locked is shared among the rings of all CPUs."""

from __future__ import annotations

import mmap
import resource
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.errors import KsymError
from ksym.watch import rings
from ksym.watch.plan import Plan
from ksym.watch.rings import RING_BYTES, Rings, lockable_pages, shared_size

PAGE = mmap.PAGESIZE


@given(st.integers(1, 1024), st.integers(0, 1 << 20))
def test_all_rings_fit_and_could_not_be_twice_as_large(count: int, pages: int) -> None:
    size = shared_size(count, pages)
    assert size in {PAGE << shift for shift in range(32)}
    assert size <= shared_size(count, None)
    if size > PAGE:
        assert count * (size // PAGE + 1) <= pages
    if size < shared_size(count, None):
        assert count * (2 * size // PAGE + 1) > pages


@pytest.mark.parametrize(
    ("cpus", "memlock", "expected"),
    [(2, 8 << 20, 4 << 20), (4, 8 << 20, 2 << 20), (8, 8 << 20, 1 << 20), (4, 64 << 10, 512 << 10),
     (8, 64 << 10, 512 << 10), (256, 64 << 10, 512 << 10)],
)  # fmt: skip
def test_the_kernels_defaults(
    cpus: int, memlock: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an ordinary user: 516 kB a CPU, and the limit on locked memory once."""
    texts = {
        "/proc/self/status": "Name:\tx\nCapEff:\t0000000000000000\n",
        "/proc/sys/kernel/perf_event_paranoid": "2\n",
        "/proc/sys/kernel/perf_event_mlock_kb": "516\n",
    }
    monkeypatch.setattr(rings, "read_text", texts.__getitem__)
    monkeypatch.setattr(rings, "online_cpus", lambda: list(range(cpus)))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (memlock, memlock))
    pages = lockable_pages()
    assert pages == 129 * cpus + memlock // PAGE
    assert shared_size(cpus, pages) == expected
    texts["/proc/self/status"] = "CapEff:\t0000000000004000\n"
    assert lockable_pages() is None


def of_cpus(made: Rings) -> list[Any]:
    """All but what passes for a ring."""
    return [ring for ring in made.rings if ring.cpu >= 0]


class Kernel:
    """Lets so many pages be locked, of which it tells nobody."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.events: list[Any] = []
        self.next_id = 0

    def event(self, attr: Any, *, pid: int, cpu: int) -> Any:
        self.next_id += 1
        event = SimpleNamespace(id=self.next_id, cpu=cpu, fd=self.next_id, attr=attr)
        event.close = lambda: self.events.remove(event)
        event.output_to = lambda owner: None
        self.events.append(event)
        return event

    def ring(self, event: Any, size: int) -> Any:
        needed = size // PAGE + 1
        if needed > self.pages:
            raise PermissionError(1, "Operation not permitted")
        self.pages -= needed

        def close() -> None:
            self.pages += needed

        return SimpleNamespace(cpu=event.cpu, size=size, close=close)


@pytest.fixture
def kernel_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Kernel]:
    def make(pages: int) -> Kernel:
        kernel = Kernel(pages)
        monkeypatch.setattr(rings, "PerfEvent", kernel.event)
        monkeypatch.setattr(rings, "Ring", kernel.ring)
        monkeypatch.setattr(rings, "lockable_pages", lambda: None)
        return kernel

    return make


def opened(cpus: int) -> Rings:
    made = Rings(Plan(()), cpus, stacks=False, names_user_code=False, size=0, engine=None)
    made.open([(7, cpu) for cpu in range(cpus)], may_vanish=False)
    return made


@given(cpus=st.integers(1, 9), pages=st.integers(0, 5000))
def test_where_others_hold_some_of_it_all_become_smaller(cpus: int, pages: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kernel = Kernel(pages)
        patch.setattr(rings, "PerfEvent", kernel.event)
        patch.setattr(rings, "Ring", kernel.ring)
        patch.setattr(rings, "lockable_pages", lambda: None)
        if pages < 2 * cpus:
            with pytest.raises(
                KsymError, match=r"cannot map \d+ ring buffers?: .*sysctl kernel\.perf_event_mlock_kb="
            ):
                opened(cpus)
            assert (kernel.pages, kernel.events) == (pages, [])
            return
        made = opened(cpus)
        size = shared_size(cpus, pages)
        assert [(ring.cpu, ring.size) for ring in of_cpus(made)] == [(cpu, size) for cpu in range(cpus)]
        assert len(kernel.events) == len(made.sideband_ids) == cpus
        assert {event.attr.wakeup for event in kernel.events} == {size // 4}, "poll(2) would wake too late"
        made.close()
        assert (kernel.pages, kernel.events) == (pages, [])


def test_a_cpu_that_comes_later_gets_what_is_left(kernel_of: Callable[[int], Kernel]) -> None:
    kernel = kernel_of(2 * (RING_BYTES // PAGE + 1) + 5)
    made = opened(2)
    made.open([(7, 2)], may_vanish=False)
    assert [ring.size for ring in of_cpus(made)] == [RING_BYTES, RING_BYTES, 4 * PAGE]
    with pytest.raises(KsymError, match="cannot map 1 ring buffer:"):
        made.open([(7, 3)], may_vanish=False)
    assert len(of_cpus(made)) == len(kernel.events) == 3
