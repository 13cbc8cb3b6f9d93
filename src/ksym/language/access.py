# SPDX-License-Identifier: BSD-2-Clause
"""The three characters of ACCESS: ``rw-``, ``-w-``, ``r--``, ``--x``, and ``---`` to clear.

One colon is ambiguous: ``pid_max:rw-`` ends in an ACCESS, ``ext4:ext4_mount_count`` in a module's
symbol. Nothing in C is called ``rw-``, so a ``-`` decides; of what else might be meant, only ``r``,
``w``, ``x`` in any order and three letters that begin with ``rw`` are taken for a misspelt ACCESS.
Module parameters have short names (``kvm_amd:npt``), which is why no more is. ``r``, ``w``, ``rw`` and ``x``,
as ``perf record -e mem:`` has them, are taken as well, but not by the tracing directory.
"""

from __future__ import annotations

from ksym.errors import RequestError
from ksym.language.request import Mode
from ksym.language.tokens import Source, quote

_ORDER = "rwx"
_MODES = {
    "rw-": Mode.READ_WRITE,
    "-w-": Mode.WRITE,
    "r--": Mode.READ,
    "--x": Mode.EXECUTE,
    "---": Mode.CLEAR,
}
_OF_PERF = {"r": Mode.READ, "w": Mode.WRITE, "rw": Mode.READ_WRITE, "x": Mode.EXECUTE}
ACCESS_WORDS = {
    **dict.fromkeys(("read", "ro"), "r--"),
    **dict.fromkeys(("write", "wo"), "-w-"),
    **dict.fromkeys(("readwrite", "read_write", "access"), "rw-"),
    **dict.fromkeys(("exec", "execute"), "--x"),
}
"""Words for an access, with what is meant; they are refused."""
_CHOICE = "use rw-, -w-, r-- or --x"


def looks_like_access(text: str) -> bool:
    """Whether what stands after a request's only colon is meant as ACCESS, right or wrong."""
    word = text.split(maxsplit=1)[0].lower() if text.strip() else ""
    if all(char in "rwx-" for char in word):
        return True
    if "-" in word and word.replace("-", "").isalpha():
        return True
    return len(word) == 3 and word.startswith("rw")


def parse_access(source: Source, start: int, end: int, target: str, *, seed: bool) -> Mode:
    """Reads ``source.text[start:end]`` as ACCESS.

    Args:
        source: The request.
        start: First character after the colon.
        end: End of the request's head.
        target: The TARGET in front, for the spelling to suggest.
        seed: Whether the tracing directory asks, where ``---`` clears.

    Raises:
        RequestError: Each way to get it wrong has a message of its own.
    """
    text = source.text[start:end]
    words = text.split(maxsplit=1)
    if not words:
        raise source.error("no ACCESS follows the ':'", f"write {target}:rw-", max(start - 1, 0))
    if text[0].isspace():
        raise source.error("a space stands before ACCESS", f"write {target}:{words[0]}", start)
    if len(words) > 1:
        junk = start + text.index(words[1], len(words[0]))
        why = f"{quote(words[1])} after ACCESS is not understood"
        raise source.error(why, "begin a condition with 'if'", junk, end)
    mode = (_MODES if seed else {**_MODES, **_OF_PERF}).get(text)
    if mode is None:
        raise _malformed(source, text, start, target)
    if mode is Mode.CLEAR and not seed:
        why = "'---' clears a watch, and belongs to the tracing directory"
        raise source.error(why, f"{_CHOICE} here", start, end)
    return mode


def _malformed(source: Source, text: str, start: int, target: str) -> RequestError:
    spelling = _spelling(text)
    todo = f"write {target}:{spelling}" if spelling else _CHOICE
    end = start + len(text)
    if len(text) != len(_ORDER):
        why = f"ACCESS is exactly three characters, {quote(text)} has {len(text)}"
        return source.error(why, todo, start, end)
    for place, char in enumerate(text):
        if char not in "rwx-":
            if char.lower() in _ORDER:
                return source.error("ACCESS is written in lower case", todo, start, end)
            return source.error(f"{quote(char)} is not a character of ACCESS", _CHOICE, start + place)
    for place, char in enumerate(text):
        if char not in (_ORDER[place], "-"):
            why = f"{quote(char)} is out of place in ACCESS, the order is r, w, x"
            return source.error(why, todo, start + place)
    why = "x stands by itself, one register watches either data or execution"
    return source.error(why, "use --x, or r, w and - without x", start, end)


def _spelling(text: str) -> str | None:
    """The ACCESS that was surely meant: its letters put in order, unless x is mixed with others."""
    if text.lower() in ACCESS_WORDS:
        return ACCESS_WORDS[text.lower()]
    letters = set(text.lower()) - {"-"}
    spelling = "".join(letter if letter in letters else "-" for letter in _ORDER)
    return spelling if letters and letters <= set(_ORDER) and spelling in _MODES else None
