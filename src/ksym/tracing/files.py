# SPDX-License-Identifier: BSD-2-Clause
"""The files of a tracing directory: what reading and writing each of them means."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from ksym.errors import KsymError
from ksym.linux.cpus import online_cpus, possible_cpus
from ksym.linux.files import read_text
from ksym.tracing import layout
from ksym.tracing.buffer import Entry
from ksym.tracing.error_log import number_of
from ksym.tracing.instance import FILTER, TRACERS, Instance
from ksym.tracing.nodes import Caller, Directory, File, Handle, Node, Text, refusal
from ksym.tracing.readme import README

_MARKER_MOST = 4096
"""Bytes of one marker; tracefs takes no more at a time either (TRACE_MARKER_MAX_SIZE, kernel/trace/trace.c)."""
_TRACE_MOST = 32 << 10
_PIPE_MOST = 4096
"""Bytes of one read of trace_pipe, as in tracefs: what a killed reader takes with it."""
_READ_WRITE, _READ, _WRITE = 0o600, 0o400, 0o200


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


class _File(File):
    """A file of an instance.

    Args:
        mode: Permission bits.
        make: What makes a handle.
    """

    def __init__(self, mode: int, make: Callable[[], Handle]) -> None:
        super().__init__(mode)
        self._make = make

    def open(self, flags: int, caller: Caller) -> Handle:
        """See File.open."""
        return self._make()


class _Opened(Handle):
    """A file of an instance, open; the instance knows how many are."""

    def __init__(self, instance: Instance) -> None:
        if instance.closed:  # it was reached by a descriptor of its folder
            raise refusal(errno.ENODEV)
        self._instance = instance
        instance.opened += 1

    def close(self) -> None:
        """See Handle.close."""
        self._instance.opened -= 1


class _Shown(_Opened):
    """Text, open.

    Args:
        instance: Whose.
        make: What it says.
    """

    def __init__(self, instance: Instance, make: Callable[[], str]) -> None:
        super().__init__(instance)
        self._text = Text(lambda: _bytes(make()))

    def read(self, offset: int, size: int) -> bytes:
        """See Handle.read."""
        return self._text.read(offset, size)


Act = Callable[[str, Caller], None]
"""Does what a writer asks for."""


class _Control(_Shown):
    """Text that can be set, open.

    Args:
        instance: Whose.
        name: The file's.
        make: What it says.
        act: What writing does.
    """

    def __init__(self, instance: Instance, name: str, make: Callable[[], str], act: Act) -> None:
        super().__init__(instance, make)
        self._name, self._act = name, act

    def write(self, offset: int, data: bytes, caller: Caller) -> int:
        """See Handle.write."""
        try:
            text = data.rstrip(b"\0").decode(errors="replace")  # C programs write sizeof a string
            self._instance.attempt(self._name, lambda text: self._act(text, caller), text)
        except KsymError as error:
            raise refusal(number_of(error)) from error
        return len(data)


class _Filter(_Control):
    """``ksym_trace_filter``, open.

    An empty write may never leave the shell: ``: > ksym_trace_filter`` opens the file with O_TRUNC, writes nothing
    and closes it. But ``echo pid_max:rw- > ksym_trace_filter`` opens it so, too, and must not clear anything.
    """

    def __init__(self, instance: Instance) -> None:
        filters = instance.filters
        # ``task(self)`` is who writes.
        super().__init__(instance, FILTER, filters.text, lambda text, caller: filters.write(text, caller.pid))
        self._emptied = self._written = False

    def truncate(self) -> None:
        """See Handle.truncate."""
        self._emptied = True

    def write(self, offset: int, data: bytes, caller: Caller) -> int:
        """See Handle.write."""
        again, self._written, self._emptied = self._written, True, False
        if again and not data.strip():
            # bash writes each line of an echo by itself. An empty one behind others clears nothing, least of all
            # the one that it writes after a line that was refused.
            return len(data)
        return super().write(offset, data, caller)

    def close(self) -> None:
        """See Handle.close."""
        super().close()
        if self._emptied:
            self._instance.filters.clear()


class _Trace(_Opened):
    """``trace``, open: what was there when it was read from its start."""

    def __init__(self, instance: Instance, cpu: int | None) -> None:
        super().__init__(instance)
        self._cpu = cpu
        self._text = bytearray()
        self._rest: Iterator[Entry] | None = None

    def read(self, offset: int, size: int) -> bytes:
        """See Handle.read; in pieces, between which others are served."""
        size = min(size, _TRACE_MOST)
        if self._rest is None or not offset:
            self._begin()
        assert self._rest is not None
        while len(self._text) < offset + size and (entry := next(self._rest, None)) is not None:
            self._text += _bytes(self._rows.text(entry))
        return bytes(self._text[offset : offset + size])

    def _begin(self) -> None:
        instance, buffer, cpu = self._instance, self._instance.buffer, self._cpu
        instance.collect()
        entries = buffer.entries(cpu)
        self._rows = instance.rows(entries)
        head = layout.frame(instance.tracer, len(entries), buffer.written(cpu), len(online_cpus()))
        self._text = bytearray(_bytes(head + self._rows.header()))
        self._rest = iter(entries)

    def write(self, offset: int, data: bytes, caller: Caller) -> int:
        """See Handle.write."""
        self._instance.empty(self._cpu)
        return len(data)

    def truncate(self) -> None:
        """See Handle.truncate."""
        self._instance.empty(self._cpu)


class _Pipe(_Opened):
    """``trace_pipe``, open."""

    def __init__(self, instance: Instance, file: PipeFile) -> None:
        super().__init__(instance)
        self._file = file
        self._left = b""
        self._had = False

    def read(self, offset: int, size: int) -> bytes | None:
        """See Handle.read; once tracing is off, who has read something gets to an end, as in ftrace."""
        size = min(size, _PIPE_MOST)
        self._instance.collect()
        rows = self._instance.rows([])
        text = bytearray(self._left)
        while len(text) < size and (found := self._instance.buffer.take()):
            dropped, entry = found
            text += _bytes((layout.missed(entry.cpu, dropped) if dropped else "") + rows.text(entry))
        self._left = bytes(text[size:])
        self._had |= bool(text)
        if text:
            return bytes(text[:size])
        return b"" if self._had and not self._instance.on else None

    def ready(self) -> bool:
        """See Handle.ready."""
        self._instance.collect()
        ended = self._had and not self._instance.on
        return bool(self._left or self._instance.buffer.count() or ended)

    def close(self) -> None:
        """See Handle.close."""
        super().close()
        self._file.taken = False


class PipeFile(File):
    """``trace_pipe``: one reader at a time, as in tracefs since 6.8; who comes second gets EBUSY."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(_READ, stream=True)
        self._instance = instance
        self.taken = False

    def open(self, flags: int, caller: Caller) -> Handle:
        """See File.open."""
        if self.taken:
            raise refusal(errno.EBUSY)
        handle = _Pipe(self._instance, self)
        self.taken = True
        return handle


