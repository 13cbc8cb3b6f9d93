# SPDX-License-Identifier: BSD-2-Clause
"""Which access a hit was: by what the register sees, what the kernel found out, and what the instruction does.

`kind_of` is the rule for hits that are counted, that come live, and that were recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ksym.capture.instructions import EXECUTE, READ, READ_WRITE, UNKNOWN, WRITE
from ksym.capture.sites import Site
from ksym.language.request import Mode
from ksym.program.layout import Hit
from ksym.watch.plan import Role

if TYPE_CHECKING:
    from numpy import integer
    from numpy.typing import NDArray

_Flags = TypeVar("_Flags", int, "NDArray[integer]")

_SHIFT, _MASK = 2, 7
KINDS_TOLD = tuple(each << _SHIFT for each in range(_MASK + 1))
"""Each combination of the flags of a hit that tell which access it was, in the order of `told_by`."""
assert KINDS_TOLD[-1] == Hit.CHANGED | Hit.READ | Hit.WROTE
_READ, _WROTE, _CHANGED = int(Hit.READ), int(Hit.WROTE), int(Hit.CHANGED)


def kind_of(
    mode: Mode, site: Site, flags: int = 0, role: Role = Role.ONLY, *, traps_after: bool = True
) -> str:
    """Return the access that a hit was.

    Args:
        mode: The accesses asked for.
        site: Where it came from.
        flags: Of `Hit`: what the kernel found out.
        role: Of the register. A twin's registers tell, too, once a write's second hit has been left out.
        traps_after: The machine traps after the access; arm64 traps before it.
    """
    if flags & _WROTE or role is Role.WRITES:
        return _written_at(site)
    if flags & _READ or role is Role.READS:
        # Of an instruction that reads and writes, arm64 reports the read alone.
        reads_and_writes = not traps_after and site.access(writes_only=False) == READ_WRITE
        return READ_WRITE if reads_and_writes else READ
    kind = _kind_at(mode, site)
    return WRITE if kind is UNKNOWN and flags & _CHANGED else kind


def told_by(flags: _Flags) -> _Flags:
    """Return the number in `KINDS_TOLD` of the flags that tell which access a hit was; of an array, too."""
    return flags >> _SHIFT & _MASK


def _kind_at(mode: Mode, site: Site) -> str:
    """Return what an access from here is, as far as the place tells."""
    if mode is Mode.EXECUTE:
        return EXECUTE
    if mode is Mode.WRITE:
        return _written_at(site)  # whatever else it did, the register fires for writes alone
    access = site.access(writes_only=False)
    return READ if mode is Mode.READ and access is UNKNOWN else access


def _written_at(site: Site) -> str:
    """Return what an access from here is, known that it wrote: RW where the instruction does both, else W."""
    return READ_WRITE if site.access(writes_only=True) == READ_WRITE else WRITE


def innocent(site: Site) -> dict[str, Site]:
    """Return, for each access that the decoded instruction cannot make, the site without it.

    Control may have come to the reported address by a jump, while another instruction stands in front of it in memory:
    where the registers tell that it did not make the access, it is not shown.
    """
    if site.instruction is None:
        return {}
    bare = Site(site.ip, site.ip, site.named, None, 0)
    can = site.instruction.accesses
    reads, writes = can & {READ, READ_WRITE}, can & {WRITE, READ_WRITE}
    return ({} if reads else {READ: bare}) | ({} if writes else {WRITE: bare})
