# SPDX-License-Identifier: BSD-2-Clause
"""C++ names: from the linker's form to the source's, and back for what is simple.

Names follow the Itanium C++ ABI (section 5.1, "External Names"). The C++ runtime's own ``__cxa_demangle`` is
used where it is installed; a decoder for names without templates and operators serves where it is not.
Parameters are left out, so ``_ZZ3fooiE7counter`` reads ``foo::counter`` either way.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from functools import cache, lru_cache, partial

_ANONYMOUS = "(anonymous namespace)"
_MANGLED_ANONYMOUS = "_GLOBAL__N_1"
_LONGEST = 4096
"""Longer names are left alone: a demangler's work may grow much faster than the name."""
_MOST_WORK, _LONGEST_TEXT = 1 << 20, 1 << 16
"""Characters that a name may stand for, roughly, and that its text may have; who compiles programs writes neither."""
_REFERENCE = re.compile("S([0-9A-Z]*)_|T[0-9A-Z]*_|Dp")
_BEHIND_PARAMETERS = re.compile("(?: const| volatile| &&?| noexcept)+")


@lru_cache(maxsize=4096)
def demangle(name: str) -> str | None:
    """The qualified C++ name behind a symbol, or None where it is not one.

    >>> demangle("_ZN2ns7counterE")
    'ns::counter'
    """
    if not name.startswith("_Z") or len(name) > _LONGEST or _explodes(name):
        return None
    # gcc's clones: _Z3foov.cold, _Z3foov.constprop.0
    core, dot, suffix = name.partition(".")
    runtime = _runtime()
    if runtime is None:
        plain = decode(core)
    else:
        whole = runtime(core)
        plain = None if whole is None or len(whole) > _LONGEST_TEXT else without_parameters(whole)
    return None if plain is None else plain + dot + suffix


def _explodes(name: str) -> bool:
    """Whether the text of a mangled name may be out of all proportion to it.

    A substitution stands for something in front of its first use, which may hold two of the one before: 300 characters
    can say more than a machine has memory for, and the runtime's demangler sets no limit. So sizes are added up as if
    each substitution stood for all that is in front of it, each parameter of a template likewise, and as if whatever
    is behind a pack expansion were there once for each character.
    """
    size = at = 0
    copies, known = 1, dict[int, int]()
    for found in _REFERENCE.finditer(name):
        size += (found.start() - at) * copies
        at = found.end()
        if found[0] == "Dp":
            copies *= len(name)
        elif found[0].startswith("T"):
            size *= 2
        else:
            number = int(found[1], 36) + 1 if found[1] else 0
            if number > max(known, default=-1):
                known[number] = size
            # They are numbered in the order in which they end, so this one ended before any with a higher number.
            size += next(had for highest, had in known.items() if highest >= number)
        if size > _MOST_WORK:
            return True
    return size + (len(name) - at) * copies > _MOST_WORK


@cache
def _runtime() -> Callable[[str], str | None] | None:
    for library in ("libstdc++.so.6", "libc++abi.so.1"):
        try:
            function = ctypes.CDLL(library).__cxa_demangle
            free = ctypes.CDLL(None).free
        except (OSError, AttributeError):
            continue
        # cxxabi.h: char *__cxa_demangle(const char *name, char *buffer, size_t *length, int *status)
        function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
        function.restype = ctypes.c_void_p
        free.argtypes, free.restype = [ctypes.c_void_p], None
        return partial(_run, function, free)
    return None


def _run(function: Callable[..., int | None], free: Callable[[int], None], name: str) -> str | None:
    status = ctypes.c_int()
    raw = function(name.encode("utf-8", "surrogateescape"), None, None, ctypes.byref(status))
    if not raw:
        return None
    try:
        return (ctypes.string_at(raw) if status.value == 0 else b"").decode("utf-8", "replace") or None
    finally:
        free(raw)


def without_parameters(text: str) -> str:
    """A demangled name without parameter lists, return type and cv-qualifiers.

    >>> without_parameters("void ns::f<int>(int, char const*) const")
    'ns::f<int>'
    """
    kept: list[str] = []
    depth = angle = 0
    had_parameters = False
    at = 0
    while at < len(text):
        char = text[at]
        if char == "(" and not depth and not angle:
            if text.startswith(_ANONYMOUS, at):
                kept.append(_ANONYMOUS)
                at += len(_ANONYMOUS)
                continue
            if "".join(kept[-8:]) == "operator" and text.startswith("()", at):
                kept.append("()")
                at += 2
                continue
        if char == "(" and not angle:
            depth += 1
            had_parameters = True
        elif char == ")" and not angle:
            depth -= 1
            # what may follow a parameter list, before the scope goes on or the name ends
            rest = _BEHIND_PARAMETERS.match(text, at + 1)
            at = rest.end() - 1 if rest else at
        elif not depth:
            if "operator" not in "".join(kept[-10:]):
                angle += (char == "<") - (char == ">")
            kept.append(char)
        at += 1
    plain = "".join(kept).strip()
    if had_parameters and "operator" not in plain:
        plain = _behind_return_type(plain)
    return plain


