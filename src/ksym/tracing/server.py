# SPDX-License-Identifier: BSD-2-Clause
"""Serving a tree of nodes on a directory, in one thread, inside somebody's event loop.

    >>> with Server("/run/ksym", Directory({"answer": Answer()})) as server:
    ...     while poll(server):
    ...         server.serve_ready()

The thread that serves must not touch the directory itself: it would wait for its own answer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ksym.errors import KsymError
from ksym.linux.mounts import FuseMount
from ksym.tracing.nodes import Directory, File
from ksym.tracing.opened import MAX_READ, MAX_WRITE
from ksym.tracing.session import ProtocolError, Session

_BATCH = 64
"""So many requests are served at a time; others in the loop get their turn then."""


_PATIENCE = 0.3
"""Seconds for readers to close their files at the end."""


class Unmounted(Exception):
    """Somebody has unmounted the directory, or aborted the connection."""


class Server:
    """A tree, mounted on a directory while the server is entered.

    Args:
        mountpoint: An empty directory; nothing else may be mounted there by us, but what a dead server left.
        root: The tree.
        report: Told of what nodes raise that is no OSError: bugs. Nothing else comes of them but EIO.
    """

    def __init__(
        self, mountpoint: str, root: Directory, report: Callable[[Exception], object] = lambda error: None
    ) -> None:
        self.mountpoint = mountpoint
        self._report = report
        self._session = Session(root, self._send, report)
        self._mount: FuseMount | None = None
        self._buffer = bytearray(MAX_WRITE + 4096)

    def __enter__(self) -> Self:
        """Mount it.

        Raises:
            KsymError: that cannot be done.
        """
        self._mount = FuseMount(self.mountpoint, max_read=MAX_READ)
        try:
            self.serve_ready()  # the kernel's introduction, which mount(2) has left there
            self._session.require_started()
        except (ProtocolError, Unmounted) as error:
            self.close()
            raise KsymError(f"cannot mount on {self.mountpoint}", str(error)) from None
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unmount it, if it is still mounted. Reads that wait get the end of the file."""
        self.close()

    def close(self) -> None:
        """See __exit__."""
        if self._mount is None:
            return
        try:
            self._say_farewell()
        finally:
            self._session.close()
            self._mount.close()
            self._mount = None

    def _say_farewell(self) -> None:
        """End reads that wait, and serve their readers until they have closed the file, so that they see no error."""
        self._session.end()
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        latest = time.monotonic() + _PATIENCE
        with contextlib.suppress(Unmounted):
            self.serve_ready()  # reads that have come meanwhile end, too
            while (
                self._session.closing and (left := latest - time.monotonic()) > 0 and poll.poll(left * 1000)
            ):
                self.serve_ready()

    def fileno(self) -> int:
        """The descriptor to poll for reading; level-triggered."""
        assert self._mount is not None, "not mounted"
        return self._mount.device

    @property
    def pending(self) -> int:
        """Reads that wait for a `wake`."""
        return self._session.pending

    def serve_ready(self) -> None:
        """Answer what has come, without waiting; a part of it where that is much.

        Raises:
            Unmounted: nothing will come any more.
        """
        for _ in range(_BATCH):
            try:
                length = os.readv(self.fileno(), [self._buffer])
            except BlockingIOError:
                return
            except FileNotFoundError:
                continue  # the request was taken back meanwhile
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.ECONNABORTED):
                    raise Unmounted(f"{self.mountpoint} was unmounted") from None
                raise
            self._session.handle(bytes(memoryview(self._buffer)[:length]))

    def wake(self, file: File) -> None:
        """There may be something to read now where reads waited, or polls."""
        self._session.wake(file)

    def _send(self, message: bytes) -> None:
        try:
            os.write(self.fileno(), message)
        except OSError as error:
            # ENOENT: whoever asked is gone. ENODEV: all are, as the next read tells.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                self._report(error)  # the kernel has answered for us, with EIO
