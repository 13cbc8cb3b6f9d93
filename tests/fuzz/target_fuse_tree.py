# SPDX-License-Identifier: BSD-2-Clause
"""FUSE requests about a small tree of files, some of which misbehave: one answer each, and nothing raised."""

from __future__ import annotations

from unittest import mock

from fuzz.contract import Broken
from fuzz.fuse_kernel import Bytes, Kernel, conversation
from support import fuse_tree

LONGEST = 600
_NAMES = (
    "answer", "long", "note", "calls", "pipe", "marker", "full", "unknown", "broken", "many", "instances", "busy",
    "file7", "..", "x" * 300, "no\udc80".encode(errors="replace").decode(),
)  # fmt: skip
_WRITES = (b"hello\n", b"", b"\0" * 100, b"\x1b[2J")


def run(data: bytes) -> None:
    """One mount."""
    with mock.patch.object(fuse_tree, "MANY", 12):
        root = fuse_tree.tree(lambda file: kernel.wake(file))
    kernel = Kernel(root, _NAMES, _WRITES)
    pipe = root.names["pipe"]
    assert isinstance(pipe, fuse_tree.Pipe)

    def between(what: int, source: Bytes) -> None:
        if what & 1:
            pipe.feed(source.take(3))
        else:
            kernel.wake(pipe)

    conversation(data, kernel, between)
    if any(str(bug) != "a bug" for bug in kernel.bugs):
        raise Broken(f"reported {kernel.bugs!r}") from kernel.bugs[0]
