# SPDX-License-Identifier: BSD-2-Clause
"""The BPF ring buffer (5.8, commit 457f44363a88): records that programs send with ``bpf_ringbuf_output``.

Source of the layout: Documentation/bpf/ringbuf.rst and include/uapi/linux/bpf.h of Linux. A page with the
reader's position, a page with the writers' position, then the data, mapped twice in a row, so that a record is
always contiguous.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

from ksym.linux import bpf

_BUSY, _DISCARD = 1 << 31, 1 << 30
_HEADER = 8


class BpfRing:
    """A ring buffer and its reader.

    Args:
        size: Bytes of data: a power of two, at least a page.

    Raises:
        OSError: The kernel refused (EINVAL before 5.8).
    """

    def __init__(self, size: int) -> None:
        self._map = bpf.Map(bpf.MAP_TYPE_RINGBUF, key=0, value=0, entries=size)
        self._size, page = size, mmap.PAGESIZE
        try:
            self._position = mmap.mmap(self._map.fd, page)
            self._data = mmap.mmap(self._map.fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)
        except BaseException:
            self._map.close()
            raise

    @property
    def fd(self) -> int:
        """Descriptor of the map; readable when there is a record."""
        return self._map.fd

    def take(self) -> Iterator[bytes]:
        """Take the records that are there, oldest first."""
        page = mmap.PAGESIZE
        (at,) = struct.unpack_from("=Q", self._position)
        while at != struct.unpack_from("=Q", self._data)[0]:
            start = page + at % self._size
            (length,) = struct.unpack_from("=I", self._data, start)
            if length & _BUSY:
                return
            record = self._data[start + _HEADER : start + _HEADER + (length & ~_DISCARD)]
            at += -(-(_HEADER + (length & ~_DISCARD)) // 8) * 8
            struct.pack_into("=Q", self._position, 0, at)
            if not length & _DISCARD:
                yield record

    def close(self) -> None:
        """Give the ring back."""
        if not self._data.closed:
            self._data.close()
            self._position.close()
            self._map.close()
