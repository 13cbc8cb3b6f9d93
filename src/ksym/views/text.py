# SPDX-License-Identifier: BSD-2-Clause
"""Text that came from elsewhere, made safe for a terminal, for columns, and for readers of JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

from ksym.symbols.readable import readable


def printable(text: str) -> str:
    r"""``text`` with every control or unprintable character escaped as ``\xNN`` or ``\uNNNN``.

    A byte that is not UTF-8 is U+FFFD, as in all outputs.

    Task names are set by any process (prctl PR_SET_NAME): escape sequences in them must not reach a terminal.
    """
    if text.isprintable():
        return text
    text = readable(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def as_json(value: Any) -> str:
    """``value`` as JSON in ASCII that strict parsers take.

    A lone surrogate, which stands for a byte that is not UTF-8, is U+FFFD; numbers that JSON lacks are the texts
    ``inf``, ``-inf``, ``nan``.
    """
    encode = _encoder()
    try:
        text = encode(value)
    except ValueError:
        return encode(_strict(value))
    # Mostly they are pairs, which stand for one character.
    return encode(_strict(value)) if "\\ud" in text else text


@cache
def _encoder() -> Callable[[Any], str]:
    from json import JSONEncoder  # late: before a watch is armed nobody needs it

    return JSONEncoder(check_circular=False, allow_nan=False).encode


def _strict(value: Any) -> Any:
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, dict):
        return {_strict(key): _strict(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(each) for each in value]
    return value
