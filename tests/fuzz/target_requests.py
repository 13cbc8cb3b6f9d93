# SPDX-License-Identifier: BSD-2-Clause
"""A request, or a condition: read, or refused with a RequestError whose place lies within the text.

What is read says in ``str()`` what reads back as the same.
"""

from __future__ import annotations

import contextlib

from fuzz.contract import Broken
from ksym.errors import KsymError
from ksym.language import Mode, RequestError, RequestSet, check, evaluate, parse_condition, parse_request
from ksym.symbols.ctext import parse_type

LONGEST = 300
_FIELDS: dict[str, int | str] = {
    "new": 5, "old": 1 << 63, "pid": 7, "tid": 8, "cpu": 0, "comm": "sh", "uid": 0, "access": "W", "ip": 1 << 40,
    "changed": 1, "function": "f",
}  # fmt: skip


def run(data: bytes) -> None:
    """One text: the first bit of it says as what."""
    text = data[1:].decode("utf-8", "surrogateescape")
    if data[:1] > b"\x7f":
        _condition(text)
    elif data[:1] > b"\x6f":
        _type(text)
    else:
        _request(text)


def _request(text: str) -> None:
    try:
        request = parse_request(text)
    except RequestError as error:
        _told(error, text)
        return
    again = parse_request(str(request))
    if str(again) != str(request) or again.mode != request.mode:
        raise Broken(f"{request} reads back as {again}")
    if request.mode is Mode.CLEAR:
        return
    known = RequestSet()
    known.add_new(request)
    try:
        known.add_new(again)
    except RequestError as error:
        _told(error, None)
    else:
        raise Broken(f"{request} and {again} are two")


def _condition(text: str) -> None:
    try:
        condition = parse_condition(text)
    except RequestError as error:
        _told(error, text)
        return
    if str(parse_condition(str(condition))) != str(condition):
        raise Broken(f"{condition} reads back as another")
    try:
        check(condition)
    except RequestError as error:
        _told(error, None)
        return
    with contextlib.suppress(KeyError):  # documented: the environment has no enum constants, and no members
        evaluate(condition, _FIELDS)


def _type(text: str) -> None:
    try:
        parse_type(text)
    except KsymError as error:
        _told(error, None)


def _told(error: KsymError, text: str | None) -> None:
    if "\n" in error.line():
        raise Broken(f"not one line: {error.line()!r}")
    if error.place is not None:
        span = error.place.span
        if not 0 <= span.start <= span.end <= len(error.place.text) + 1:
            raise Broken(f"{span} is outside of {error.place.text!r}")
        if text is not None and not error.place.caret().replace("\n", "").isprintable():
            raise Broken("a place is not printable")
