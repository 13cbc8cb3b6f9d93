# SPDX-License-Identifier: BSD-2-Clause
"""Which access a hit was: by what the register sees, what the kernel found out, and what the instruction does."""

from __future__ import annotations

from ksym.capture.instructions import EXECUTE, READ, READ_WRITE, UNKNOWN, WRITE
from ksym.capture.sites import Site
from ksym.language.request import Mode
from ksym.program.layout import Hit


def kind_at(mode: Mode, site: Site) -> str:
    """What an access from here is, as far as the place tells.

    Args:
        mode: What the register sees.
        site: Where it came from.
    """
    if mode is Mode.EXECUTE:
        return EXECUTE
    if mode is Mode.WRITE:
        return written_at(site)  # whatever else it did, the register fires for writes alone
    access = site.access(writes_only=False)
    return READ if mode is Mode.READ and access is UNKNOWN else access


def written_at(site: Site) -> str:
    """What an access from here is, known that it wrote: RW where the instruction does both, else W."""
    return READ_WRITE if site.access(writes_only=True) == READ_WRITE else WRITE


def innocent(site: Site) -> dict[str, Site]:
    """For each access that the decoded instruction cannot make, the site without it.

    Control may have come to the reported address by a jump, while another instruction stands in front of it in memory:
    where the registers tell that it did not make the access, it is not shown.
    """
    if site.instruction is None:
        return {}
    bare = Site(site.ip, site.ip, site.named, None, 0)
    can = site.instruction.accesses
    reads, writes = can & {READ, READ_WRITE}, can & {WRITE, READ_WRITE}
    return ({} if reads else {READ: bare}) | ({} if writes else {WRITE: bare})


def kind_of(mode: Mode, site: Site, flags: int) -> str:
    """The same, where ``flags`` of `Hit` tell what the kernel found out."""
    if flags & Hit.READ:
        return READ
    return written_at(site) if flags & Hit.WROTE else kind_at(mode, site)
