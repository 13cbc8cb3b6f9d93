# SPDX-License-Identifier: BSD-2-Clause
"""Which of a recording's accesses are wanted: ``--only``, ``--since``, ``--until``, ``--symbol``."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ksym.errors import KsymError
from ksym.recording.accesses import KINDS, Accesses
from ksym.symbols.readable import readable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SECOND = 1_000_000_000
_TIME_OF_DAY = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?", re.ASCII)
_SECONDS = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)


@dataclass(frozen=True)
class When:
    """A time that was asked for.

    Args:
        text: As it was written.
        ns: Since the recording's start, or since midnight.
        of_day: It is a time of day.
    """

    text: str
    ns: int
    of_day: bool

    def on(self, start_ns: int, end_ns: int) -> int:
        """Nanoseconds since the epoch, in a recording from ``start_ns`` to ``end_ns``.

        A time of day is local, and the first such one in the recording; one that is not in it is that of the day on
        which it began.
        """
        if not self.of_day:
            return start_ns + self.ns
        begun = datetime.fromtimestamp(start_ns // _SECOND)
        minutes, seconds = divmod(self.ns // _SECOND, 60)
        same_day = begun.replace(hour=minutes // 60, minute=minutes % 60, second=seconds, microsecond=0)
        first, second = (
            int((same_day + timedelta(days=days)).timestamp()) * _SECOND + self.ns % _SECOND
            for days in (0, 1)
        )
        return second if first < start_ns and second <= end_ns else first


def when(text: str) -> When:
    """``1.5`` (seconds from the start) or ``10:22:31.2`` (a time of day)."""
    match = _SECONDS.fullmatch(text)
    if match:
        return When(text, int(match[1]) * _SECOND + _fraction(match[2]), of_day=False)
    match = _TIME_OF_DAY.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in match.group(1, 2, 3)) if match else (24, 0, 0)
    if match is None or hours > 23 or minutes > 59 or seconds > 59:
        raise argparse.ArgumentTypeError(
            f"'{text}' is neither seconds such as 1.5 nor a time such as 10:22:31.2"
        )
    return When(text, (hours * 3600 + minutes * 60 + seconds) * _SECOND + _fraction(match[4]), of_day=True)


def _fraction(digits: str | None) -> int:
    return int((digits or "").ljust(9, "0"))


def kinds(text: str) -> tuple[int, ...]:
    """``W`` or ``W,RW``: numbers in KINDS."""
    words = text.upper().split(",")
    if not all(word in KINDS for word in words):
        raise argparse.ArgumentTypeError(f"'{text}' is none of R, W, RW, X, ? or several of them, as in W,RW")
    return tuple(KINDS.index(word) for word in words)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--only",
        type=kinds,
        metavar="TYPE",
        help="accesses of this TYPE: R, W, RW, X, ? or several, as in W,RW",
    )
    parser.add_argument(
        "--since", type=when, metavar="TIME",
        help="accesses from then on: seconds from the start, or a time of day such as 10:22:31.2",
    )  # fmt: skip
    parser.add_argument("--until", type=when, metavar="TIME", help="accesses before then")
    parser.add_argument(
        "--symbol", action="append", metavar="NAME", help="accesses to this variable; may be given again"
    )


@dataclass(frozen=True)
class Selection:
    """What was asked for; nothing: everything."""

    only: tuple[int, ...] | None = None
    since: When | None = None
    until: When | None = None
    symbols: tuple[str, ...] = ()

    @classmethod
    def of(cls, args: argparse.Namespace) -> Selection:
        """That of a command line with the options of `add_selection`."""
        return cls(args.only, args.since, args.until, tuple(map(readable, args.symbol or ())))

    def __bool__(self) -> bool:
        return bool(self.only or self.since or self.until or self.symbols)

    def __str__(self) -> str:
        """As options."""
        words = [f"--only {','.join(KINDS[kind] for kind in self.only)}"] if self.only else []
        words += [f"--since {self.since.text}"] if self.since else []
        words += [f"--until {self.until.text}"] if self.until else []
        return " ".join(words + [f"--symbol {name}" for name in self.symbols])

    def watches(self, accesses: Accesses) -> tuple[int, ...]:
        """Numbers of the watches that are wanted.

        Raises:
            KsymError: there is none of a name that was asked for.
        """
        names = [watch.name for watch in accesses.watches]
        for symbol in self.symbols:
            if symbol not in names:
                from ksym.symbols.nearest import suggestion

                todo = suggestion(symbol, names) or f"there is {', '.join(names)}"
                raise KsymError(f"no variable {symbol}", "it is not in the recording", todo)
        return tuple(number for number, name in enumerate(names) if not self.symbols or name in self.symbols)

    def mask(self, accesses: Accesses, start_ns: int | None = None) -> NDArray[np.bool_]:
        """Which accesses are wanted.

        Args:
            accesses: All of a recording.
            start_ns: When it began; left out: with the first access.

        Raises:
            KsymError: see `watches`.
        """
        wanted: NDArray[np.bool_] = accesses.hits == accesses.hits
        if self.symbols:
            numbers = self.watches(accesses)
            wanted = _any(accesses.watch, numbers)
        if self.only:
            wanted &= _any(accesses.kind, self.only)
        if len(accesses) and (self.since or self.until):
            first, end = int(accesses.time_ns[0]), int(accesses.time_ns[-1])
            start = first if start_ns is None else start_ns
            if self.since:
                wanted &= accesses.time_ns >= self.since.on(start, end)
            if self.until:
                wanted &= accesses.time_ns < self.until.on(start, end)
        return wanted


def _any(column: NDArray[np.int32] | NDArray[np.uint8], numbers: tuple[int, ...]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = column != column
    for number in numbers:
        found |= column == number
    return found
