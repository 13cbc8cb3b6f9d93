# SPDX-License-Identifier: BSD-2-Clause
"""Further copies of a library's variable that came while the watch was armed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ksym.capture.usernames import Loaded
from ksym.symbols.readable import readable
from ksym.watch.plan import Watch


def further_copies(watches: Iterable[Watch], watched: Collection[int], loaded: Sequence[Loaded]) -> list[str]:
    """Say which copies were not watched of variables whose file was loaded again: by dlmopen(3), or after a dlclose(3).

    Args:
        watches: All watches of a run.
        watched: Addresses that were watched.
        loaded: What the processes had loaded in the run (`Users.loaded`).
    """
    told = []
    for watch in watches:
        instance = watch.variable.instance
        if instance is None:
            continue
        places = {each.bias for each in loaded if each.files[-1].label == instance.path} - instance.biases
        addresses = sorted({instance.value + bias for bias in places} - set(watched))
        if addresses:
            file = readable(instance.path.rpartition("/")[2])
            where = ", ".join(f"{address:#x}" for address in addresses)
            told.append(f"{file} was loaded again: its copy of {watch.name} at {where} was not watched")
    return told
