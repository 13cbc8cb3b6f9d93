# SPDX-License-Identifier: BSD-2-Clause
"""The columns that leave ksym: the names of JSON's keys, typed, repeated texts as codes into a list.

What an access shares with others (its code, its thread's name) is looked up once for each place and spread by numpy.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ksym.capture.sites import Site
from ksym.capture.values import Value
from ksym.recording.accesses import KINDS, Accesses
from ksym.reports.comparable import comparable, is_number, last_places, number
from ksym.symbols.readable import readable
from ksym.symbols.types import Encoding, Float, Integer, resolve
from ksym.symbols.variable import Variable

NONE = -1
"""The code of what is not known."""


class Coded(NamedTuple):
    """A column of texts: ``words[codes[i]]``, or nothing where the code is NONE.

    Args:
        codes: int32.
        words: The different texts.
        gaps: Whether NONE is among the codes.
    """

    codes: NDArray[np.int32]
    words: list[str]
    gaps: bool


class Known(NamedTuple):
    """A column of numbers.

    Args:
        numbers: Zero where nothing is known.
        known: Where something is; None: everywhere.
    """

    numbers: NDArray[Any]
    known: NDArray[np.bool_] | None


class Number(enum.Enum):
    """What holds all numbers that the values of a variable can be."""

    SIGNED = "int64"
    UNSIGNED = "uint64"
    REAL = "float64"


def coded(words: Sequence[str | None], places: NDArray[np.integer[Any]]) -> Coded:
    """A column of texts that stand in a table.

    Args:
        words: The table, which may have a text twice.
        places: Where in the table each element stands.
    """
    different: dict[str, int] = {}
    codes = [NONE if word is None else different.setdefault(readable(word), len(different)) for word in words]
    return Coded(spread(np.array(codes or [NONE], np.int32), places), list(different), NONE in codes)


def spread(table: NDArray[Any], places: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """``table[places]``, at a quarter of the cost: numpy indexes by intp alone."""
    if len(table) == 1:
        return np.full(len(places), table[0])
    return table.take(places.astype(np.intp, copy=False))


def by_site(accesses: Accesses, what: Callable[[Site], int | None]) -> Known:
    """A column of numbers that the code decides; addresses, so they are unsigned."""
    values = [what(site) for site in accesses.sites]
    table = np.array([value or 0 for value in values] or [0], np.uint64)
    there = np.array([value is not None for value in values] or [False], np.bool_)
    return Known(spread(table, accesses.site), None if there.all() else spread(there, accesses.site))


def lengths(accesses: Accesses) -> NDArray[np.int32]:
    """Bytes of the variable."""
    table = np.array([watch.variable.length for watch in accesses.watches] or [0], np.int32)
    return spread(table, accesses.watch)


def texts(accesses: Accesses) -> dict[str, Callable[[], Coded]]:
    """The columns of texts, by name; the stack and values are not among them."""
    sites = accesses.sites

    def instruction(site: Site) -> str | None:
        return site.instruction.text if site.instruction else None

    return {
        "comm": lambda: coded(accesses.comms, accesses.comm),
        "symbol": lambda: coded([watch.name for watch in accesses.watches], accesses.watch),
        "access": lambda: coded(KINDS, accesses.kind),
        "function": lambda: coded([site.named.function for site in sites], accesses.site),
        "instruction": lambda: coded([instruction(site) for site in sites], accesses.site),
        "module": lambda: coded([site.named.owner for site in sites], accesses.site),
    }


def places(accesses: Accesses) -> dict[str, Callable[[], Known]]:
    """The columns of numbers that the code decides, by name."""

    def offset(site: Site) -> int | None:
        return site.named.offset if site.named.function is not None else None

    def instruction(site: Site) -> int | None:
        return site.instruction.address if site.instruction else None

    return {
        "ip": lambda: by_site(accesses, lambda site: site.ip),
        "offset": lambda: by_site(accesses, offset),
        "instruction_address": lambda: by_site(accesses, instruction),
    }


# -- values ----------------------------------------------------------------------------------------------


def number_of(variable: Variable) -> Number | None:
    """What holds the values of ``variable``; None if they are no numbers.

    An enum's value is the number, a pointer's the address.
    """
    if not is_number(variable):
        return None
    if isinstance(variable.type and resolve(variable.type), Float):
        return Number.REAL
    wide = comparable(variable, np.zeros((0, 8), np.uint8)).dtype == np.uint64 and not variable.bits
    return Number.UNSIGNED if wide else Number.SIGNED


def _numbers(variable: Variable, kind: Number, data: NDArray[np.uint8]) -> NDArray[Any]:
    if kind is Number.REAL:
        return np.ascontiguousarray(data[:, : variable.length]).view(f"<f{variable.length}")[:, 0]
    return comparable(variable, data)


def says_more(variable: Variable) -> bool:
    """Whether a value's text is more than the digits of its number."""
    kind = variable.type and resolve(variable.type)
    if not is_number(variable):
        return True
    return not (kind is None or (isinstance(kind, Integer) and kind.encoding is Encoding.INTEGER))


