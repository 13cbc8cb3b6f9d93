# SPDX-License-Identifier: BSD-2-Clause
"""The kernel lab: run a command as root inside a stock Debian kernel.

ksym's subject is the running kernel, and the kernel of a build machine is rarely a good one to
test on: it may hide its data symbols, be shared with others, or be a single version. QEMU's
software emulation has working debug registers, so a stock kernel of any age can be the machine
under study, with no privileges and no hardware support.

The stages, a module each:

* `kernels`: the one list of kernels that the suite boots.
* `fetch`: name of a kernel -> `Image`, downloaded with this machine's own apt and kept in a cache.
* `image`: what is inside: the kernel itself, unpacked, and its modules in loading order.
* `initramfs`: the guest's first programs. The guest's root is this machine's own root directory,
  read-only, under an overlay in memory: every program and virtual environment is there, and
  nothing that the guest writes comes back, except below the directories named as writable.
* `boot`: QEMU and its file servers, output and exit status, time limits, and what a dead guest
  had to say.

From a shell, with ``tests`` on ``PYTHONPATH``::

    python -m lab.kernel list
    python -m lab.kernel run --kernel bookworm-6.1 --rw ./out -- uname -r

Emulated time is 10 to 20 times slower than real time: counts, order, names and values observed in
a guest mean something, durations do not.
"""

from __future__ import annotations


class LabError(Exception):
    """The lab could not do its work; says nothing about the program under test."""
