# SPDX-License-Identifier: BSD-2-Clause
"""One access as named fields: what JSON and CSV carry, in the contract's order."""

from __future__ import annotations

from typing import Any

from ksym.capture.access import Access

NAMES = (
    "time_ns", "cpu", "pid", "tid", "comm", "symbol", "address", "length", "access", "old", "new", "ip",
    "function", "offset", "instruction", "hits", "stack", "module", "instruction_address", "uid",
)  # fmt: skip


def fields(access: Access, clock_offset: int) -> dict[str, Any]:
    """The fields of one access, None where a value is not known.

    Args:
        access: The access.
        clock_offset: Added to its CLOCK_MONOTONIC time, to make ``time_ns`` nanoseconds since the epoch.
    """
    site, named, variable = access.site, access.site.named, access.watch.variable
    instruction = site.instruction
    return {
        "time_ns": access.time_ns + clock_offset,
        "cpu": access.cpu,
        "pid": access.pid,
        "tid": access.tid,
        "comm": access.comm,
        "symbol": access.watch.name,
        "address": hex(access.address),
        "length": variable.length,
        "access": access.access,
        "old": access.old.plain if access.old else None,
        "new": access.new.plain if access.new else None,
        "ip": hex(site.ip),
        "function": named.function,
        "offset": named.offset if named.function is not None else None,
        "instruction": instruction.text if instruction else None,
        "hits": access.hits,
        "stack": [str(frame) for frame in access.stack] if access.stack else None,
        "module": named.owner,
        "instruction_address": hex(instruction.address) if instruction else None,
        "uid": access.uid,
    }
