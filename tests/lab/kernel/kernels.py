# SPDX-License-Identifier: BSD-2-Clause
"""The one list of kernels that the suite boots.

Each is named by the meta package of a Debian suite, because point releases vanish from the mirrors
as soon as the next one is out; a series that has no meta package, by a pattern, of which the newest package
is taken. Security suites are preferred: they hold the same newest kernel as the release, and their index is
a tenth of its size.
"""

from __future__ import annotations

from dataclasses import dataclass

from lab.kernel import LabError

X86, ARM64 = "x86_64", "aarch64"


@dataclass(frozen=True)
class Kernel:
    """A kernel that the suite knows.

    Attributes:
        name: What the suite calls it.
        suite: Debian suite, as in apt's sources.
        package: The meta package; with ``*``, the newest package of that name.
        quick: Whether every run of the suite boots it; the others are asked for.
        kaslr: Whether its addresses are randomised at boot.
        machine: Whose instructions it is made of, as ``uname -m`` says it.
    """

    name: str
    suite: str
    package: str = "linux-image-cloud-amd64"
    quick: bool = False
    kaslr: bool = False
    machine: str = X86


KERNELS = (
    Kernel("bookworm-6.1", "bookworm-security", quick=True),
    Kernel("bookworm-6.1-kaslr", "bookworm-security", kaslr=True),
    Kernel("bullseye-5.10", "bullseye-security"),
    Kernel("bookworm-6.12", "bookworm-security", "linux-image-6.12-cloud-amd64"),
    Kernel("backports-6.18", "trixie-backports", "linux-image-6.18.*-cloud-amd64"),
    Kernel("backports", "trixie-backports"),
    # Of Debian 12's 6.1 for arm64, kallsyms has no variables.
    Kernel("arm64", "bookworm-security", "linux-image-6.12-cloud-arm64", machine=ARM64),
)


def chosen(words: str) -> tuple[Kernel, ...]:
    """The kernels that the words ask for.

    Args:
        words: Names separated by commas or blanks; ``all``; empty for the quick set.

    Raises:
        LabError: A name is not in the list.
    """
    names = words.replace(",", " ").split()
    if not names:
        return tuple(kernel for kernel in KERNELS if kernel.quick)
    if names == ["all"]:
        return KERNELS
    known = {kernel.name: kernel for kernel in KERNELS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise LabError(f"no kernel is called {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(known[name] for name in names)
