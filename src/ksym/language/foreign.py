# SPDX-License-Identifier: BSD-2-Clause
"""Requests in the words of gdb, perf, bpftrace and drgn, and the same in ksym's."""

from __future__ import annotations

from ksym.errors import RequestError
from ksym.language.tokens import Source, is_decimal, quote

_GDB = {"watch": "-w-", "rwatch": "r--", "awatch": "rw-", "break": "--x", "hbreak": "--x", "thbreak": "--x"}
_BPFTRACE = ("watchpoint", "asyncwatchpoint", "w", "aw")
_OF_FUNCTIONS = ("kprobe", "kretprobe", "fentry", "fexit", "uprobe", "uretprobe")
_DRGN = ("prog[", "per_cpu(", "find_task(")
_OPERATORS = ":=<>!/[.-+|@,"
_ACCESSES = {"r": "r--", "w": "-w-", "rw": "rw-", "x": "--x"}


def check_foreign(source: Source) -> None:
    """Refuse a request that is written as another tool has it.

    Raises:
        RequestError: It is; the message has ksym's spelling.
    """
    if (error := _from_gdb(source) or _from_perf(source) or _from_drgn(source)) is not None:
        raise error


def _from_gdb(source: Source) -> RequestError | None:
    word, *rest = source.text.split(maxsplit=1)
    access = _GDB.get(word)
    target = rest[0].removeprefix("-location ").removeprefix("-l ") if rest else ""
    # A variable may be called so as well: what follows it then is no name.
    is_path = target.startswith(("/", "./", "../"))
    if access is None or not target or target.split()[0] == "if" or (target[0] in _OPERATORS and not is_path):
        return None
    name, *condition = target.split(" if ", 1)
    tail = name.rpartition(":")[2].strip()
    has_access = "-" in tail and not tail.strip("rwx-")
    head = name.strip() if has_access else f"{name.strip()}:{access}"
    todo = f"write {head}" + "".join(f" if {each.strip()}" for each in condition)
    return source.error(f"{quote(word)} is a command of gdb's", todo, 0, len(word))


def _from_perf(source: Source) -> RequestError | None:
    kind, *parts = source.text.split()[0].split(":")
    if kind in _OF_FUNCTIONS and parts and parts[-1]:
        why = f"{quote(kind)} is a probe of bpftrace's"
        return source.error(why, f"write {':'.join(parts)}:--x", 0, len(kind))
    if not parts or not parts[0].lower().startswith("0x"):
        return None
    address, _, length = parts[0].partition("/")
    if kind in _BPFTRACE and 2 <= len(parts) <= len(("ADDRESS", "LENGTH", "MODE")) and is_decimal(parts[1]):
        length, access = parts[1], "".join(sorted(parts[2] if parts[2:] else "rw", key="rwx".find))
        why = f"{quote(kind)} is a probe of bpftrace's"
    elif kind == "mem":
        access = parts[1] if len(parts) > 1 else "rw"
        why = "'mem' is an event of perf's"
    else:
        return None
    access = "--x" if access == "x" else _ACCESSES.get(access, access)
    end = "" if access == "--x" or not length else f"/{length}"
    return source.error(why, f"write {address}{end}:{access}", 0, len(kind))


def _from_drgn(source: Source) -> RequestError | None:
    text = source.text
    if not text.startswith(_DRGN):
        return None
    import re

    plain = re.sub(r"""prog\[(["'])(\w+)\1\]""", r"\2", text)
    if found := re.fullmatch(r"per_cpu\((\w+), *(\d+)\)(.*)", plain):
        plain = f"{found[1]}{found[3]}@cpu{found[2]}"
    else:
        plain = re.sub(r"^find_task\((?:prog, *)?(\d+)\)", r"task(\1)", plain)
    if plain == text or plain.startswith(_DRGN):
        return None
    end = min(text.find(each) for each in "([" if each in text)
    return source.error(f"{quote(text[:end])} is a word of drgn's", f"write {plain}", 0, end)
