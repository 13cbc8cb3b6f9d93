# SPDX-License-Identifier: BSD-2-Clause
"""Reading files of /proc and /sys; pathlib would cost a tenth of a short run's start-up."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

StrPath = str | os.PathLike[str]

_PIECE = 1 << 20
_MOST_INHERITED = 1024

_ahead: dict[str, tuple[int, int]] = {}
"""By path: the process that reads it, and the descriptor of what it has read."""


def find_program(name: str) -> str | None:
    """Return the file that a shell runs as ``name``; None where there is none that may be executed."""
    places = [name] if "/" in name else [os.path.join(folder, name) for folder in os.get_exec_path()]
    return next((each for each in places if os.path.isfile(each) and os.access(each, os.X_OK)), None)


def read_bytes(path: StrPath) -> bytes:
    """All of a file: what was read ahead of it, once, or what it has now.

    Raises:
        OSError: it cannot be read.
    """
    if _ahead and (data := _taken(os.fspath(path))) is not None:
        return data
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def read_text(path: StrPath) -> str:
    """All of a file as text, undecodable bytes replaced.

    Raises:
        OSError: it cannot be read.
    """
    return read_bytes(path).decode(errors="replace")


def read_ahead(path: str) -> None:
    """Have a file read on another CPU, for the first `read_bytes` of it to come.

    For one that the kernel takes long to write out, as long as there is other work to do. A process and no thread:
    for each page read it a thread would have to wait for the interpreter. Where none can be had, or there is no
    other CPU, nothing is done. Before anything is armed `drop_ahead` is to be called: what a reader does would be seen.
    """
    if path in _ahead or len(os.sched_getaffinity(0)) == 1:
        return
    try:
        data = os.memfd_create("ksym-ahead")
    except (OSError, AttributeError):  # Python may have been built without it
        return
    try:
        reader = os.fork()
    except OSError:
        os.close(data)
        return
    if reader == 0:
        _copy_and_exit(path, data)
    _ahead[path] = reader, data


def drop_ahead() -> None:
    """End readers of files that nobody has asked for, and forget what they have read."""
    while _ahead:
        _, (reader, data) = _ahead.popitem()
        os.close(data)
        with suppress(ChildProcessError):  # who waits for COMMAND may have waited for it, too
            if os.waitpid(reader, os.WNOHANG) == (0, 0):
                os.kill(reader, signal.SIGKILL)
                os.waitpid(reader, 0)


def _copy_and_exit(path: str, target: int) -> None:
    status = 1
    try:
        # Who waits for the end of a pipe or for a lock of ksym's caller must not wait for this one.
        os.closerange(0, target)
        os.closerange(target + 1, _MOST_INHERITED)
        source = os.open(path, os.O_RDONLY)
        while piece := os.read(source, _PIECE):
            if os.write(target, piece) != len(piece):
                break
        else:
            status = 0
    finally:
        os._exit(status)


def _taken(path: str) -> bytes | None:
    """What was read ahead of a file; None if nothing was, or it failed."""
    if path not in _ahead:
        return None
    reader, data = _ahead.pop(path)
    try:
        _, status = os.waitpid(reader, 0)
        return os.pread(data, os.fstat(data).st_size, 0) if status == 0 else None
    except OSError:  # ECHILD: SIGCHLD is ignored, or who waits for COMMAND has waited for it
        return None
    finally:
        os.close(data)