class _Marker(_Opened):
    """``trace_marker``, open: each write(2) is a line of the trace."""

    def write(self, offset: int, data: bytes, caller: Caller) -> int:
        """See Handle.write; EBADF where nothing is recorded, as in tracefs."""
        data = data[:_MARKER_MOST]
        cpu, comm = _where(caller.pid)
        text = data.decode(errors="replace").rstrip("\n")
        if not self._instance.mark(cpu, caller.pid, comm, text):
            raise refusal(errno.EBADF)
        return len(data)


def _where(tid: int) -> tuple[int, str]:
    """The CPU that a thread runs on, and its name (proc_pid_stat(5): processor is field 39, comm the second)."""
    try:
        head, _, rest = read_text(f"/proc/{tid}/stat").rpartition(")")
        return int(rest.split()[36]), head.partition("(")[2]
    except (OSError, ValueError, IndexError):
        return 0, "<...>"


class _ErrorLog(_Shown):
    """``error_log``, open: writing to it, or opening it with O_TRUNC, empties it."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance, instance.errors.text)

    def write(self, offset: int, data: bytes, caller: Caller) -> int:
        """See Handle.write."""
        self._instance.errors.clear()
        return len(data)

    def truncate(self) -> None:
        """See Handle.truncate."""
        self._instance.errors.clear()


def tree(instance: Instance) -> tuple[dict[str, Node], PipeFile]:
    """The files of an instance, and its ``trace_pipe`` among them."""

    def shown(make: Callable[[], str]) -> Node:
        return _File(_READ, lambda: _Shown(instance, make))

    def control(name: str, make: Callable[[], str], act: Callable[[str], None]) -> Node:
        return _File(_READ_WRITE, lambda: _Control(instance, name, make, lambda text, caller: act(text)))

    def trace(cpu: int | None = None) -> Node:
        return _File(_READ_WRITE, lambda: _Trace(instance, cpu))

    pipe = PipeFile(instance)
    names = {
        FILTER: _File(_READ_WRITE, lambda: _Filter(instance)),
        "ksym_profile": shown(instance.profile),
        "available_tracers": shown(lambda: " ".join(TRACERS) + "\n"),
        "current_tracer": control("current_tracer", lambda: f"{instance.tracer}\n", instance.set_tracer),
        "tracing_on": control("tracing_on", lambda: f"{int(instance.on)}\n", instance.set_on),
        "buffer_size_kb": control(
            "buffer_size_kb", lambda: f"{instance.buffer.kilobytes}\n", instance.set_size
        ),
        "trace_options": control("trace_options", lambda: instance.options.text(), instance.set_options),
        "trace": trace(),
        "trace_pipe": pipe,
        "trace_marker": _File(_WRITE, lambda: _Marker(instance)),
        "error_log": _File(_READ_WRITE, lambda: _ErrorLog(instance)),
        "per_cpu": Directory({f"cpu{cpu}": Directory({"trace": trace(cpu)}) for cpu in possible_cpus()}),
    }
    return names, pipe


class Instances(Directory):
    """``instances``.

    Args:
        make: Makes an instance.
    """

    def __init__(self, make: Callable[[], Instance]) -> None:
        super().__init__()
        self._make = make
        self.all: dict[str, tuple[Instance, PipeFile]] = {}

    def mkdir(self, name: str, caller: Caller) -> None:
        """See Directory.mkdir."""
        instance = self._make()
        names, pipe = tree(instance)
        self.all[name] = instance, pipe
        self.names[name] = Directory(names)

    def rmdir(self, name: str, caller: Caller) -> None:
        """See Directory.rmdir; EBUSY while one of its files is open."""
        instance, _ = self.all[name]
        if instance.opened:
            raise refusal(errno.EBUSY)
        instance.close()
        del self.all[name], self.names[name]


class TracingDirectory:
    """All of it.

    Args:
        make: Makes an instance.
    """

    def __init__(self, make: Callable[[], Instance]) -> None:
        self.instances = Instances(make)
        self._own = make()
        names, self._pipe = tree(self._own)
        readme = _File(_READ, lambda: _Shown(self._own, lambda: README))
        self.root = Directory({**names, "README": readme, "instances": self.instances})

    def __iter__(self) -> Iterator[tuple[Instance, PipeFile]]:
        yield self._own, self._pipe
        yield from self.instances.all.values()

    def close(self) -> None:
        """Give all registers back."""
        for instance, _ in self:
            instance.close()
