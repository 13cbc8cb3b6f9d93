# SPDX-License-Identifier: BSD-2-Clause
"""The files of a tracing directory: what reading and writing each of them means."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from ksym.errors import KsymError, UsageError
from ksym.linux.cpus import online_cpus, possible_cpus
from ksym.linux.files import read_text
from ksym.tracing import layout
from ksym.tracing.buffer import Entry
from ksym.tracing.error_log import number_of
from ksym.tracing.instance import FILTER, TRACERS, Instance
from ksym.tracing.nodes import Caller, Directory, File, Handle, Node, Text, refusal

_MARKER_MOST = 4096
"""Bytes of one marker; tracefs takes no more at a time either (TRACE_MARKER_MAX_SIZE, kernel/trace/trace.c)."""
_READ_WRITE, _READ, _WRITE = 0o600, 0o400, 0o200

README = """\
Who reads or writes this variable? ksym's tracing directory, after ftrace's ksym_tracer of 2.6.33 to 2.6.35.

  # echo pid_max:rw- > ksym_trace_filter     watch a kernel variable
  # cat trace                                see who touched it
  # echo pid_max:-w- > ksym_trace_filter     writes alone, from now on
  # echo pid_max:--- > ksym_trace_filter     watch it no more

ksym_trace_filter   one request a line, NAME:ACCESS [if CONDITION]; ACCESS is rw-, -w-, r--, --x, or --- to clear;
                    0, *:--- or an empty write clears all; read back newest first
ksym_profile        hits of each, as counted by the hardware's own counters
trace               what was caught and not consumed; writing to it empties it
trace_pipe          the same as it comes; what is read is consumed
tracing_on          0 or 1
current_tracer      ksym_tracer, or nop: nothing is recorded, the filters stay
buffer_size_kb      for each CPU; the oldest entries make room for new ones
trace_options       values, stacktrace, twin, ksym-format; no in front turns one off
trace_marker        what is written stands in the trace among the accesses
error_log           why a write failed, with a caret under the place
per_cpu/cpuN/trace  one CPU's part
instances/          mkdir makes another set of filters with a buffer of its own, rmdir removes it
"""


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


class _Own(File):
    """A file of an instance, which knows how many are open.

    Args:
        instance: Whose it is.
        mode: Permission bits.
        make: What makes a handle.
        stream: See File.
    """

    def __init__(
        self, instance: Instance, mode: int, make: Callable[[int, Caller], Handle], *, stream: bool = False
    ) -> None:
        super().__init__(mode, stream=stream)
        self._instance, self._make = instance, make

    def open(self, flags: int, caller: Caller) -> Handle:
        """See File.open."""
        handle = self._make(flags, caller)
        self._instance.opened += 1
        return _Counted(handle, self._instance)


class _Counted(Handle):
    """A handle that its instance counts."""

    def __init__(self, handle: Handle, instance: Instance) -> None:
        self._handle, self._instance = handle, instance
        self.read, self.write, self.truncate = handle.read, handle.write, handle.truncate  # type: ignore[method-assign]
        self.ready, self.flush = handle.ready, handle.flush  # type: ignore[method-assign]

    def close(self) -> None:
        """See Handle.close."""
        self._instance.opened -= 1
        self._handle.close()


class _Control(Text):
    """Text that can be set.

    Args:
        instance: Whose.
        name: The file's.
        make: What it says.
        act: What writing does.
    """

    def __init__(
        self, instance: Instance, name: str, make: Callable[[], str], act: Callable[[str], None] | None
    ) -> None:
        super().__init__(lambda: _bytes(make()))
        self._instance, self._name, self._act = instance, name, act

    def write(self, offset: int, data: bytes) -> int:
        """See Handle.write."""
        if self._act is None:
            raise refusal(errno.EINVAL)
        try:
            self._instance.attempt(self._name, self._act, data.decode(errors="replace"))
        except KsymError as error:
            raise refusal(number_of(error)) from error
        return len(data)


class _Filter(_Control):
    """``ksym_trace_filter``, open.

    An empty write never leaves the shell: ``: > ksym_trace_filter`` opens the file with O_TRUNC, writes nothing and
    closes it. But ``echo pid_max:rw- > ksym_trace_filter`` opens it so, too, and must not clear anything.
    """

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance, FILTER, instance.filters.text, instance.filters.write)
        self._emptied = False

    def truncate(self) -> None:
        """See Handle.truncate."""
        self._emptied = True

    def write(self, offset: int, data: bytes) -> int:
        """See Handle.write."""
        self._emptied = False
        return super().write(offset, data)

    def close(self) -> None:
        """See Handle.close."""
        if self._emptied:
            self._instance.filters.clear()


class _Trace(Handle):
    """``trace``, open: what was there when it was read from its start."""

    def __init__(self, instance: Instance, cpu: int | None) -> None:
        self._instance, self._cpu = instance, cpu
        self._text = b""
        self._rest: Iterator[Entry] | None = None

    def read(self, offset: int, size: int) -> bytes:
        """See Handle.read."""
        if self._rest is None or not offset:
            self._begin()
        assert self._rest is not None
        parts, length = [self._text], len(self._text)
        while length < offset + size and (entry := next(self._rest, None)) is not None:
            parts.append(_bytes(self._rows.text(entry)))
            length += len(parts[-1])
        self._text = b"".join(parts)
        return self._text[offset : offset + size]

    def _begin(self) -> None:
        instance, buffer, cpu = self._instance, self._instance.buffer, self._cpu
        instance.collect()
        entries = buffer.entries(cpu)
        self._rows = instance.rows(entries)
        head = layout.frame(instance.tracer, len(entries), buffer.written(cpu), len(online_cpus()))
        self._text = _bytes(head + self._rows.header())
        self._rest = iter(entries)

    def write(self, offset: int, data: bytes) -> int:
        """See Handle.write."""
        self._instance.empty(self._cpu)
        return len(data)

    def truncate(self) -> None:
        """See Handle.truncate."""
        self._instance.empty(self._cpu)


class _Pipe(Handle):
    """``trace_pipe``, open."""

    def __init__(self, instance: Instance, file: PipeFile) -> None:
        self._instance, self._file = instance, file
        self._left = b""
        self._had = False

    def read(self, offset: int, size: int) -> bytes | None:
        """See Handle.read; once tracing is off, who has read something gets to an end, as in ftrace."""
        self._instance.collect()
        rows = self._instance.rows([])
        text = bytearray(self._left)
        while len(text) < size and (found := self._instance.buffer.take()):
            dropped, entry = found
            text += _bytes("".join(layout.missed(*each) for each in dropped) + rows.text(entry))
        self._left = bytes(text[size:])
        self._had |= bool(text)
        if text:
            return bytes(text[:size])
        return b"" if self._had and not self._instance.recording else None

    def ready(self) -> bool:
        """See Handle.ready."""
        self._instance.collect()
        ended = self._had and not self._instance.recording
        return bool(self._left or self._instance.buffer.count() or ended)

    def close(self) -> None:
        """See Handle.close."""
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
        self.taken = True
        self._instance.opened += 1
        return _Counted(_Pipe(self._instance, self), self._instance)


class _Marker(Handle):
    """``trace_marker``, open: each write(2) is a line of the trace."""

    def __init__(self, instance: Instance, caller: Caller) -> None:
        self._instance, self._caller = instance, caller

    def write(self, offset: int, data: bytes) -> int:
        """See Handle.write; EBADF where nothing is recorded, as in tracefs."""
        data = data[:_MARKER_MOST]
        cpu, comm = _where(self._caller.pid)
        text = data.decode(errors="replace").rstrip("\n")
        if not self._instance.mark(cpu, self._caller.pid, comm, text):
            raise refusal(errno.EBADF)
        return len(data)


def _where(tid: int) -> tuple[int, str]:
    """The CPU that a thread runs on, and its name (proc_pid_stat(5): processor is field 39, comm the second)."""
    try:
        head, _, rest = read_text(f"/proc/{tid}/stat").rpartition(")")
        return int(rest.split()[36]), head.partition("(")[2]
    except (OSError, ValueError, IndexError):
        return 0, "<...>"


class _PerCpu(Directory):
    """``per_cpu``."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(
            {f"cpu{cpu}": Directory({"trace": _trace(instance, cpu)}) for cpu in possible_cpus()}
        )


