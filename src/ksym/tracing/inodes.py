# SPDX-License-Identifier: BSD-2-Clause
"""The tree as the kernel sees it: nodes by number, their attributes, listings of directories."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from ksym.linux import fuse
from ksym.tracing.nodes import Directory, File, Node, refusal

NAME_MAX = 255
"""Bytes of a name, as in other file systems."""
BLOCK = 4096
"""What programs take for a good size of reads."""
_KNOWN_BYTES = fuse.EntryOut.layout.size + fuse.Attr.layout.size


@dataclass
class _Known:
    node: Node
    lookups: int = 0


class Inodes:
    """The nodes that the kernel knows. It learns of one by a lookup, and counts; it says when it forgets it.

    A node's number in the protocol is its inode number, which is never used again; the root's is always 1.
    """

    def __init__(self, root: Directory) -> None:
        self._root = root
        self._known = {fuse.ROOT_ID: _Known(root)}

    def node(self, number: int) -> Node:
        """The node of a number that the kernel has learnt.

        Raises:
            OSError: it has not (ENOENT).
        """
        if number not in self._known:
            raise refusal(errno.ENOENT)
        return self._known[number].node

    def directory(self, number: int) -> Directory:
        """See `node`; OSError where it is no directory (ENOTDIR)."""
        node = self.node(number)
        if not isinstance(node, Directory):
            raise refusal(errno.ENOTDIR)
        return node

    def file(self, number: int) -> File:
        """See `node`; OSError where it is a directory (EISDIR)."""
        node = self.node(number)
        if not isinstance(node, File):
            raise refusal(errno.EISDIR)
        return node

    def number(self, node: Node) -> int:
        """Its inode number."""
        return fuse.ROOT_ID if node is self._root else node.number

    def attributes(self, node: Node) -> bytes:
        """Its ``struct fuse_attr``."""
        seconds, rest = divmod(node.born_ns, 10**9)
        return fuse.Attr(
            ino=self.number(node), size=0, blocks=0, atime=seconds, mtime=seconds, ctime=seconds,
            atimensec=rest, mtimensec=rest, ctimensec=rest, mode=_kind(node) | node.mode,
            nlink=1,  # of a directory: its subdirectories are not counted (find(1) knows that)
            uid=0, gid=0, rdev=0, blksize=BLOCK,
        ).pack()  # fmt: skip

    def entry(self, node: Node) -> bytes:
        """What a lookup gives: ``struct fuse_entry_out``. The kernel knows the node from now on."""
        number = self.number(node)
        self._known.setdefault(number, _Known(node)).lookups += 1
        return fuse.EntryOut(number, 0, 0, 0, 0, 0).pack() + self.attributes(node)

    def forget(self, number: int, lookups: int) -> None:
        """The kernel takes so many lookups back."""
        known = self._known.get(number)
        if known is not None and number != fuse.ROOT_ID:
            known.lookups -= lookups
            if known.lookups <= 0:
                del self._known[number]


class Listing:
    """A directory that somebody has open."""

    def __init__(self, inodes: Inodes, directory: Directory) -> None:
        self._inodes, self._directory = inodes, directory
        self._entries: list[tuple[str, Node]] = []

    def read(self, offset: int, size: int, *, plus: bool) -> bytes:
        """As many entries from ``offset`` on as fit, from a list made when the reading starts at the first.

        Args:
            offset: How many entries to pass over.
            size: At most so many bytes.
            plus: Each is a lookup, too (READDIRPLUS).
        """
        if not offset:
            here: list[tuple[str, Node]] = [(".", self._directory), ("..", self._directory)]
            self._entries = here + list(self._directory.names.items())
        parts, left = [], size
        for position, (name, node) in enumerate(self._entries[offset:], offset):
            text = os.fsencode(name)
            entry = (
                fuse.Dirent(self._inodes.number(node), position + 1, len(text), _kind(node) >> 12).pack()
                + text
            )
            entry += bytes(-len(entry) % 8)
            left -= len(entry) + (_KNOWN_BYTES if plus else 0)
            if left < 0:
                break
            if plus:  # . and .. are no lookups: zeros stand there
                parts.append(bytes(_KNOWN_BYTES) if position < 2 else self._inodes.entry(node))
            parts.append(entry)
        return b"".join(parts)


def _kind(node: Node) -> int:
    return stat.S_IFDIR if isinstance(node, Directory) else stat.S_IFREG
