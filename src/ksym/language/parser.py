# SPDX-License-Identifier: BSD-2-Clause
"""The outermost cut: ``TARGET[:ACCESS][ if CONDITION]``.

The cuts are made on the text, because what lies between them follows different rules (a path may
hold almost any character). First ``if`` is looked for, then the colon behind a program or library,
then the colon before ACCESS; what stands in quotes is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ksym.errors import Span
from ksym.language.access import ACCESS_WORDS, looks_like_access, parse_access
from ksym.language.request import Mode, Request, Symbol, Target
from ksym.language.target import parse_target
from ksym.language.tokens import Source, in_quotes, is_decimal, is_digit, is_word_char, quote, unquoted

if TYPE_CHECKING:
    from ksym.language.condition import Condition

_SYSCTLS = ("kernel", "vm", "net", "fs")
_CLEAR_ALL = ("", "0", "*:---")
GDB_COMMANDS = frozenset(("watch", "rwatch", "awatch", "break", "hbreak", "thbreak"))
_FOREIGN = GDB_COMMANDS | {
    "mem", "watchpoint", "asyncwatchpoint", "w", "aw",
    "kprobe", "kretprobe", "fentry", "fexit", "uprobe", "uretprobe",
    "prog", "per_cpu", "find_task",
}  # fmt: skip
"""The words that begin requests of gdb, perf, bpftrace and drgn."""


def parse_request(text: str, *, seed: bool = False, is_file: Callable[[str], bool] | None = None) -> Request:
    """Reads one request.

        >>> parse_request("init_task.comm:-w-").mode
        <Mode.WRITE: 2>

    Args:
        text: What the user typed; blanks around it do not count.
        seed: Read it as the tracing directory does: ACCESS must be given, ``---`` clears, and an
            empty text, ``0`` or ``*:---`` clears everything (see ``Request.clears_all``).
        is_file: Tells which path is a file, so that one with ``:`` in it needs no quotes; the request
            that comes back has them.

    Raises:
        RequestError: The text is not a request; the message says what to write instead.
    """
    source = Source(_with_quotes(text.strip(), is_file) if is_file else text.strip(), "request")
    if seed and source.text in _CLEAR_ALL:
        star = Symbol(None, "*", Span(0, len(source.text)))
        return Request(Target(star, (), None, "*"), Mode.CLEAR, None, source.text)
    if not source.text:
        raise source.error("it is empty", "name a variable, as in pid_max:rw-", 0)
    if not seed and _first_word(source.text) in _FOREIGN:
        from ksym.language.foreign import check_foreign

        check_foreign(source)
    head_end, condition_start = _find_condition(source)
    target, mode = _parse_head(source, head_end, seed=seed)
    condition = None
    if condition_start is not None:
        if mode is Mode.CLEAR:
            why, todo = "clearing takes no condition", f"write {target.text}:---"
            raise source.error(why, todo, condition_start - len("if"), len(source.text))
        condition = _parse_condition(source, condition_start)
    return Request(target, mode, condition, source.text)


def _first_word(text: str) -> str:
    end = 0
    while end < len(text) and is_word_char(text[end]):
        end += 1
    return text[:end]


def _with_quotes(text: str, is_file: Callable[[str], bool]) -> str:
    """Return the request with its path in quotes, if that is one that holds a colon."""
    if not text.startswith(("/", "./", "../")):
        return text
    at = text.find(":")
    while at >= 0 and not is_file(text[:at]):
        at = text.find(":", at + 1)
    return in_quotes(text[:at]) + text[at:] if ":" in text[: max(at, 0)] else text


def _visible(text: str) -> str:
    """Return ``text`` with all that stands in quotes blotted out; in a request these begin it or follow a colon."""
    shown, at = list(text), 0
    while at < len(text):
        if text[at] in "\"'" and (at == 0 or text[at - 1] == ":"):
            end = at + 1
            while end < len(text) and text[end] != text[at]:
                end += 2 if text[end] == "\\" else 1
            if end >= len(text):
                break
            shown[at : end + 1] = "\0" * (end + 1 - at)
            at = end
        at += 1
    return "".join(shown)


def _find_condition(source: Source) -> tuple[int, int | None]:
    """The end of what stands before ``if``, and the start of what stands after it."""
    text = _visible(source.text)
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
    first = _visible(text).find(":", 0, end)
    program = text[: end if first < 0 else first].strip()
    is_user = _is_program(unquoted(program) if _is_quoted(program) else program)
    if is_user and (first < 0 or not text[first + 1 : end].strip()):
        why = f"the name of a variable of {quote(program)} is missing"
        if file := _kernel_file(program):
            raise source.error(*file, 0, end)
        joined = first < 0 and _joined_otherwise(program)
        if joined:
            raise source.error(*joined, 0, end)
        raise source.error(why, f"write {program}:VARIABLE", max(first, end - 1) if first < 0 else first)
    if is_user and text.startswith("::", first) and not text.startswith(":::", first):
        why = "one ':' stands between a program and its variable"
        raise source.error(why, f"write {program}:{text[first + 2 :].strip()}", first, first + 2)
    start = first + 1 if is_user else 0
    colons = _single_colons(text, start, end)
    colon = _access_colon(source, colons, start, end, is_user=is_user, seed=seed)
    if first >= 0 and not is_user and (colon is None or len(colons) > 1):
        _check_scope(source, program, first)
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


def _joined_otherwise(program: str) -> tuple[str, str] | None:
    """Return why ``./prog!counter`` is refused, which lldb and DTrace would take, and what to write."""
    for mark in "!`":
        path, found, name = program.rpartition(mark)
        if found and path and name and all(map(is_word_char, name)):
            return f"':' stands between a program and its variable, not {quote(mark)}", f"write {path}:{name}"
    return None


def _kernel_file(path: str) -> tuple[str, str] | None:
    """Why a file of the kernel's is no variable, and what to write for the one behind it."""
    parts = path.split("/")
    if parts[0] in _SYSCTLS and parts[-1]:
        why = "that is a sysctl, not a variable"
        return why, f"write the variable behind it, often called {parts[-1].replace('-', '_')}"
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


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] in "\"'" and text[-1] == text[0]


