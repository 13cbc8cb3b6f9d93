# SPDX-License-Identifier: BSD-2-Clause
"""zstd streams by the C library libzstd, which nearly every machine has (dpkg and rpm need it).

Python has zstd from 3.14 on; before, a package from elsewhere would be needed on the machine under study.
Source: zstd.h, version 1.4 (ZSTD_compressStream2).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

_FLUSH = 1  # ZSTD_e_flush


class ZstdMissing(Exception):
    """There is no libzstd."""


class _Buffer(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t))


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise ZstdMissing from error
    for name in ("ZSTD_createCCtx", "ZSTD_createDCtx"):
        getattr(library, name).restype = ctypes.c_void_p
    for name in (
        "ZSTD_compressStream2",
        "ZSTD_decompressStream",
        "ZSTD_CStreamOutSize",
        "ZSTD_DStreamOutSize",
    ):
        getattr(library, name).restype = ctypes.c_size_t
    return library


class Compressor:
    """One stream, as perf writes it: flushed at each call, never ended.

    Raises:
        ZstdMissing: libzstd is not installed.
    """

    def __init__(self) -> None:
        self._library = _library()
        self._context = ctypes.c_void_p(self._library.ZSTD_createCCtx())
        self._out = ctypes.create_string_buffer(self._library.ZSTD_CStreamOutSize())

    def compress(self, data: bytes) -> bytes:
        """A piece of the stream from which all of ``data`` can be had."""
        source = _Buffer(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), 0)
        pieces = []
        while True:
            target = _Buffer(ctypes.addressof(self._out), len(self._out), 0)
            left = self._library.ZSTD_compressStream2(
                self._context, ctypes.byref(target), ctypes.byref(source), _FLUSH
            )
            if self._library.ZSTD_isError(ctypes.c_size_t(left)):
                raise OSError(5, "zstd cannot compress")
            pieces.append(self._out.raw[: target.pos])
            if not left:
                return b"".join(pieces)

    def close(self) -> None:
        """Free the stream."""
        self._library.ZSTD_freeCCtx(self._context)


class Decompressor:
    """One stream.

    Raises:
        ZstdMissing: libzstd is not installed.
    """

    def __init__(self) -> None:
        self._library = _library()
        self._context = ctypes.c_void_p(self._library.ZSTD_createDCtx())
        self._out = ctypes.create_string_buffer(self._library.ZSTD_DStreamOutSize())

    def parts(self, data: bytes) -> Iterator[bytes]:
        """What the next piece of the stream holds, in parts of bounded size, as it may be much more than the piece.

        Raises:
            ValueError: it is no piece of a zstd stream.
        """
        source = _Buffer(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), 0)
        while True:
            target = _Buffer(ctypes.addressof(self._out), len(self._out), 0)
            left = self._library.ZSTD_decompressStream(
                self._context, ctypes.byref(target), ctypes.byref(source)
            )
            if self._library.ZSTD_isError(ctypes.c_size_t(left)):
                raise ValueError("no zstd stream")
            yield ctypes.string_at(self._out, target.pos)
            if source.pos == len(data) and target.pos < len(self._out):
                return

    def close(self) -> None:
        """Free the stream."""
        self._library.ZSTD_freeDCtx(self._context)
