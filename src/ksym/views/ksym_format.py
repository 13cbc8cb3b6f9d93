# SPDX-License-Identifier: BSD-2-Clause
"""``--format ksym``: the table of ftrace's ksym_tracer in Linux 2.6.35, byte for byte.

Header and rows are those of kernel/trace/trace_ksym.c in v2.6.35: the row is ``%11s-%-5d [%03d] %pS`` for task,
pid, CPU and variable, the type in four columns, and the function as sprint_symbol() writes it.
What 2.6.35 could not say is written in its manner: ``?`` and ``X`` as types.
"""

from __future__ import annotations

from ksym.capture.access import Access
from ksym.capture.sites import Named
from ksym.views.text import printable

_TYPES = {"R": " R  ", "W": " W  ", "RW": " RW ", "X": " X  ", "?": " ?  "}


class KsymFormat:
    """The seed's own table."""

    def header(self) -> str:
        """See Rows."""
        return (
            "#       TASK-PID   CPU#      Symbol                    Type    Function\n"
            "#          |        |          |                        |         |\n"
        )

    def row(self, access: Access) -> str:
        """See Rows."""
        variable = access.watch.variable
        offset = access.address - variable.address if not variable.per_cpu else 0
        return (
            f"{printable(access.comm):>11}-{access.tid:<5} [{access.cpu:03d}] "
            f"{printable(access.watch.name)}+{offset:#x}/{variable.length:#x}{_TYPES[access.access]}"
            f"{_symbol(access.site.named)}\n"
        )


def _symbol(named: Named) -> str:
    """``function+0x5b/0x80 [module]``, or the bare address, as sprint_symbol() does."""
    if named.function is None:
        return f"{named.offset:#x}"
    text = f"{named.function}+{named.offset:#x}/{named.size:#x}"
    return printable(text + (f" [{named.owner}]" if named.owner else ""))
