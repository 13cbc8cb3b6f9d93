# SPDX-License-Identifier: BSD-2-Clause
"""FUSE requests about the tracing directory, over registers that are counted: one answer each, no bug reported.

What is read from it has no control character but tab and newline, whoever wrote what; in the end all is given back.
"""

from __future__ import annotations

from fuzz.contract import Broken
from fuzz.fuse_kernel import Bytes, Kernel, conversation
from ksym.linux import fuse
from ksym.tracing.files import TracingDirectory
from ksym.tracing.instance import Instance
from ksym.tracing.planted import How
from support.tracing import Machine

LONGEST = 600
_NAMES = (
    "ksym_trace_filter", "ksym_profile", "available_tracers", "current_tracer", "tracing_on", "buffer_size_kb",
    "trace_options", "trace", "trace_pipe", "trace_marker", "error_log", "per_cpu", "cpu0", "README", "instances", "a",
    "b\x1b[2J", "..",
)  # fmt: skip
_WRITES = (
    b"pid_max:rw-\n", b"jiffies:-w-", b"pid_max:---\n", b"0\n", b"*:---", b"", b"nosuch:rw-", b"a:r--\nb:r--\nc:rw-\n",
    b"pid_max:rw- if new > \x1b", b"nop", b"ksym_tracer\n", b"1", b"values stacktrace noksym-format", b"64\n",
    b"99999999999999999999", b"noksym-format", b"\x1b]0;x\x07\n\x9b\xe2\x80\xae", b"task(self).comm:rw-", b"x:rw-\n\n",
)  # fmt: skip


class _Watched(Kernel):
    """Looks at what is read, too."""

    def _answered(self, message: bytes) -> None:
        super()._answered(message)
        opcode = self._opcode
        if opcode == fuse.Opcode.READ and len(message) > fuse.OutHeader.layout.size:
            text = message[fuse.OutHeader.layout.size :].decode(errors="ignore")
            if not text.replace("\n", "").replace("\t", "").isprintable():
                raise Broken("control characters")


def run(data: bytes) -> None:
    """One mount."""
    machine = Machine()
    directory = TracingDirectory(lambda: Instance(How(), machine.plant, machine.clock))
    kernel = _Watched(directory.root, _NAMES, _WRITES)

    def between(what: int, source: Bytes) -> None:
        planted = machine.planted
        if what & 1 and planted:
            planted[what % len(planted)].hit(1 + source.byte() % 8, source.byte() % 4, "RW"[what >> 1 & 1])
        for instance, pipe in directory:
            if instance.collect() or pipe.taken:
                kernel.wake(pipe)

    conversation(data, kernel, between)
    directory.close()
    if machine.used:
        raise Broken("registers are not given back")
    if kernel.bugs:
        raise kernel.bugs[0]
