# SPDX-License-Identifier: BSD-2-Clause
"""Text in the format of /proc/kallsyms or a System.map: lines that are none are passed over, nothing is raised."""

from __future__ import annotations

from itertools import islice

from ksym.symbols.kallsyms import Kallsyms

LONGEST = 640
_SOME = 3


def run(data: bytes) -> None:
    """Ask all that can be asked, by names and addresses of its own."""
    table = Kallsyms(data, "System.map", slide=0x1000)
    _ = table.hidden, table.has_data
    table.names(text_only=True)
    names = list(islice(table.names(), _SOME)) + list(islice(table.names(text_only=True), _SOME))
    for name in dict.fromkeys([*names, "", "\udc80", "_text"]):
        for symbol in table.find(name)[:_SOME]:
            assert symbol.name == name
            table.room(symbol)
            table.at(symbol.address)
            table.find(name, symbol.module)
            str(symbol)
        table.edge(name)
    for module in [*list(islice(sorted(table.modules()), _SOME)), "m"]:
        table.find("init_module", module)
    for address in (0, 0x1000, 0xFFFFFFFF81000010, 1 << 64):
        found = table.function_at(address)
        assert found is None or found.start <= address
        table.at(address)
