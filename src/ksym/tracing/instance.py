# SPDX-License-Identifier: BSD-2-Clause
"""One set of filters with its buffer, options and errors: the tracing directory's own, or one of ``instances/``."""

from __future__ import annotations

import errno
import os
import re
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

from ksym.errors import SHORT_OF, KsymError, NoMemory, Place, Span, UsageError
from ksym.language.request import Request
from ksym.linux.clock import monotonic_ns
from ksym.tracing import layout
from ksym.tracing.buffer import MEMORY_FACTOR, TIME, Buffer, Entry, Marker, most_kilobytes
from ksym.tracing.error_log import ErrorLog
from ksym.tracing.filters import Filters, Plant
from ksym.tracing.layout import Layout, OwnRows, SeedRows
from ksym.tracing.planted import How, Planted

TRACERS = (layout.TRACER, "nop")
FILTER = "ksym_trace_filter"


class Options(NamedTuple):
    """``trace_options``; NAME turns one on, noNAME off.

    Args:
        values: Rows of 2.6.35's table tell what the variable held and holds.
        stacktrace: Rows are followed by call chains.
        twin: A second register for each piece of rw- tells reads from writes, where one is free.
        ksym_format: 2.6.35's table; off: that of ``ksym trace``.
    """

    values: bool = False
    stacktrace: bool = False
    twin: bool = True
    ksym_format: bool = True

    def text(self) -> str:
        """A line an option."""
        return "".join(f"{'' if on else 'no'}{_shown(name)}\n" for name, on in self._asdict().items())

    def changed(self, text: str) -> Options:
        """With the options that ``text`` names.

        Raises:
            UsageError: it names another one.
        """
        options = self
        names = {_shown(name): name for name in self._fields}
        for found in re.finditer(r"\S+", text):
            word = found[0]
            off = word.removeprefix("no") if word.startswith("no") else ""
            name = names.get(word) or names.get(off)
            if name is None:
                raise UsageError(
                    f"cannot set option '{word}'", "there is none of that name",
                    f"it is one of {', '.join(names)}, or no before one",
                    place=Place(text, Span(*found.span())),
                )  # fmt: skip
            options = options._replace(**{name: word in names})
        return options


def _shown(name: str) -> str:
    return name.replace("_", "-")


