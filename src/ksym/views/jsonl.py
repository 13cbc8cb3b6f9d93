# SPDX-License-Identifier: BSD-2-Clause
"""``--format json``: an object a line."""

from __future__ import annotations

import json

from ksym.capture.access import Access
from ksym.capture.sites import Site
from ksym.linux.clock import wall_offset
from ksym.views.fields import fields
from ksym.views.rows import PLACES_KEPT

# What a place decides, in the contract's order: in front of the values, behind them, behind the stack.
_PARTS = (
    ("symbol", "address", "length", "access"),
    ("ip", "function", "offset", "instruction"),
    ("module", "instruction_address"),
)


class JsonLines:
    """JSON lines; ``time_ns`` is nanoseconds since the epoch.

    A run has few places and many accesses: the part of the line that a place decides is encoded once.
    """

    def __init__(self) -> None:
        self._offset = wall_offset()
        self._encode = json.JSONEncoder(check_circular=False).encode
        self._parts: dict[tuple[Site, int, int, str], tuple[str, ...]] = {}
        self._comms: dict[str, str] = {}

    def header(self) -> str:
        """See Rows: there is none."""
        return ""

    def row(self, access: Access) -> str:
        """See Rows."""
        old = access.old.json if access.old else "null"
        new = access.new.json if access.new else "null"
        return (
            f'{{"time_ns": {access.time_ns + self._offset}, {self.begin(access)}, "old": {old}, "new": {new}, '
            f"{self.end(access)}"
        )

    def begin(self, access: Access) -> str:
        """What stands between the time and the values."""
        comm = self._comms.get(access.comm)
        if comm is None:
            if len(self._comms) >= PLACES_KEPT:
                self._comms.clear()
            comm = self._comms[access.comm] = self._encode(access.comm)
        return (
            f'"cpu": {access.cpu}, "pid": {access.pid}, "tid": {access.tid}, "comm": {comm}, '
            f"{self._texts(access)[0]}"
        )

    def end(self, access: Access) -> str:
        """What stands behind the values, with the end of the line."""
        _, behind, last = self._texts(access)
        stack = self._encode([str(frame) for frame in access.stack]) if access.stack else "null"
        uid = "null" if access.uid is None else access.uid
        return f'{behind}, "hits": {access.hits}, "stack": {stack}, {last}, "uid": {uid}}}\n'

    def _texts(self, access: Access) -> tuple[str, ...]:
        key = access.site, access.watch.index, access.address, access.access
        parts = self._parts.get(key)
        if parts is None:
            if len(self._parts) >= PLACES_KEPT:
                self._parts.clear()
            parts = self._parts[key] = self._place(access)
        return parts

    def _place(self, access: Access) -> tuple[str, ...]:
        """The members of each of `_PARTS`, without braces."""
        whole = fields(access, self._offset)
        return tuple(self._encode({name: whole[name] for name in names})[1:-1] for names in _PARTS)
