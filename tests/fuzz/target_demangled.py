# SPDX-License-Identifier: BSD-2-Clause
"""C++ names, mangled and not: a text or None comes out, whatever goes in."""

from __future__ import annotations

from fuzz.contract import Broken
from ksym.symbols import demangle

LONGEST = 4200
_MOST = 1 << 20


def run(data: bytes) -> None:
    """One name, by the runtime's demangler and by ksym's own."""
    name = data.decode("utf-8", "surrogateescape").replace("\0", "")
    made = demangle.demangle.__wrapped__(name)
    if made is not None and len(made) > _MOST:
        raise Broken("a name of megabytes")
    demangle.decode(name)
    demangle.without_parameters(name)
    demangle.candidates(name)
    demangle.same_name(name, name[2:])
