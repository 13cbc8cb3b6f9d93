# SPDX-License-Identifier: BSD-2-Clause
"""The targets, by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
NAMES = (
    "requests", "demangled", "kallsyms", "btf", "elf", "dwarf", "perf_data", "perf_damage", "fuse_tree", "fuse_tracing",
)  # fmt: skip
STRUCTURED = ("perf_data", "perf_damage", "fuse_tree", "fuse_tracing")
"""Their inputs are changed by what they are made of; to watch what they are compared with takes a third of the time."""
_ABOUT = {
    "requests": ("language", "symbols.ctext"),
    "demangled": ("symbols.demangle",),
    "kallsyms": ("symbols.kallsyms",),
    "btf": ("symbols", "capture"),
    "elf": ("symbols",),
    "dwarf": ("symbols",),
    "perf_data": ("recording", "capture", "views", "reports"),
    "perf_damage": ("recording",),
    "fuse_tree": ("tracing", "linux.fuse"),
    "fuse_tracing": ("tracing", "linux.fuse", "language"),
}
"""What each is about, below ``ksym``: the code in which new places count. Watching all of it takes a third longer."""


class Target(NamedTuple):
    """A reader of foreign bytes.

    Args:
        run: Gives it some, and looks whether it keeps its contract.
        mutate: Makes other bytes of some: (them, bytes at most, seed); None: as atheris does.
        longest: Bytes that are worth a try.
        replay: The same with all that takes too long for a million of them.
    """

    run: Callable[[bytes], None]
    mutate: Callable[[bytes, int, int], bytes] | None
    longest: int
    replay: Callable[[bytes], None]


def load(name: str) -> Target:
    """The target of that name."""
    module = import_module(f"fuzz.target_{name}")
    return Target(
        module.run, getattr(module, "mutate", None), module.LONGEST, getattr(module, "replay", module.run)
    )


def seeds(name: str) -> list[Path]:
    """What it starts from."""
    return sorted((FOLDER / "seeds" / name).glob("*"))


def found(name: str) -> list[Path]:
    """What once broke it."""
    return sorted((FOLDER / "found" / name).glob("*"))


def about(name: str) -> tuple[str, ...]:
    """Packages and modules below ``ksym`` that a target is about."""
    return _ABOUT[name]


def apart(name: str) -> list[str]:
    """Modules of ksym's that a target is not about."""
    spec = find_spec("ksym")  # not an import, as what is imported already is not watched
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    watched = tuple(f"ksym.{each}." for each in about(name))
    paths = [path.relative_to(root.parent).with_suffix("").parts for path in root.rglob("*.py")]
    modules = [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in paths]
    return [module for module in modules if not f"{module}.".startswith(watched)]