class Instance:
    """One set of filters and what they catch.

    Args:
        how: How requests are planted, but for what the options say.
        plant: What plants one.
        clock: CLOCK_MONOTONIC in nanoseconds.
    """

    def __init__(self, how: How, plant: Plant = Planted, clock: Callable[[], int] = monotonic_ns) -> None:
        self._clock = clock
        self._base = how
        self.errors = ErrorLog()
        self.buffer = Buffer()
        self.options = Options()
        self._tracer, self._on = TRACERS[0], True
        self._held: list[Entry] = []
        self.opened = 0
        """Files of it that somebody has open."""
        self.closed = False
        """It was removed; who still reaches one of its files gets nothing of it."""
        self.filters = Filters(self._how(self.options), self._told, self._leaving, plant)

    def close(self) -> None:
        """Give all registers back, for good."""
        self.filters.clear()
        self.closed = True

    # -- what it does ------------------------------------------------------------------------------------

    @property
    def tracer(self) -> str:
        """One of TRACERS."""
        return self._tracer

    def set_tracer(self, text: str) -> None:
        """Set ``current_tracer``; another one than before empties the buffer, as in ftrace, and keeps the filters.

        Raises:
            UsageError: there is no such tracer.
        """
        name = text.strip()
        if name not in TRACERS:
            raise UsageError(
                f"cannot set current_tracer to '{name}'", "there is none of that name",
                f"it is one of {', '.join(TRACERS)}",
            )  # fmt: skip
        if name != self._tracer:
            self._tracer = name
            self._switch()
            self.empty()

    @property
    def on(self) -> bool:
        """``tracing_on``."""
        return self._on

    def set_on(self, text: str) -> None:
        """Set ``tracing_on``.

        Raises:
            UsageError: it is neither 0 nor 1.
        """
        word = text.strip()
        if word not in ("0", "1"):
            raise UsageError(
                f"cannot set tracing_on to '{word}'", "it is neither 0 nor 1", "write one of them"
            )
        self._on = word == "1"
        self._switch()

    def _switch(self) -> None:
        self.filters.switch(self._on and self._tracer != "nop")

    def set_options(self, text: str) -> None:
        """Set options; the watches are planted anew where that makes a difference to them.

        Raises:
            KsymError: there is no such option, or they cannot be planted so; nothing has changed then.
        """
        options = self.options.changed(text.strip())
        how = self._how(options)
        if how != self._how(self.options):
            self.filters.replant(how)
        self.options = options

    def set_size(self, text: str) -> None:
        """Set the size of the buffer, in kilobytes for each CPU.

        Raises:
            UsageError: that is no size.
        """
        word = text.strip()
        if not word.isascii() or not word.isdigit() or len(word) > 20 or not int(word):
            raise UsageError(
                f"cannot set the buffer's size to '{word}'", "it is no number from 1 on",
                "give kilobytes for each CPU",
            )  # fmt: skip
        most = most_kilobytes()
        if int(word) > most:
            raise NoMemory(
                f"cannot set the buffer's size to {word} KB for each CPU",
                f"full, it would take {MEMORY_FACTOR} times that of this machine's memory",
                f"give {most} or less",
            )
        self.buffer.kilobytes = int(word)

    def mark(self, cpu: int, tid: int, comm: str, text: str) -> bool:
        """Put a line into the buffer; False while ``tracing_on`` is 0."""
        if not self._on:
            return False
        self.collect()
        self._held.append(Marker(self._clock(), cpu, tid, comm, text))
        return True

    def empty(self, cpu: int | None = None) -> None:
        """Empty the buffer, or one CPU's part of it."""
        self.collect()
        self.buffer.clear(cpu)
        self._held = [entry for entry in self._held if cpu is not None and entry.cpu != cpu]

    def collect(self) -> int:
        """Take what was caught; returns how many entries came into the buffer."""
        started = self._clock()
        found = list(self._held)
        for planted in self.filters.planted:
            found += planted.take()
        found.sort(key=TIME)
        # What is younger may still come behind that of another watch.
        ready = bisect_left(found, started, key=TIME)
        self._held = found[ready:]
        self.buffer.add(found[:ready])
        return ready

    def look(self) -> None:
        """To be called every LOOK_SECONDS (`watch.guard`): do watches cost too much, are variables gone?"""
        for planted in self.filters.planted:
            planted.look()

    def follow_cpus(self, changes: list[tuple[str, int]]) -> None:
        """Told of CPUs that have come or gone."""
        for planted in self.filters.planted:
            planted.follow_cpus(changes)

    @property
    def ring_fds(self) -> set[int]:
        """Readable when a ring fills up."""
        return {fd for planted in self.filters.planted for fd in planted.ring_fds}

    def attempt(self, file: str, action: Callable[[str], None], text: str) -> None:
        """Do what a writer asks for; why it failed goes into ``error_log``.

        Raises:
            KsymError: it failed.
            OSError: it failed for want of something else than registers.
        """
        try:
            action(text)
        except MemoryError as error:
            self.errors.add(file, KsymError(f"cannot write to {file}", *SHORT_OF[errno.ENOMEM]), text)
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
        except OSError as error:
            why = SHORT_OF.get(error.errno or 0, (os.strerror(error.errno or 0),))
            self.errors.add(file, KsymError(f"cannot write to {file}", *why), text)
            raise
        except KsymError as error:
            self.errors.add(file, error, text)
            raise

    # -- how it looks ------------------------------------------------------------------------------------

    def rows(self, entries: list[Entry]) -> Layout:
        """The table that the options ask for."""
        if self.options.ksym_format:
            return SeedRows(values=self.options.values)
        return OwnRows([planted.watch for planted in self.filters.planted] or layout.watches_of(entries))

    def profile(self) -> str:
        """``ksym_profile``: newest first, as in 2.6.35."""
        return layout.profile(
            (planted.request.mode, planted.watch.name, planted.hits)
            for planted in reversed(self.filters.planted)
        )

    def _how(self, options: Options) -> How:
        return self._base._replace(stacks=options.stacktrace, twin=options.twin)

    def _told(self, request: Request, note: str) -> None:
        self.errors.note(FILTER, str(request), note)

    def _leaving(self, planted: Planted) -> None:
        self._held += planted.take()
