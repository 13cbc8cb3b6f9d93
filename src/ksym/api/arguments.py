# SPDX-License-Identifier: BSD-2-Clause
"""The arguments of `ksym.trace`, held to what the command of that name takes; a wrong one is told in one line."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence

from ksym.errors import UsageError


def wrong(why: str, todo: str) -> UsageError:
    """What is said of an argument that makes no sense."""
    return UsageError("cannot watch", why, todo)


def requests(texts: Sequence[object]) -> tuple[str, ...]:
    """What to watch."""
    if not texts:
        raise wrong("there is no request", 'name one, as in ksym.trace("pid_max:-w-")')
    for each in texts:
        if not isinstance(each, str):
            raise wrong(f"the request {each!r} is no string", 'write it as in ksym.trace("pid_max:-w-")')
    return tuple(map(str, texts))


def text(name: str, value: object) -> str | None:
    """A string, or none."""
    if value is not None and not isinstance(value, str):
        raise wrong(f"{name} is {value!r}", "give a string")
    return value


def path(what: str, name: str, value: object) -> str:
    """The path of a file; ``what`` cannot be done without it."""
    try:
        return os.fsdecode(value)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(what, f"{name} is {value!r}", "give a path") from None


def whole(name: str, value: object, least: int) -> int | None:
    """A whole number, or none."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise wrong(f"{name} is {value!r}", f"give a whole number from {least} on")
    return value


def number(name: str, value: object, low: float, high: float, *, above: bool = False) -> float | None:
    """A number from ``low`` (``above``: but not that one) to ``high``, or none."""
    if value is None:
        return None
    if (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high
    ):  # nan is not
        raise wrong(f"{name} is {value!r}", f"give a number from {low:g} to {high:g}")
    if above and value == low:
        raise wrong(f"{name} is {value!r}", f"give a number above {low:g}")
    return value


def pids(value: int | Iterable[int] | None) -> tuple[int, ...]:
    """One PID or several; empty for none."""
    if value is None:
        return ()
    several = (
        tuple(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else (value,)
    )
    if not several or not all(
        isinstance(pid, int) and not isinstance(pid, bool) and pid > 0 for pid in several
    ):
        raise wrong(f"pid is {value!r}", "give a whole number from 1 on, or several, as in [4711, 4712]")
    return tuple(dict.fromkeys(map(int, several)))


def cpus(value: Iterable[int] | None) -> tuple[int, ...] | None:
    """Numbers of CPUs."""
    if value is None:
        return None
    try:
        numbers = tuple(operator.index(cpu) for cpu in value)
    except TypeError:
        numbers = ()
    if not numbers or min(numbers) < 0:
        raise wrong(f"cpus is {value!r}", "give numbers, as in [0, 1]")
    return numbers


def command(value: object) -> tuple[str, ...]:
    """A program and its arguments; empty for none."""
    if value is None:
        return ()
    if isinstance(value, (str, bytes)):
        raise UsageError("cannot run the command", "it is a string", 'give a list: ["sh", "-c", "..."]')
    words = tuple(value) if isinstance(value, Iterable) else ()
    if not words or not all(isinstance(word, (str, bytes, os.PathLike)) for word in words):
        raise UsageError("cannot run the command", f"it is {value!r}", 'give strings: ["sh", "-c", "..."]')
    return tuple(map(os.fsdecode, words))
