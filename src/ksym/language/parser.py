# SPDX-License-Identifier: BSD-2-Clause
"""The outermost cut: ``TARGET[:ACCESS][ if CONDITION]``.

The cuts are made on the text, because what lies between them follows different rules (a path may
hold almost any character). First ``if`` is looked for, then the colon behind a program or library,
then the colon before ACCESS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ksym.errors import Span
from ksym.language.access import looks_like_access, parse_access
from ksym.language.request import Mode, Request, Symbol, Target
from ksym.language.target import parse_target
from ksym.language.tokens import Source, is_decimal, is_digit, is_word_char, quote

if TYPE_CHECKING:
    from ksym.language.condition import Condition

_CLEAR_ALL = ("", "0", "*:---")


def parse_request(text: str, *, seed: bool = False) -> Request:
    """Reads one request.

        >>> parse_request("init_task.comm:-w-").mode
        <Mode.WRITE: 2>

    Args:
        text: What the user typed; blanks around it do not count.
        seed: Read it as the tracing directory does: ACCESS must be given, ``---`` clears, and an
            empty text, ``0`` or ``*:---`` clears everything (see ``Request.clears_all``).

    Raises:
        RequestError: The text is no request; the message says what to write instead.
    """
    source = Source(text.strip(), "request")
    if seed and source.text in _CLEAR_ALL:
        star = Symbol(None, "*", Span(0, len(source.text)))
        return Request(Target(star, (), None, "*"), Mode.CLEAR, None, source.text)
    if not source.text:
        raise source.error("it is empty", "name a variable, as in pid_max:rw-", 0)
    head_end, condition_start = _find_condition(source)
    target, mode = _parse_head(source, head_end, seed=seed)
    condition = None
    if condition_start is not None:
        if mode is Mode.CLEAR:
            why, todo = "clearing takes no condition", f"write {target.text}:---"
            raise source.error(why, todo, condition_start - len("if"), len(source.text))
        condition = _parse_condition(source, condition_start)
    return Request(target, mode, condition, source.text)


def _find_condition(source: Source) -> tuple[int, int | None]:
    """The end of what stands before ``if``, and the start of what stands after it."""
    text = source.text
    # A path may hold the word; behind its colon it cannot stand again by accident.
    at = max(text.find(":"), 0) if text.startswith(("/", "./", "../")) else 0
    while (at := text.find("if", at)) >= 0:
        end = at + 2
        if (at == 0 or text[at - 1].isspace()) and not (end < len(text) and is_word_char(text[end])):
            if at == 0:
                raise source.error("no TARGET stands before 'if'", "name a variable first", 0, end)
            if not text[end:].strip():
                raise source.error("no condition follows 'if'", "write one, as in: if new > 100", at, end)
            return len(text[:at].rstrip()), end
        at = end
    return len(text), None


def _parse_condition(source: Source, start: int) -> Condition:
    # Most requests have no condition; they need not wait for the import.
    from ksym.language.condition_parser import parse_expression
    from ksym.language.typecheck import check

    condition = parse_expression(source, start)
    check(condition, source)
    return condition


def _parse_head(source: Source, end: int, *, seed: bool) -> tuple[Target, Mode]:
    text = source.text
    first = text.find(":", 0, end)
    program = text[: end if first < 0 else first].strip()
    is_user = _is_program(program)
    if is_user and (first < 0 or not text[first + 1 : end].strip()):
        why = f"the name of a variable of {quote(program)} is missing"
        if file := _kernel_file(program):
            raise source.error(*file, 0, end)
        raise source.error(why, f"write {program}:VARIABLE", max(first, end - 1) if first < 0 else first)
    start = first + 1 if is_user else 0
    colons = _single_colons(text, start, end)
    colon = _access_colon(source, colons, start, end, is_user=is_user, seed=seed)
    target_end = end if colon is None else colon
    if not text[start:target_end].strip():
        todo = f"write {program}:VARIABLE" if is_user else "put one in front of the ':', as in pid_max:rw-"
        raise source.error("the name of the variable is missing", todo, target_end)
    mode = Mode.READ_WRITE
    target_text = text[:target_end].strip()
    if colon is None and seed:
        raise source.error("it has no ACCESS", f"write {target_text}:rw-", end)
    if colon is not None:
        mode = parse_access(source, colon + 1, end, target_text, seed=seed)
    return parse_target(source, 0, target_end, first if is_user else None), mode


def _kernel_file(path: str) -> tuple[str, str] | None:
    """Why a file of the kernel's is no variable, and what to write for the one behind it."""
    parts = path.split("/")
    if path.startswith("/sys/module/") and len(parts) == len(("", "sys", "module", "M", "parameters", "P")):
        return "that is a file, not a variable", f"write {parts[3]}:{parts[5]}"
    if path.startswith("/proc/sys/") and parts[-1]:
        return "that is a file, not a variable", f"write the variable behind it, often called {parts[-1]}"
    return None


def _is_program(text: str) -> bool:
    """Whether what stands before the first colon is a path, or a shared library by name."""
    if text.startswith(("*", "(", "&")):
        return False
    first, slash, rest = text.partition("/")
    if slash:
        # 0xADDRESS/LENGTH is no path, and variable/4 is one who hopes that it works for names too.
        is_length = "/" not in rest and (not rest or is_digit(rest[0])) and first and first[0] != "."
        return not (is_length or first.lower().startswith("0x"))
    stem, so, version = text.rpartition(".so")
    # libc.so.6 and libfoo.so are libraries, the kernel variable foo.socket is none.
    return bool(stem and so) and version[:1] in ("", ".") and all(map(is_decimal, version.split(".")[1:]))


def _single_colons(text: str, start: int, end: int) -> list[int]:
    """Where single colons stand; ``::`` joins C++ names. Of three in a row the last is single."""
    colons, at = [], start
    while (at := text.find(":", at, end)) >= 0:
        if text.startswith("::", at, end):
            at += 2
        else:
            colons.append(at)
            at += 1
    return colons


def _access_colon(
    source: Source, colons: list[int], start: int, end: int, *, is_user: bool, seed: bool
) -> int | None:
    """The colon before ACCESS, or None where ACCESS is left out."""
    if not colons:
        # ./prog:rw- has one colon, and a variable cannot be called 'rw-'.
        tail = source.text[start:end]
        if is_user and "-" in tail and looks_like_access(tail):
            todo = f"write {source.text[:start]}VARIABLE:{tail.strip()}"
            raise source.error("the name of the variable is missing", todo, start, end)
        return None
    if len(colons) > (1 if is_user else 2):
        if is_user:
            why = "more than one ':' besides those of program and ACCESS"
            todo = "write PROGRAM:VARIABLE:ACCESS"
        else:
            why, todo = "more than one ':' besides those of module and ACCESS", "write MODULE:SYMBOL:ACCESS"
        raise source.error(why, todo, colons[-2])
    if is_user or len(colons) == 2:
        return colons[-1]
    tail = source.text[colons[0] + 1 : end]
    if looks_like_access(tail) or (seed and len(tail) == len("rw-")):
        return colons[0]
    return None