def _behind_return_type(text: str) -> str:
    # Of "std::vector<int, long> ns::f<a b>" what stands behind the last space outside of < > and ( ).
    depth = cut = 0
    for at, char in enumerate(text):
        depth += (char in "<(") - (char in ">)")
        if char == " " and not depth and not text.endswith((" for", "guard", "vtable", "typeinfo"), 0, at):
            cut = at + 1
    return text if " for " in text else text[cut:]


def decode(name: str) -> str | None:
    """Decode an Itanium name without templates, operators and substitutions; parameters are passed over."""
    if not name.startswith("_Z"):
        return None
    decoded = _Decoder(name, 2).name()
    return decoded or None


class _Decoder:
    # A cursor over a mangled name; every method gives None where the name is beyond it.

    def __init__(self, text: str, at: int) -> None:
        self.text, self.at = text, at

    def peek(self, count: int = 1) -> str:
        return self.text[self.at : self.at + count]

    def take(self, prefix: str) -> bool:
        if not self.text.startswith(prefix, self.at):
            return False
        self.at += len(prefix)
        return True

    def name(self) -> str | None:
        if self.take("Z"):
            return self._local()
        if self.take("N"):
            return self._nested()
        if self.take("St"):
            rest = self._source()
            return None if rest is None or self.peek() == "I" else f"std::{rest}"
        plain = self._source()
        return None if self.peek() == "I" else plain  # a template

    def _source(self) -> str | None:
        self.take("L")  # internal linkage
        digits = re.compile("[1-9][0-9]{0,3}").match(self.text, self.at)
        if digits is None:
            return None
        start, length = digits.end(), int(digits.group())
        if start + length > len(self.text):
            return None
        self.at = start + length
        word = self.text[start : self.at]
        while self.take("B"):  # an ABI tag
            if self._source() is None:
                return None
        return _ANONYMOUS if word.startswith("_GLOBAL__N") else word

    def _nested(self) -> str | None:
        while self.peek() in ("r", "V", "K", "R", "O") and self.peek():
            self.at += 1
        parts: list[str] = ["std"] if self.take("St") else []
        while not self.take("E"):
            if parts and self.peek(2) in ("C1", "C2", "C3"):
                self.at += 2
                parts.append(parts[-1])
            elif parts and self.peek(2) in ("D0", "D1", "D2"):
                self.at += 2
                parts.append("~" + parts[-1])
            else:
                part = self._source()
                if part is None:
                    return None
                parts.append(part)
        return "::".join(parts) if parts else None

    def _local(self) -> str | None:
        # Z <function> <its types> E <name>
        function = self.name()
        if function is None or not self._skip_types():
            return None
        inner = self.name()
        return None if inner is None else f"{function}::{inner}"

    def _skip_types(self) -> bool:
        depth = 0
        while self.at < len(self.text):
            char = self.peek()
            if char == "E" and depth == 0:
                self.at += 1
                return True
            if char.isdigit():
                if self._source() is None:
                    return False
                continue
            depth += (char in "NIFXJ") - (char == "E")
            self.at += 1
        return False


def candidates(name: str) -> list[bytes]:
    """The symbols that a variable of this C++ name would have, where that can be told from the name.

    >>> candidates("ns::counter")[0]
    b'_ZN2ns7counterE'
    """
    parts = name.split("::")
    words = [_MANGLED_ANONYMOUS if part == _ANONYMOUS else part for part in parts]
    if not all(re.fullmatch(r"[^\W\d]\w*", word) for word in words):
        return []
    *scope, last = (f"{len(word.encode())}{word}" for word in words)
    if not scope:
        inner = f"{len(_MANGLED_ANONYMOUS)}{_MANGLED_ANONYMOUS}"
        forms = [f"_ZL{last}", f"_ZN{inner}{last}E", f"_ZN{inner}L{last}E"]
    else:
        forms = [f"_ZN{''.join(scope)}{last}E", f"_ZN{''.join(scope)}L{last}E"]
        if words[0] == "std":
            inner = "".join(scope[1:])
            forms.append(f"_ZNSt{inner}{last}E" if inner else f"_ZSt{last}")
    return [form.encode() for form in forms]


def without_scopes(symbol: str) -> str:
    """Return the last part of a mangled symbol's name; empty where it cannot be read.

    >>> without_scopes("_ZN2ns7counterE")
    'counter'
    """
    return (demangle(symbol.partition(".")[0]) or "").rpartition("::")[2]


def same_name(symbol: str, name: str) -> bool:
    """Whether a mangled symbol is what a user means by ``name``.

    Anonymous namespaces need not be written, and a static of a function may be named alone, as gdb has it.
    """
    full = demangle(symbol.partition(".")[0])
    if full is None:
        return False
    wanted = without_parameters(name)
    open_name = full.replace(_ANONYMOUS + "::", "")
    if wanted in (full, open_name):
        return True
    return symbol.startswith("_ZZ") and "::" not in wanted and open_name.rpartition("::")[2] == wanted