def _trace(instance: Instance, cpu: int | None = None) -> Node:
    return _Own(instance, _READ_WRITE, lambda flags, caller: _Trace(instance, cpu))


def _text(
    instance: Instance, name: str, make: Callable[[], str], act: Callable[[str], None] | None = None
) -> Node:
    mode = _READ if act is None else _READ_WRITE
    return _Own(instance, mode, lambda flags, caller: _Control(instance, name, make, act))


class _ErrorLog(_Control):
    """``error_log``, open: writing to it, or opening it with O_TRUNC, empties it."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(instance, "error_log", instance.errors.text, lambda text: instance.errors.clear())
        self.truncate = instance.errors.clear  # type: ignore[method-assign]


def _set_on(instance: Instance, text: str) -> None:
    if text.strip() not in ("0", "1"):
        raise UsageError(
            f"cannot set tracing_on to '{text.strip()}'", "it is neither 0 nor 1", "write one of them"
        )
    instance.on = text.strip() == "1"


def _set_tracer(instance: Instance, text: str) -> None:
    instance.tracer = text.strip()


def tree(instance: Instance) -> tuple[dict[str, Node], PipeFile]:
    """The files of an instance, and its ``trace_pipe`` among them."""
    pipe = PipeFile(instance)
    on: Callable[[str], None] = lambda text: _set_on(instance, text)  # noqa: E731
    tracer: Callable[[str], None] = lambda text: _set_tracer(instance, text)  # noqa: E731
    names = {
        FILTER: _Own(instance, _READ_WRITE, lambda flags, caller: _Filter(instance)),
        "ksym_profile": _text(instance, "ksym_profile", instance.profile),
        "available_tracers": _text(instance, "available_tracers", lambda: " ".join(TRACERS) + "\n"),
        "current_tracer": _text(instance, "current_tracer", lambda: f"{instance.tracer}\n", tracer),
        "tracing_on": _text(instance, "tracing_on", lambda: f"{int(instance.on)}\n", on),
        "buffer_size_kb": _text(
            instance, "buffer_size_kb", lambda: f"{instance.buffer.kilobytes}\n", instance.set_size
        ),
        "trace_options": _text(
            instance, "trace_options", lambda: instance.options.text(), instance.set_options
        ),
        "trace": _trace(instance),
        "trace_pipe": pipe,
        "trace_marker": _Own(instance, _WRITE, lambda flags, caller: _Marker(instance, caller)),
        "error_log": _Own(instance, _READ_WRITE, lambda flags, caller: _ErrorLog(instance)),
        "per_cpu": _PerCpu(instance),
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
        readme = _Own(self._own, _READ, lambda flags, caller: Text(lambda: README.encode()))
        self.root = Directory({**names, "README": readme, "instances": self.instances})

    def __iter__(self) -> Iterator[tuple[Instance, PipeFile]]:
        yield self._own, self._pipe
        yield from self.instances.all.values()

    def close(self) -> None:
        """Give all registers back."""
        for instance, _ in self:
            instance.close()
