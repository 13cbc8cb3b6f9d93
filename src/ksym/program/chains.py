# SPDX-License-Identifier: BSD-2-Clause
"""Chains of values, as ksym sees them: which memory has one, where it begins, and what the last access has left.

Programs in the kernel go on with the chain of the memory that a hit was in (`program.value_code`, `program.lifecycle`).
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from ksym.linux import bpf
from ksym.program.layout import padded
from ksym.program.shared import MEMORY_BYTES, PLACES, Chain, Shape, Shared, key_of

if TYPE_CHECKING:
    from ksym.symbols.address_spaces import AddressSpaces


class Chains:
    """The chains of a run's user variables.

    Args:
        maps: The maps of the programs; ``chains`` and ``memories`` are among them where programs use them.
        shape: Of the memory that programs share with ksym.
        shared: That memory.
        lengths: Of each watch's variable, bytes.
        spaces: Tells processes' address spaces; None: chains belong to processes.
    """

    def __init__(
        self,
        maps: Mapping[str, bpf.Map],
        shape: Shape,
        shared: Shared,
        lengths: Sequence[int],
        spaces: AddressSpaces | None,
    ) -> None:
        self._maps, self._shape, self._shared_state, self._lengths = maps, shape, shared, lengths
        self._spaces = spaces
        self._free_seeds = list(range(shape.first_placed_seed, shape.seeds))
        self._seeds: dict[tuple[int, int, int], int] = {}
        """Seed number of each placed variable, by (watch, PID, address)."""
        self._numbers: dict[tuple[int, int, int], int | None] = {}
        """Place number of each placed variable, by (watch, PID, address)."""
        self._shared: dict[tuple[int, Hashable], int] = {}
        """Keys in ``chains`` of memory that several processes have."""

    def place(
        self, watch: int, pid: int, base: int, *, shared: Hashable | None = None, place: int | None = None
    ) -> None:
        """Tell of a user variable in a process, before a register watches it there.

        Its values continue what is known of that memory: of the process's address space, or of memory that several
        processes have, wherever each has it mapped.

        Args:
            watch: Number of the watch.
            pid: The process, as ksym's pid namespace has it.
            base: Address of the variable there.
            shared: What the memory is where several have it (`linux.maps.shared_memory`); None: it is private.
            place: Number of the place; None: the same as when the variable was placed before.
        """
        chains, memory = self._maps.get("chains"), self._memory(pid)
        if chains is None or memory is None or (watch, pid, base) in self._seeds:
            return
        seed = self._seeds[watch, pid, base] = self._free_seeds.pop() if self._free_seeds else 0
        place = self._numbers.get((watch, pid, base)) if place is None else place
        self._numbers[watch, pid, base] = place
        own = 0
        if shared is not None:
            own = self._shared.setdefault((watch, shared), len(self._shared) + 1)
            self._shared_state.offer(watch, own)
            with contextlib.suppress(OSError):  # another place has begun it
                chains.update(_key(own, watch, 0), self._chain(seed), bpf.NOEXIST)
        with contextlib.suppress(OSError):  # no room: the first access has no old value
            self._list(memory, key_of(watch, base))
            chains.update(_key(memory, watch, base), self._chain(seed, own, place), bpf.NOEXIST)

    def _list(self, memory: int, key: int, *, add: bool = True) -> None:
        """Add a key to those of an address space, by which its chains are found when it forks or ends."""
        memories = self._maps.get("memories")
        if memories is None:
            return
        known = memories.get(_word(memory))
        if not add and known is None:
            return
        keys = {each for (each,) in struct.iter_unpack("=Q", known or b"") if each}
        keys = keys | {key} if add else keys - {key}
        memories.update(_word(memory), b"".join(map(_word, sorted(keys)[:PLACES])).ljust(MEMORY_BYTES, b"\0"))

    def places(self) -> list[tuple[int, int, int]]:
        """Return (watch, PID, address) of each placed variable."""
        return list(self._seeds)

    def seed(self, watch: int, pid: int, base: int, value: bytes) -> None:
        """Tell what a placed variable holds, read after a register watches it there: what the first access finds."""
        number = self._seeds.get((watch, pid, base), 0)
        if number:
            self._shared_state.seed(number, value)

    def unplace(self, watch: int, pid: int, base: int) -> None:
        """A variable's memory is gone from a process, and what comes to its address is another's."""
        chains, memory = self._maps.get("chains"), self._memory(pid)
        if chains is not None and memory is not None:
            chains.delete(_key(memory, watch, base))
            self._list(memory, key_of(watch, base), add=False)
        self._unseed(watch, pid, base)

    def _unseed(self, watch: int, pid: int, base: int) -> None:
        number = self._seeds.pop((watch, pid, base), 0)
        if number:
            self._shared_state.unseed(number)
            self._free_seeds.append(number)

    def inherited(self, place: int, watch: int, pid: int, base: int) -> bool | None:
        """Return True if a process has the registers of a place: its memory is the place's, or a fork of it.

        None where that is not known, as chains do not follow forks.
        """
        if self._spaces is None or (memory := self._memory_now(pid)) is None:
            return None
        chain = self._maps["chains"].get(_key(memory, watch, base))
        number = _field(chain, Chain.PLACE) if chain else None
        return None if number == 0 else number == place + 1

    def unload(self, watch: int, pid: int, base: int) -> None:
        """Ignore the hits of a process that has unloaded a variable while others keep its registers."""
        self._change(watch, pid, base, over=True)

    def reload(self, watch: int, pid: int, base: int, value: bytes | None) -> None:
        """Count the hits of a process again that has reloaded a variable at its address.

        Args:
            watch: Number of the watch.
            pid: The process; it is held.
            base: Address of the variable there.
            value: What it holds; None: that is not known.
        """
        self._change(watch, pid, base, over=False, value=value)

    def unloaded(self, watch: int, pid: int, base: int) -> bool:
        """Return True if the hits of a process are ignored: it, or an ancestor, has unloaded the variable."""
        chains, memory = self._maps.get("chains"), self._memory_now(pid)
        chain = chains.get(_key(memory, watch, base)) if chains and memory else None
        return chain is not None and _field(chain, Chain.OVER) != 0

    def _change(self, watch: int, pid: int, base: int, *, over: bool, value: bytes | None = None) -> None:
        """Begin the chain of a process's variable anew, in the same place."""
        chains, memory = self._maps.get("chains"), self._memory_now(pid)
        if chains is None or memory is None:
            return
        key = _key(memory, watch, base)
        place = _field(chains.get(key) or self._chain(0), Chain.PLACE)
        self._unseed(watch, pid, base)
        known = value is not None and 0 < padded(len(value)) <= self._shape.value_bytes
        head = struct.pack("=QQQQQQ", 0, known, 0, 0, over, place)
        with contextlib.suppress(OSError):
            self._list(memory, key_of(watch, base))
            chains.update(key, (head + (value or b"") * known).ljust(self._shape.chain_bytes, b"\0"))

    def _memory_now(self, pid: int) -> int | None:
        """Return the key of a process's address space; look it up anew if the process has no place."""
        if self._spaces is None or any(pid == each for _, each, _ in self._seeds):
            return self._memory(pid)
        self._spaces.forget(pid)
        try:
            return self._spaces.of(pid)
        finally:
            self._spaces.forget(pid)

    def end_chains(self, place: int) -> None:
        """Delete all chains of a place that has ended, in every address space."""
        self._numbers = {spot: number for spot, number in self._numbers.items() if number != place}
        chains = self._maps.get("chains")
        if chains is None or self._spaces is None:
            return
        every = chains.items(self._shape.chain_bytes)
        for key in [key for key, chain in every if _field(chain, Chain.PLACE) == place + 1]:
            chains.delete(key)
            self._list(*struct.unpack("=QQ", key), add=False)

    def left(self, pid: int) -> None:
        """A process has ended or runs another program: what lay in its memory is nobody's any more."""
        for watch, other, base in [place for place in self._seeds if place[1] == pid]:
            self.unplace(watch, other, base)
        if self._spaces is not None:
            self._spaces.forget(pid)

    def last(self, watch: int, pid: int, base: int) -> bytes | None:
        """Return the value that the last access left in a user variable; None if unknown."""
        chains, memory = self._maps.get("chains"), self._memory(pid)
        chain = chains.get(_key(memory, watch, base)) if chains and memory else None
        if chains is None or chain is None:
            return None
        own = _field(chain, Chain.SHARED)
        if own:
            chain = chains.get(_key(own, watch, 0))
        return self._shared_state.end_of(chain, self._lengths[watch]) if chain else None

    def _chain(self, seed: int, shared: int = 0, place: int | None = None) -> bytes:
        """Return a chain that has no value yet."""
        number = 0 if place is None else place + 1
        return struct.pack("=QQQQQQ", 0, 0, seed, shared, 0, number).ljust(self._shape.chain_bytes, b"\0")

    def _memory(self, pid: int) -> int | None:
        """Return the key of a process's address space in ``chains``."""
        if self._spaces is None:
            return pid
        return self._spaces.of(pid)

    def forget(self, watch: int, pid: int, base: int) -> None:
        """A process has ended: another one with its number has nothing to do with its values."""
        if (chains := self._maps.get("chains")) is not None:
            chains.delete(_key(pid, watch, base))


def _word(number: int) -> bytes:
    return struct.pack("=Q", number)


def _field(chain: bytes, field: Chain) -> int:
    return int(struct.unpack_from("=Q", chain, field)[0])


def _key(memory: int, watch: int, base: int) -> bytes:
    """The key of a chain."""
    return struct.pack("=QQ", memory, key_of(watch, base))
