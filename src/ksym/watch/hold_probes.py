# SPDX-License-Identifier: BSD-2-Clause
"""Holding by programs in the kernel: tracepoints first, and a file's first instruction for those that they let pass.

1. A process of the tree ends an exec(2), or an mmap(2) where a library is waited for. A program holds it there for the
   fraction of a millisecond that a look at its memory map takes. If it has what is wanted, it is stopped by
   ptrace(2) before it returns to user mode, and the program lets it go.
2. A process that is traced by somebody else cannot be stopped so. It goes on, and is held at the first instruction
   of the wanted file itself, by a uprobe whose program spins up to seconds. A uprobe is a breakpoint in the file's
   code, where everybody sees it who reads that, and opening one waits for the kernel (an RCU grace period, some
   10 ms). So they are opened only once a process of the tree executes a program that may trace others.

Only one process at a time is held by a program that spins. One that comes meanwhile is stopped by SIGSTOP.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import os
import signal
import struct
from collections.abc import Sequence
from typing import NamedTuple

from ksym.errors import KsymError
from ksym.linux import bpf, privileges, ptrace
from ksym.linux.bpf_asm import Program
from ksym.linux.bpf_ring import BpfRing
from ksym.linux.files import read_text
from ksym.linux.perf_event import COUNT_SW_DUMMY, TYPE_SOFTWARE, Attr, PerfEvent
from ksym.symbols.btf import Btf
from ksym.symbols.wanted import Placement, Wanted
from ksym.watch import hold_program as programs
from ksym.watch.hold_cpus import Cpus, allowed_cpus
from ksym.watch.hold_layout import (
    MEMBER_BYTES,
    MOST_MEMBERS,
    NAME_BYTES,
    RANGE_BYTES,
    WAITING_BYTES,
    Answer,
    Control,
    Event,
    Files,
    Moment,
    kernel_offsets,
)
from ksym.watch.hold_placements import Placements
from ksym.watch.hold_release import let_all_go
from ksym.watch.hold_tracers import Tracers, why_not_stopped
from ksym.watch.hold_tracing import tracer_of
from ksym.watch.hold_way import Refused, Voice

_UPROBE = "/sys/bus/event_source/devices/uprobe/type"
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, linux/proc_ns.h
_RING_BYTES = 1 << 16
_THREADS = 1 << 12
_TO_DO = "run it as root"


class _How(enum.Enum):
    """What keeps a held process."""

    TRACED, SPINS, STOPPED, RUNS = range(4)


class _Hold(NamedTuple):
    """How a process is held.

    Args:
        event: What was told of it.
        how: What keeps it.
        status: Of the stop of one that is traced.
    """

    event: Event
    how: _How
    status: int = 0


class Probes:
    """See the module.

    Args:
        wanted: What is waited for.
        pids: The processes to look at.
        voice: To ksym.
        tree: See Holder.

    Raises:
        Refused: This machine does not allow it.
    """

    def __init__(self, wanted: Wanted, pids: Sequence[int], voice: Voice, *, tree: bool) -> None:
        self._wanted, self._voice = wanted, voice
        self._placements = Placements(wanted, voice, begun=not tree)
        self._maps: dict[str, bpf.Map] = {}
        self._fds: list[int] = []
        self._events: list[PerfEvent] = []
        self._entries = 0
        """First instructions at which processes are held."""
        self._entries_open = False
        self._tracers = Tracers()
        self._held: dict[int, list[_Hold]] = {}
        """By process; the first one was told."""
        self._seen: dict[int, tuple[int, Placement]] = {}
        """By process: the program that it ran when it was last held, and where it had the files."""
        self._cpus: Cpus | None = None
        cpus = allowed_cpus()
        if len(cpus) < 2:
            raise Refused("holding in the kernel needs a second CPU")
        if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
            raise Refused(
                "programs in the kernel have other process numbers than this PID namespace",
                "run ksym outside of the PID namespace",
            )
        # A held process is stopped by ptrace: without that it would run on unseen.
        if (forbidden := privileges.no_tracing()) is not None:
            raise Refused(*forbidden)
        try:
            self._open(pids, tree=tree)
            self._set(Control.KEEPER_CPU, cpus[-1])
            # Without the tracepoints, which it would keep when the keeper leaves them.
            self._cpus = Cpus(cpus, self._bell, self._fds)
        except (OSError, KsymError) as error:
            self.close()
            why = error.why if isinstance(error, KsymError) else error.strerror
            raise Refused(f"programs in the kernel are refused ({why})", _TO_DO) from error

    def _open(self, pids: Sequence[int], *, tree: bool) -> None:
        self._offsets = offsets = kernel_offsets(Btf.vmlinux())
        files = self._files()
        # The first event that follows a task waits for an RCU grace period, which a held process would block.
        self._events.append(PerfEvent(Attr(TYPE_SOFTWARE, COUNT_SW_DUMMY), pid=0, cpu=-1))
        self._maps["members"] = bpf.Map(bpf.MAP_TYPE_HASH, value=MEMBER_BYTES, entries=MOST_MEMBERS)
        self._maps["ranges"] = bpf.Map(bpf.MAP_TYPE_HASH, value=RANGE_BYTES, entries=MOST_MEMBERS)
        self._maps["waiting"] = bpf.Map(bpf.MAP_TYPE_HASH, value=WAITING_BYTES, entries=_THREADS)
        self._voice.share(self._maps["waiting"].fd)
        self._maps["control"] = bpf.Map(bpf.MAP_TYPE_ARRAY, value=Control.BYTES, mapped=True)
        self._maps["programs"] = bpf.Map(bpf.MAP_TYPE_PROG_ARRAY)
        self._events_ring, self._bell = BpfRing(_RING_BYTES), BpfRing(_RING_BYTES)
        for pid in pids:
            self._maps["members"].update(struct.pack("=I", pid), bytes(MEMBER_BYTES))
        traced = [
            ("sched_process_fork", programs.at_fork(offsets)),
            ("sched_process_exit", programs.at_exit(offsets)),
            ("sched_process_exec", programs.at_exec(offsets, files)),
        ]
        if self._wanted.may_be_library():
            traced.append(("sys_exit", programs.at_system_call(offsets, files)))
        for name, program in traced:
            self._fds.append(bpf.raw_tracepoint(self._load(bpf.PROG_TYPE_RAW_TRACEPOINT, program), name))
        # Of COMMAND each program is looked at, whatever it is: see the module, 2.
        self._set(Control.ALL_EXECS, tree or self._any_name)
        self._set(Control.ALL_MMAPS, self._any_name)
        if any(map(tracer_of, pids)):
            self._open_entries()

    def _files(self) -> Files:
        names = self._wanted.file_names()
        self._any_name = names is None
        parts = {os.fsencode(name)[: NAME_BYTES - 1] for name in names or ()}
        return Files(tuple(self._wanted.file_numbers()), tuple(sorted(parts)))

    def _load(self, kind: int, program: Program) -> int:
        fds = {name: each.fd for name, each in self._maps.items()} | {
            "events": self._events_ring.fd,
            "bell": self._bell.fd,
        }
        fd = bpf.load(kind, program.encode(fds), name=program.name)
        self._fds.append(fd)
        return fd

    def _open_entries(self) -> None:
        """Hold at the first instructions of the wanted files, in all processes of the tree."""
        self._entries_open = True
        with contextlib.suppress(OSError, ValueError, KsymError):
            kind = int(read_text(_UPROBE))
            stay = self._load(bpf.PROG_TYPE_KPROBE, programs.stay())
            self._maps["programs"].update(struct.pack("=I", 0), struct.pack("=I", stay))
            entry = self._load(bpf.PROG_TYPE_KPROBE, programs.at_entry(self._offsets))
            for path, offset in self._wanted.entries():
                text = ctypes.create_string_buffer(os.fsencode(path))
                # config1 and config2 lie where a breakpoint has its address and length.
                attr = Attr(kind, sample_period=1, bp_address=ctypes.addressof(text), bp_length=offset)
                event = PerfEvent(attr, pid=-1, cpu=0)
                self._events.append(event)
                event.attach(entry)
                self._entries += 1

    def _set(self, place: Control, value: int) -> None:
        memory = self._maps["control"].memory
        assert memory is not None
        struct.pack_into("=Q", memory, place, value)

    def _get(self, place: Control) -> int:
        memory = self._maps["control"].memory
        assert memory is not None
        return int(struct.unpack_from("=Q", memory, place)[0])

    def fileno(self) -> int:
        """See Way."""
        return self._events_ring.fd

    def turn(self) -> None:
        """See Way."""
        for record in self._events_ring.take():
            self._look(Event.of(record))
        self._none_spins()

    def _none_spins(self) -> None:
        """Use all CPUs again, unless a held process is still spinning."""
        if self._cpus and all(hold.how is not _How.SPINS for holds in self._held.values() for hold in holds):
            self._cpus.go_back()

    def _stopped_late(self, event: Event) -> bool:
        """True if the event's thread is held already: the SIGSTOP of its bound must not outlive the hold."""
        for number, hold in enumerate(self._held.get(event.pid, ())):
            if (hold.event.tid, hold.event.since) == (event.tid, event.since):
                if hold.how is _How.TRACED:
                    self._held[event.pid][number] = hold._replace(status=0)
                    self._answer(event, Answer.GO)
                return True
        return False

    def _look(self, event: Event) -> None:
        pid = event.pid
        if event.kept == Answer.STOPPED and self._stopped_late(event):
            return
        state = self._state(event)
        if state in (None, Answer.GO, Answer.NOT_YET):
            self._past(event, state)
            return
        placement = self._placements.of(pid, event.program)
        where = None if placement is None else (event.program, placement)
        if event.moment == Moment.UNMAPPED:
            self._unmapped(event, where)
        elif where is None:
            self._seen.pop(pid, None)  # it may come back to the same place
            self._pass(event)
        elif where == self._seen.get(pid):
            self._answer(event, Answer.GO)
        elif state == Answer.STOPPED:
            self._hold(_Hold(event, _How.STOPPED), where)
        elif event.moment == Moment.ENTRY and state != Answer.RUNS:
            assert self._cpus is not None
            self._cpus.keep_ksym_off(event.cpu)
            self._hold(_Hold(event, _How.SPINS), where)
        elif status := self._stop(event) if state == Answer.WAITS else None:
            self._hold(_Hold(event, _How.TRACED, status), where)
        elif status is None and (not self._entries or event.moment == Moment.ENTRY):
            self._voice.say(f"note process {pid} ran before it was watched: {why_not_stopped(event.tid)}")
            self._hold(_Hold(event, _How.RUNS), where)

    def _past(self, event: Event, state: Answer | None) -> None:
        """Pass over an event whose thread was answered already, has ended, or has gone on.

        Where the process has the files by now is not where it had them then: a thread that has gone on, and maps
        them anew, is held for that, and its next event tells.
        """
        if state is None:
            self._seen.pop(event.pid, None)
        if event.kept == Answer.STOPPED and (state is not None or self._value(event) is None):
            self._continue(event.pid)

    def _unmapped(self, event: Event, where: tuple[int, Placement] | None) -> None:
        """Hold a process that has unmapped what it had, so that nothing comes to its place before ksym knows."""
        if where is not None and where == self._seen.get(event.pid):
            self._answer(event, Answer.GO)
            return
        before = self._seen.pop(event.pid, None)
        if where is not None:
            self._seen[event.pid] = where
        self._note_range(event.pid)
        if self._state(event) == Answer.STOPPED:
            self._add(_Hold(event, _How.STOPPED))
        elif (status := self._stop(event)) is None:
            # Somebody else traces it. It is held when it has the file again, maybe at the same address.
            for number in _lost(before, where):
                self._voice.say(f"unmapped {event.pid} {number}")
        elif status:
            self._add(_Hold(event, _How.TRACED, status))

    def _note_range(self, pid: int) -> None:
        """Let the programs know where the wanted files lie."""
        extent = struct.pack("=QQ", *self._wanted.extent(pid))
        self._maps["ranges"].update(struct.pack("=I", pid), extent)

    def _pass(self, event: Event) -> None:
        """Let a thread go on that has not mapped what is wanted; before it may trace others, see the module, 2."""
        status = None
        if event.moment == Moment.EXEC and not self._entries_open and not self._tracers.knows(event.pid):
            if self._state(event) == Answer.WAITS:
                status = self._stop(event, Answer.NOT_YET)
            if self._tracers.may_trace(event.pid):
                self._open_entries()
                self._set(Control.ALL_EXECS, self._any_name)
        self._answer(event, Answer.NOT_YET)
        if status:
            ptrace.detach(event.tid, status)

    def _hold(self, hold: _Hold, where: tuple[int, Placement]) -> None:
        pid = hold.event.pid
        self._placements.begin()
        self._seen[pid] = where
        if self._wanted.may_be_library():
            self._note_range(pid)
        self._add(hold)

    def _add(self, hold: _Hold) -> None:
        pid = hold.event.pid
        self._held.setdefault(pid, []).append(hold)
        if len(self._held[pid]) == 1:
            self._voice.say(f"held {pid}")

    def _stop(self, event: Event, answer: Answer = Answer.GO) -> int | None:
        """Stop a thread that a tracepoint's program holds, and let that go.

        Returns:
            The status of the stop; 0 where the thread has ended, and None where it cannot be stopped and goes on.
        """
        try:
            ptrace.seize(event.tid)
            ptrace.interrupt(event.tid)
        except ProcessLookupError:
            return 0
        except OSError:
            self._answer(event, Answer.NOT_YET)
            return None
        self._answer(event, answer)
        with contextlib.suppress(ChildProcessError):
            _, status = ptrace.wait(event.tid)
            if os.WIFSTOPPED(status):
                return status
        return 0

    def _value(self, event: Event) -> bytes | None:
        """What ``waiting`` has of the thread, until it ends."""
        return self._maps["waiting"].get(struct.pack("=I", event.tid))

    def _state(self, event: Event) -> Answer | None:
        """What the thread was answered; None where it has ended, or gone on to another event."""
        value = self._value(event)
        if value is None:
            return None
        state, since = struct.unpack("=QQ", value)
        return Answer(state) if since == event.since else None

    def _answer(self, event: Event, answer: Answer) -> None:
        state = self._state(event)
        if state is None:
            return
        with contextlib.suppress(FileNotFoundError):  # it was killed
            self._maps["waiting"].update(
                struct.pack("=I", event.tid), struct.pack("=QQ", answer, event.since), only_if_there=True
            )
        if state == Answer.STOPPED:
            self._continue(event.pid)

    def _continue(self, pid: int) -> None:
        """Undo a SIGSTOP, which has stopped the whole process, unless another thread of it is held by one still."""
        if not any(hold.how is _How.STOPPED for hold in self._held.get(pid, ())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def release(self, pid: int) -> None:
        """See Way."""
        if pid not in self._held:
            return
        hold = self._held[pid].pop(0)
        if self._held[pid]:
            self._voice.say(f"held {pid}")
        else:
            del self._held[pid]
        self._let_one_go(hold)

    def _let_one_go(self, hold: _Hold) -> None:
        event = hold.event
        if hold.how is _How.TRACED:
            ptrace.detach(event.tid, hold.status)
            with contextlib.suppress(ChildProcessError):  # killed meanwhile: its parent waits for this
                ptrace.wait(event.tid, block=False)
            return
        if hold.how is _How.SPINS and self._state(event) == Answer.EXPIRED:
            self._voice.say(
                f"note process {event.pid} ran before it was watched: it could not be held for so long"
            )
        self._answer(event, Answer.GO)
        self._none_spins()

    def close(self) -> None:
        """See Way."""
        self._placements.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        held, self._held = self._held, {}
        for holds in held.values():
            for hold in holds:
                self._let_one_go(hold)
        # Without the ringer nobody was let in. Without members nobody is left that could be held.
        if self._cpus and (held or any(self._maps["members"].items(MEMBER_BYTES))):
            let_all_go(self._maps["waiting"])
        if self._cpus:
            self._cpus.close()
        for event in self._events:
            event.close()


def _lost(before: tuple[int, Placement] | None, now: tuple[int, Placement] | None) -> list[int]:
    """Return the numbers of the wanted files of which a copy is gone."""
    if before is None:
        return []
    left = now[1] if now else [frozenset[int]()] * len(before[1])
    return [number for number, biases in enumerate(before[1]) if biases - left[number]]
