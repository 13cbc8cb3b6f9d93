# SPDX-License-Identifier: BSD-2-Clause
"""The targets, by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
NAMES = (
    "requests", "demangled", "kallsyms", "btf", "elf", "dwarf", "perf_data", "perf_damage", "fuse_tree", "fuse_tracing",
)  # fmt: skip


class Target(NamedTuple):
    """A reader of foreign bytes.

    Args:
        run: Gives it some, and looks whether it keeps its contract.
        mutate: Makes other bytes of some: (them, bytes at most, seed); None: as atheris does.
        longest: Bytes that are worth a try.
    """

    run: Callable[[bytes], None]
    mutate: Callable[[bytes, int, int], bytes] | None
    longest: int


def load(name: str) -> Target:
    """The target of that name."""
    module = import_module(f"fuzz.target_{name}")
    return Target(module.run, getattr(module, "mutate", None), module.LONGEST)


def seeds(name: str) -> list[Path]:
    """What it starts from."""
    return sorted((FOLDER / "seeds" / name).glob("*"))


def found(name: str) -> list[Path]:
    """What once broke it."""
    return sorted((FOLDER / "found" / name).glob("*"))