def numbers(accesses: Accesses, which: str, kind: Number) -> Known:
    """The values of the variables that ``kind`` is for.

    Args:
        accesses: The accesses.
        which: ``old`` or ``new``.
        kind: One for all of them.
    """
    data, known = getattr(accesses, which), getattr(accesses, f"{which}_known")
    kinds = [number_of(watch.variable) for watch in accesses.watches]
    if len(kinds) == 1 and kinds[0] is kind:
        found = _numbers(accesses.watches[0].variable, kind, data).astype(kind.value, copy=False)
        return Known(found, None if known.all() else known)
    column, there = np.zeros(len(accesses), kind.value), np.zeros(len(accesses), np.bool_)
    for index, (watch, own) in enumerate(zip(accesses.watches, kinds, strict=True)):
        if own is not kind:
            continue
        here = np.flatnonzero((accesses.watch == index) & known)
        column[here] = _numbers(watch.variable, kind, data[here])
        there[here] = True
    return Known(column, there)


def all_numbers(accesses: Accesses, which: str) -> Known | NDArray[np.object_]:
    """The values that are numbers: a column of numpy's where one type holds all, else Python's numbers and None.

    Args:
        accesses: The accesses.
        which: ``old`` or ``new``.
    """
    kinds = [kind for kind in Number if any(number_of(watch.variable) is kind for watch in accesses.watches)]
    if len(kinds) == 1:
        return numbers(accesses, which, kinds[0])
    column = np.full(len(accesses), None, object)
    for kind in kinds:
        found = numbers(accesses, which, kind)
        here = slice(None) if found.known is None else np.flatnonzero(found.known)
        column[here] = found.numbers[here].astype(object)
    return column


class Different(NamedTuple):
    """A column of values: ``values[codes[i]]``, or nothing where the code is NONE."""

    codes: NDArray[np.int32]
    values: list[Value]


def different_values(accesses: Accesses, which: str, wanted: Callable[[Variable], bool]) -> Different:
    """The values of some variables; each different one is decoded once.

    Args:
        accesses: The accesses.
        which: ``old`` or ``new``.
        wanted: Says of which variables.
    """
    data, known = getattr(accesses, which), getattr(accesses, f"{which}_known")
    codes = np.full(len(accesses), NONE, np.int32)
    values: list[Value] = []
    for index, (watch, decode) in enumerate(zip(accesses.watches, accesses.decoders(), strict=True)):
        if not wanted(watch.variable):
            continue
        here = np.flatnonzero((accesses.watch == index) & known)
        found = number(comparable(watch.variable, data[here]))
        codes[here] = found.codes + len(values)
        examples = last_places(found.codes, len(found), here)
        values.extend(decode.of(data[at].tobytes()) for at in examples.tolist())
    return Different(codes, values)


def value_texts(accesses: Accesses, which: str) -> Coded:
    """The values as people read them, where that is more than a number's digits."""
    codes, values = different_values(accesses, which, says_more)
    if not values:
        return Coded(codes, [], gaps=True)
    different: dict[str, int] = {}  # several values may look alike
    table = [different.setdefault(value.text, len(different)) for value in values]
    # The last one is that of NONE.
    return Coded(np.array([*table, NONE], np.int32)[codes], list(different), bool((codes == NONE).any()))