def _check_scope(source: Source, scope: str, colon: int) -> None:
    """Refuse what stands before a colon if it is neither a program, nor a library, nor a module's name.

    Raises:
        RequestError: It is none of them.
    """
    if "." not in scope or scope[0] in "*(&" or not all(is_word_char(c) or c in "-.+~" for c in scope):
        return
    rest = source.text[colon:]
    why, todo = f"no module is called {quote(scope)}", f"write ./{scope}{rest} for a file"
    if is_decimal(rest[1:].strip()):
        why, todo = "a line of a source file cannot be watched", "name a variable, as in ./PROGRAM:VARIABLE"
    raise source.error(why, todo, 0, colon)


def _single_colons(text: str, start: int, end: int) -> list[int]:
    """Where single colons stand; ``::`` joins C++ names. Of three in a row the last is single."""
    colons, at, text = [], start, _visible(text)
    while (at := text.find(":", at, end)) >= 0:
        if text.startswith("::", at, end):
            at += 2
        else:
            colons.append(at)
            at += 1
    return colons


def _name_after(source: Source, colon: int, end: int) -> str:
    """Return what stands after a colon if it is a variable's name and cannot be meant as ACCESS; else nothing."""
    tail = source.text[colon + 1 : end].strip()
    is_name = len(tail) > len("rw-") and all(map(is_word_char, tail)) and not is_digit(tail[0])
    return tail if is_name and not looks_like_access(tail) and tail.lower() not in ACCESS_WORDS else ""


def _access_colon(
    source: Source, colons: list[int], start: int, end: int, *, is_user: bool, seed: bool
) -> int | None:
    """The colon before ACCESS, or None where ACCESS is left out."""
    if not colons:
        # ./prog:rw- has one colon, and a variable cannot be called 'rw-'.
        tail = source.text[start:end]
        if is_user and "-" in tail and not tail.strip().strip("rwx-"):
            todo = f"write {source.text[:start]}VARIABLE:{tail.strip()}"
            raise source.error("the name of the variable is missing", todo, start, end)
        return None
    if len(colons) > (1 if is_user else 2):
        if is_user:
            why = "more than one ':' besides those of program and ACCESS"
            todo = "write PROGRAM:VARIABLE:ACCESS"
            if source.text.startswith("/memfd:"):
                todo = "a program that runs from memory is /proc/PID/exe:VARIABLE:ACCESS"
        else:
            why, todo = "more than one ':' besides those of module and ACCESS", "write MODULE:SYMBOL:ACCESS"
        raise source.error(why, todo, colons[-2])
    if is_user and is_decimal(source.text[colons[-1] + 1 : end].strip()):
        program = source.text[: start - 1]
        todo = f"name a variable, as in {program}:VARIABLE, or a function, as in {program}:FUNCTION:--x"
        raise source.error("a line of a source file cannot be watched", todo, start, end)
    if is_user and "[" in source.text[start:end] and source.text.find("]", colons[-1], end) > 0:
        at = source.text.rfind("[", start, colons[-1])
        todo = f"watch the bytes from its start on, as in {source.text[:at]}/8"
        raise source.error("an index is one number", todo, at, end)
    if is_user and (name := _name_after(source, colons[-1], end)):
        scope = source.text[start : colons[-1]].strip()
        if "," in scope:
            raise source.error(
                "a request names one variable", "write a request for each", source.text.index(",")
            )
        why = f"'::' stands between {quote(scope)} and a variable of it"
        raise source.error(why, f"write {source.text[: colons[-1]]}::{name}", colons[-1])
    if is_user or len(colons) == 2:
        return colons[-1]
    tail = source.text[colons[0] + 1 : end]
    if looks_like_access(tail) or (seed and len(tail) == len("rw-")):
        return colons[0]
    return None
