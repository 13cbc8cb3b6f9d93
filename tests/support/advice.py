# SPDX-License-Identifier: BSD-2-Clause
"""What messages advise: its forms, taken out of a message, and all advice that the sources hold.

Advice is the last part of an error. What a user is to type follows one of the words in ``MARKS``; capital words in it
(``VARIABLE``, ``PID``) stand for what the message cannot know.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src" / "ksym"

_VERBS = (
    "add", "ask", "begin", "cast", "check", "choose", "clear", "close", "compile", "did you mean", "end", "follow",
    "give", "join", "keep", "leave", "load", "look", "mount", "name", "pip", "put", "raise", "run", "see", "start",
    "sysctl", "use", "watch", "while it runs", "write",
)  # fmt: skip
_WORDS = (*_VERBS, "a", "an", "the", "one", "it", "its", "their", "more", "RW", "root")
_ADVICE = re.compile(rf"({'|'.join(_VERBS)})\b|`")
_TYPED = re.compile(r"\0|[:/*`=&@\[]|--|->|\bsysctl\b|\bpip\b|\bPID\b|\bCOMMAND\b")
"""What makes advice one that holds something to type: a hole that is filled in, or a character of the language."""

_END = r"(?=, | or | for | alone| here| without | with a | and | between |; |\?|$)"
_MARKS = (
    "write", "as in:?", "with", "mean", "a length:", "a member:", "its accesses:", "its type:", "ask for",
    "called", "or", "an element:", "one that it has:", "missing:",
)  # fmt: skip
_FORM = re.compile(rf"\b(?:{'|'.join(_MARKS)}) (?!or )(\S.*?){_END}")
_COMMAND = re.compile(r"`([^`]+)`|\b((?:sysctl|mount|umount|modprobe) [\w.=-][^;,`]*)")

STAND_INS = {
    "FUNCTION": "main", "VARIABLE": "counter", "MEMBER": "comm", "NAME": "name", "TYPE": "u32", "PROGRAM": "prog",
    "MODULE": "ext4", "SYMBOL": "name", "LENGTH": "4", "ADDRESS": "1000", "PID": "1", "ACCESS": "rw-",
    "COMMAND": "true",
}  # fmt: skip


def forms(advice: str) -> list[str]:
    """Return what a piece of advice tells to type, with stand-ins for the words in capitals."""
    text = _COMMAND.sub("that", advice)
    found = (match.group(1).removeprefix("one of ") for match in _FORM.finditer(text))
    return [filled_in(each) for each in found if not _is_prose(each)]


def _is_prose(text: str) -> bool:
    """Return True for words that say in English what to type."""
    first, *more = text.split()
    if text == "one" or (text.isupper() and len(text) > 2) or text.count("(") != text.count(")"):
        return True
    return bool(more) and (first in _WORDS or not any(char in text for char in ':/*=@[<>&|"-'))


def commands(advice: str) -> list[str]:
    """Return the command lines in a piece of advice."""
    return [filled_in(match.group(1) or match.group(2)) for match in _COMMAND.finditer(advice)]


def filled_in(text: str) -> str:
    """Return ``text`` with something real in place of the words that stand for what the user knows."""
    text = text.replace("@cpuN", "@cpu0").replace("[N]", "[0]")
    return re.sub(r"[A-Z]{3,}", lambda word: STAND_INS.get(word.group(), word.group()), text)


def templates() -> dict[str, str]:
    """Return all advice in the sources that holds something to type, with NUL for each hole, and where each is."""
    found: dict[str, str] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        place = str(path.relative_to(SOURCES))
        if place.startswith(("reports/", "exports/")):
            continue
        for text, line in _texts(ast.parse(path.read_text())):
            if _ADVICE.match(text) and _TYPED.search(text) and "\n" not in text:
                found.setdefault(text, f"{place}:{line}")
    return found


def matches(template: str, advice: str) -> bool:
    """Return True if ``advice`` may have been made from ``template``, alone or as a part."""
    return re.search(".+?".join(map(re.escape, template.split("\0"))), advice) is not None


def _texts(node: ast.AST) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Call):
        node.keywords = [each for each in node.keywords if each.arg not in ("help", "metavar", "verbose")]
    if isinstance(node, ast.JoinedStr):
        parts = [each.value if isinstance(each, ast.Constant) else "\0" for each in node.values]
        yield "".join(map(str, parts)), node.lineno
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value, node.lineno
    for child in ast.iter_child_nodes(node):
        yield from _texts(child)
