# SPDX-License-Identifier: BSD-2-Clause
"""The files of the tracing directory, each by what reading and writing it means; no mount, no registers."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksym.errors import KsymError, NoRegisters, NotPermitted, Place, Span, UsageError
from ksym.linux.cpus import online_cpus, possible_cpus
from ksym.tracing.buffer import ENTRY_BYTES
from ksym.tracing.error_log import ErrorLog
from ksym.tracing.files import TracingDirectory
from ksym.tracing.instance import Instance
from ksym.tracing.nodes import Caller, Directory, File
from ksym.tracing.opened import open_file
from ksym.tracing.planted import How
from ksym.tracing.readme import ERRORS, FILES, OPTIONS, README
from support.docs import DOCS
from support.tracing import WRITER, Files, Machine, failing

FILTER = "ksym_trace_filter"
PER_KB = 1024 // ENTRY_BYTES
WRITABLE = (FILTER, "trace", "tracing_on", "current_tracer", "buffer_size_kb", "trace_options", "error_log")


@pytest.fixture
def it() -> Files:
    return Files(Machine())


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def entries(text: str) -> tuple[int, int]:
    """Entries in the buffer, and written."""
    found = re.search(r"^# entries-in-buffer/entries-written: (\d+)/(\d+)   #P:\d+$", text, re.M)
    assert found
    return int(found[1]), int(found[2])


# -- ksym_trace_filter ---------------------------------------------------------------------------------


def test_the_filter_through_a_shell(it: Files) -> None:
    it.write(FILTER, "a:rw-\n")
    it.write(FILTER, "b:-w-\n", flags=os.O_APPEND)  # echo >>
    assert it.read(FILTER) == "b:-w-\na:rw-\n"
    assert it.error(FILTER, "b:-w-\n") == errno.EINVAL
    assert it.read(FILTER) == "b:-w-\na:rw-\n"
    it.write(FILTER, "b:---\n")
    assert it.read(FILTER) == "a:rw-\n"
    assert it.machine.used == 1


def test_nothing_written_clears_all_and_something_refused_does_not(it: Files) -> None:
    it.write(FILTER, "a:rw-\n")
    assert it.error(FILTER, "nosuch:rw-\n") == errno.EINVAL
    assert it.read(FILTER) == "a:rw-\n"
    it.write(FILTER, flags=os.O_APPEND)  # : >> asks for nothing
    assert it.read(FILTER) == "a:rw-\n"
    it.write(FILTER)  # : >
    assert it.read(FILTER) == ""
    it.write(FILTER, "a:rw-\n")
    it.write(FILTER, "\n", flags=os.O_APPEND)  # echo >>
    assert it.read(FILTER) == ""


def test_lines_that_a_shell_writes_one_by_one(it: Files) -> None:
    """Bash writes "a:rw-\\n\\nb:rw-\\n" in three calls, and an empty line behind one that failed."""
    it.write(FILTER, "a:rw-\n", "\n", "b:rw-\n")
    assert it.read(FILTER) == "b:rw-\na:rw-\n"
    handle = it.open(FILTER, os.O_WRONLY | os.O_TRUNC)
    with pytest.raises(OSError, match="Invalid"):
        handle.write(0, b"nosuch:rw-\n", WRITER)
    assert handle.write(0, b"\n", WRITER) == 1
    handle.close()
    assert it.read(FILTER) == "b:rw-\na:rw-\n"
    it.write(FILTER, "c:rw-\n", "0\n")
    assert it.read(FILTER) == ""


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (NoRegisters("w", "y"), errno.ENOSPC),
        (NotPermitted("w", "y"), errno.EPERM),
        (KsymError("w", "y"), errno.EINVAL),
        (UsageError("w", "y"), errno.EINVAL),
        (OSError(errno.EMFILE, "x"), errno.EMFILE),
    ],
)
def test_the_errno_says_what_kind_of_trouble_it_is(it: Files, error: Exception, number: int) -> None:
    it.machine.refusal = lambda request: error
    assert it.error(FILTER, "a:rw-\n") == number
    assert it.read("error_log").count("ksym_trace_filter: error: ") == 1
    assert it.read(FILTER) == ""


def test_no_registers_is_enospc(it: Files) -> None:
    it.write(FILTER, "a:rw-\nb:rw-\nc:rw-\nd:rw-\n")
    assert it.error(FILTER, "e:rw-\n") == errno.ENOSPC


def test_task_self_is_who_writes(it: Files) -> None:
    it.write(FILTER, "task(self).comm:rw-\n", caller=Caller(4711, 0, 0))
    assert it.read(FILTER) == "task(4711).comm:rw-\n"
    assert it.error(FILTER, "./prog:x:rw-\n") == errno.EINVAL
    assert "ksym trace -p PID ./prog:x" in it.read("error_log")


def test_read_in_pieces_it_is_what_it_was_at_the_start(it: Files) -> None:
    it.write(FILTER, "a:rw-\nb:rw-\n")
    handle = it.open(FILTER)
    assert handle.read(0, 3) == b"b:r"
    it.write(FILTER, "0")
    assert handle.read(3, 100) == b"w-\na:rw-\n"
    assert handle.read(0, 100) == b""


# -- ksym_profile --------------------------------------------------------------------------------------


def test_the_profile_counts_hits_newest_first(it: Files) -> None:
    it.write(FILTER, "pid_max:rw-\n")
    it.write(FILTER, "panic_on_oops:-w-\n")
    it.machine.hit("pid_max", 12)
    assert it.read("ksym_profile") == (
        "  Access Type   Symbol                                       Counter\n"
        "  -----------   ------                                       -------\n"
        "  W             panic_on_oops                                      0\n"
        "  RW            pid_max                                           12\n"
    )
    it.write("trace", "\n")
    it.write(FILTER, "pid_max:-w-\n")
    it.machine.hit("pid_max")
    assert it.read("ksym_profile").endswith(
        "  W             pid_max                                           13\n"
    )


# -- trace ---------------------------------------------------------------------------------------------


def test_the_trace(it: Files) -> None:
    cpus = len(online_cpus())
    head = (
        "#       TASK-PID   CPU#      Symbol                    Type    Function\n"
        "#          |        |          |                        |         |\n"
    )
    assert it.read("trace") == (
        f"# tracer: ksym_tracer\n#\n# entries-in-buffer/entries-written: 0/0   #P:{cpus}\n#\n{head}"
    )
    it.write(FILTER, "pid_max:rw-\n")
    it.machine.hit("pid_max", access="R")
    it.machine.hit("pid_max")
    assert it.read("trace") == (
        f"# tracer: ksym_tracer\n#\n# entries-in-buffer/entries-written: 2/2   #P:{cpus}\n#\n{head}"
        "     sysctl-4711  [000] pid_max+0x0/0x4 R  do_proc_dointvec_minmax_conv+0x5b/0x80\n"
        "     sysctl-4711  [000] pid_max+0x0/0x4 W  do_proc_dointvec_minmax_conv+0x5b/0x80\n"
    )


@pytest.mark.parametrize("how", ["\n", ":", "truncate"])
def test_emptying_the_trace(it: Files, how: str) -> None:
    it.write(FILTER, "a:rw-\n")
    it.machine.hit("a", 3)
    assert entries(it.read("trace")) == (3, 3)
    it.machine.hit("a", 3)  # in the registers' rings still
    if how == "truncate":
        it.write("trace")
    else:
        it.write("trace", how, flags=0)
    assert entries(it.read("trace")) == (0, 0)
    it.machine.hit("a")
    assert entries(it.read("trace")) == (1, 1)


def test_the_rows_outlive_their_filter(it: Files) -> None:
    it.write(FILTER, "a:rw-\n")
    it.machine.hit("a", 2)
    it.write(FILTER, "0\n")
    assert entries(it.read("trace")) == (2, 2)
    it.write("trace_options", "noksym-format")
    assert len(rows(it.read("trace"))) == 2


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_one_cat_is_one_snapshot(it: Files, size: int) -> None:
    it.write("buffer_size_kb", "1")
    it.write(FILTER, "a:rw-\n")
    it.machine.hit("a", 10)
    whole = it.read("trace")
    handle, text = it.open("trace"), b""
    while part := handle.read(len(text), size):
        text += part
        it.machine.hit("a", 3)  # it grows, and drops what was there
        it.instance.collect()
    assert text.decode() == whole
    assert entries(text.decode()) == (10, 10)
    assert handle.read(0, 1 << 20) != text  # begun anew
    handle.close()


def test_reads_at_any_offset(it: Files) -> None:
    it.write(FILTER, "a:rw-\n")
    it.machine.hit("a", 20)
    whole = it.read("trace").encode()
    handle = it.open("trace")
    for offset, size in ((5, 10), (200, 1), (len(whole) - 3, 100), (len(whole), 10), (1 << 40, 10), (3, 3)):
        assert handle.read(offset, size) == whole[offset : offset + size]


def test_overrun_is_counted_in_the_header(it: Files) -> None:
    it.write("buffer_size_kb", "1\n")
    it.write(FILTER, "a:rw-\n")
    it.machine.hit("a", PER_KB + 9)
    assert entries(it.read("trace")) == (PER_KB, PER_KB + 9)
    it.write("buffer_size_kb", "2\n")
    it.machine.hit("a", PER_KB)
    assert entries(it.read("trace")) == (2 * PER_KB, 2 * PER_KB + 9)
    it.write("buffer_size_kb", "1\n")
    assert it.read("buffer_size_kb") == "1\n"
    assert entries(it.read("trace")) == (PER_KB, 2 * PER_KB + 9)


def test_per_cpu(it: Files) -> None:
    assert set(os.listdir("/sys/devices/system/cpu")) >= set(names(it, "per_cpu"))
    assert names(it, "per_cpu") == [f"cpu{cpu}" for cpu in possible_cpus()]
    it.write(FILTER, "a:rw-\n")
    it.machine.hit("a", 2, cpu=0)
    it.machine.hit("a", 3, cpu=1)
    assert entries(it.read("per_cpu/cpu0/trace")) == (2, 2)
    assert entries(it.read("per_cpu/cpu1/trace")) == (3, 3)
    assert {"[001]" in row for row in rows(it.read("per_cpu/cpu1/trace"))} == {True}
    it.machine.hit("a", cpu=1)
    it.write("per_cpu/cpu1/trace", "\n")
    assert entries(it.read("per_cpu/cpu1/trace")) == (0, 0)
    assert entries(it.read("trace")) == (2, 2)


def names(it: Files, path: str) -> list[str]:
    directory = it.names[path]
    assert isinstance(directory, Directory)
    return list(directory.names)


# -- trace_marker --------------------------------------------------------------------------------------


def test_markers_stand_among_the_accesses_in_order_of_time(it: Files) -> None:
    it.write(FILTER, "a:rw-\nb:rw-\n")
    it.write("trace_marker", "one\n", flags=0)
    it.machine.hit("a")
    it.write("trace_marker", "two\n", "three", flags=os.O_APPEND)
    it.machine.hit("b")
    it.machine.hit("a")
    it.write("trace_marker", "four\n", flags=0)
    pattern = r"tracing_mark_write: (\w+)|\] ([ab])\+"
    found = ["".join(pair) for pair in re.findall(pattern, it.read("trace"))]
    assert found == ["one", "a", "two", "three", "b", "a", "four"]
    me = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    assert re.match(
        rf" *{re.escape(me)}-{os.getpid()} +\[\d+\] tracing_mark_write: one$", rows(it.read("trace"))[0]
    )


def test_a_long_marker_is_taken_in_part(it: Files) -> None:
    handle = it.open("trace_marker", os.O_WRONLY)
    assert handle.write(0, b"x" * 5000, WRITER) == 4096
    assert handle.write(0, b"\xff\xfe\0\x1b[0m\n", WRITER) == 8
    first, second = rows(it.read("trace"))
    assert first.endswith(": " + "x" * 4096)
    assert "\x1b" not in second


def test_markers_of_one_who_is_gone(it: Files) -> None:
    it.write("trace_marker", "x", flags=0, caller=Caller(0, 0, 0))
    assert rows(it.read("trace")) == ["      <...>-0     [000] tracing_mark_write: x"]


def test_markers_while_tracing_is_off_or_nop(it: Files) -> None:
    it.write("tracing_on", "0")
    assert it.error("trace_marker", "x", flags=0) == errno.EBADF
    it.write("tracing_on", "1")
    it.write("current_tracer", "nop")
    it.write("trace_marker", "x", flags=0)  # as in tracefs
    assert len(rows(it.read("trace"))) == 1


# -- trace_pipe ----------------------------------------------------------------------------------------


def test_the_pipe_consumes(it: Files) -> None:
    it.write(FILTER, "a:rw-\n")
    pipe = it.open("trace_pipe")
    assert pipe.read(0, 4096) is None
    assert not pipe.ready()
    it.machine.hit("a", 2)
    assert pipe.ready()
    text = pipe.read(0, 4096)
    assert text is not None
    assert (
        text.decode().splitlines()
        == ["     sysctl-4711  [000] a+0x0/0x4 W  do_proc_dointvec_minmax_conv+0x5b/0x80"] * 2
    )
    assert pipe.read(0, 4096) is None
    assert entries(it.read("trace")) == (0, 0)


def test_the_pipe_has_one_reader(it: Files) -> None:
    pipe = it.open("trace_pipe")
    with pytest.raises(OSError, match="busy") as raised:
        it.open("trace_pipe")
    assert raised.value.errno == errno.EBUSY
    pipe.close()
    it.open("trace_pipe").close()
    assert it.instance.opened == 0


def test_the_pipe_in_small_reads(it: Files) -> None:
    it.write(FILTER, "a:rw-\n")
    it.machine.hit("a", 3)
    expected = "".join(f"{row}\n" for row in rows(it.read("trace")))
    pipe, text = it.open("trace_pipe"), b""
    while part := pipe.read(len(text), 5):
        text += part
        assert pipe.ready() == (len(text) < len(expected))
    assert text.decode() == expected


def test_the_pipe_tells_of_what_was_dropped(it: Files) -> None:
    it.write("buffer_size_kb", "1")
    it.write(FILTER, "a:rw-\n")
    it.machine.hit("a", PER_KB + 3, cpu=1)
    it.machine.hit("a", cpu=0)
    pipe = it.open("trace_pipe")
    text = (pipe.read(0, 1 << 16) or b"").decode()
    assert text.startswith("CPU:1 [LOST 3 EVENTS]\n")
    assert text.count("LOST") == 1
    assert text.count("\n") == 1 + PER_KB + 1
    it.machine.hit("a", PER_KB + 2, cpu=0)
    assert (pipe.read(0, 1 << 16) or b"").startswith(b"CPU:0 [LOST 2 EVENTS]\n")


def test_the_pipe_ends_where_tracing_is_off_and_something_was_read(it: Files) -> None:
    """As in ftrace: tracing_wait_pipe() of kernel/trace/trace.c."""
    it.write(FILTER, "a:rw-\n")
    it.write("tracing_on", "0")
    pipe = it.open("trace_pipe")
    assert pipe.read(0, 10) is None
    it.write("tracing_on", "1")
    it.machine.hit("a")
    assert pipe.read(0, 4096)
    it.write("current_tracer", "nop")
    assert pipe.read(0, 10) is None  # markers may still come
    it.write("tracing_on", "0")
    assert pipe.ready()
    assert pipe.read(0, 10) == b""


# -- tracing_on, current_tracer ------------------------------------------------------------------------


def test_tracing_on(it: Files) -> None:
    assert it.read("tracing_on") == "1\n"
    it.write(FILTER, "a:rw-\n")
    it.machine.hit("a")
    it.write("tracing_on", "0\n")
    assert it.read("tracing_on") == "0\n"
    it.machine.hit("a")
    assert it.machine.used == 1
    it.write("tracing_on", " 1 \n")
    it.machine.hit("a")
    assert entries(it.read("trace")) == (2, 2)
    for text in ("2", "\n", "on", "01", "1 1", "\xb9"):
        assert it.error("tracing_on", text) == errno.EINVAL
    assert it.read("tracing_on") == "1\n"


def test_current_tracer(it: Files) -> None:
    assert it.read("available_tracers") == "ksym_tracer nop\n"
    assert it.read("current_tracer") == "ksym_tracer\n"
    it.write(FILTER, "a:rw-\n")
    it.machine.hit("a")
    it.write("current_tracer", "ksym_tracer\n")  # no other than before
    assert entries(it.read("trace")) == (1, 1)
    it.machine.hit("a")
    it.write("current_tracer", "nop\n")
    assert it.read("trace").startswith("# tracer: nop\n")
    assert entries(it.read("trace")) == (0, 0)
    it.machine.hit("a")
    assert it.read(FILTER) == "a:rw-\n"
    it.write(FILTER, "b:rw-\n")
    it.machine.hit("b")
    it.write("tracing_on", "0")
    it.write("tracing_on", "1")
    it.machine.hit("b")
    assert entries(it.read("trace")) == (0, 0)
    it.write("current_tracer", "ksym_tracer")
    it.machine.hit("a")
    it.machine.hit("b")
    assert entries(it.read("trace")) == (2, 2)
    assert it.error("current_tracer", "function\n") == errno.EINVAL
    assert "it is one of ksym_tracer, nop" in it.read("error_log")


# -- trace_options, buffer_size_kb ---------------------------------------------------------------------


def test_trace_options(it: Files) -> None:
    assert it.read("trace_options") == "novalues\nnostacktrace\ntwin\nksym-format\n"
    it.write("trace_options", "values\n")
    it.write("trace_options", "noksym-format stacktrace\n")
    assert it.read("trace_options") == "values\nstacktrace\ntwin\nnoksym-format\n"
    assert it.error("trace_options", "notwin nosuch\n") == errno.EINVAL
    assert it.read("trace_options") == "values\nstacktrace\ntwin\nnoksym-format\n"
    assert it.read("error_log").splitlines()[1:] == ["  Command: notwin nosuch", " " * 18 + "^"]


def test_options_that_plant_anew(it: Files) -> None:
    it.write(FILTER, "a:rw-\nb:rw-\n")
    it.machine.hit("a", 2)
    before = list(it.machine.planted)
    it.write("trace_options", "values noksym-format")
    assert it.machine.planted == before
    it.write("trace_options", "stacktrace notwin")
    assert {(each.how.stacks, each.how.twin) for each in it.machine.planted} == {(True, False)}
    assert it.read(FILTER) == "b:rw-\na:rw-\n"
    assert it.machine.named("a").hits == 2
    it.machine.hit("a")
    assert entries(it.read("trace")) == (3, 3)
    it.machine.refusal = failing(NotPermitted("w", "y"))
    assert it.error("trace_options", "nostacktrace") == errno.EPERM
    assert it.read("trace_options") == "values\nstacktrace\nnotwin\nnoksym-format\n"
    assert {(each.how.stacks, each.how.twin) for each in it.machine.planted} == {(True, False)}


@pytest.mark.parametrize(
    "text", ["0\n", "-1", "9" * 5000, "ten", "1.5", "0x10", "\xb2", "1 2", "\n", "\xff\0"]
)
def test_no_size_of_a_buffer(it: Files, text: str) -> None:
    assert it.error("buffer_size_kb", text) == errno.EINVAL
    assert it.read("buffer_size_kb") == "1408\n"
    assert all(len(line) < 10_000 for line in it.read("error_log").splitlines())


# -- error_log -----------------------------------------------------------------------------------------


def test_error_log_has_a_caret_under_the_place(it: Files) -> None:
    assert it.read("error_log") == ""
    assert it.error(FILTER, "c:rw-\n  pid_max:rwx if new > 1\n") == errno.EINVAL
    first, second, third = it.read("error_log").splitlines()
    assert re.match(r"\[ *\d+\.\d{6}\] ksym_trace_filter: error: cannot read request .*; ", first)
    assert second == "  Command: pid_max:rwx if new > 1"
    assert third.rstrip("^").isspace()
    assert third.count("^") == 1
    assert second[third.index("^")] in "rwx"


def test_error_log_shows_nothing_raw(it: Files) -> None:
    it.error(FILTER, b"\x1b[31m\xff\0\x07bad:rw-\n")
    it.error("tracing_on", "\x1b[31m")
    text = it.read("error_log")
    assert all(line.isprintable() for line in text.splitlines())
    assert text.count("\n") == 6


def test_error_log_keeps_eight(it: Files) -> None:
    for number in range(12):
        it.error("tracing_on", f"number{number}")
    assert re.findall(r"Command: number(\d+)", it.read("error_log")) == [
        str(number) for number in range(4, 12)
    ]
    it.write("error_log", "\n", flags=0)
    assert it.read("error_log") == ""
    it.error("tracing_on", "x")
    it.write("error_log")
    assert it.read("error_log") == ""


def test_what_becomes_known_later_stands_there_too(it: Files) -> None:
    it.write(FILTER, "a:rw-\n")
    it.machine.named("a").told("a is not watched any more: module m was unloaded")
    assert "error: a is not watched any more: module m was unloaded\n  Command: a:rw-\n" in it.read(
        "error_log"
    )


# -- instances -----------------------------------------------------------------------------------------


def test_instances_are_sets_of_their_own() -> None:
    machine = Machine()
    directory = TracingDirectory(lambda: Instance(How(), machine.plant, machine.clock))
    assert [name for name in directory.root.names if name not in ("README", "instances")] == list(
        Files(Machine()).names
    )
    directory.instances.mkdir("a", WRITER)
    (_, _), (instance, _) = directory
    it = Files(Machine())
    own = directory.instances.names["a"]
    assert isinstance(own, Directory)
    it.names = own.names
    assert set(it.names) == set(Files(Machine()).names)  # no README, no instances
    it.write(FILTER, "x:rw-\n")
    it.write("tracing_on", "0")
    assert instance.filters.text() == "x:rw-\n"
    top = Files(Machine())
    top.names = directory.root.names
    assert (top.read(FILTER), top.read("tracing_on")) == ("", "1\n")
    top.write(FILTER, "x:-w-\n")
    assert machine.used == 2
    handle = it.open("trace")
    with pytest.raises(OSError, match="busy") as raised:
        directory.instances.rmdir("a", WRITER)
    assert raised.value.errno == errno.EBUSY
    handle.close()
    directory.instances.rmdir("a", WRITER)
    assert machine.used == 1
    assert directory.instances.names == {}
    directory.close()
    assert machine.used == 0


@pytest.mark.parametrize(
    "path", [*WRITABLE, "trace_marker", "trace_pipe", "ksym_profile", "per_cpu/cpu0/trace"]
)
def test_what_is_open_is_counted(it: Files, path: str) -> None:
    node = it.node(path)
    flags = os.O_RDONLY if node.mode & 0o400 else os.O_WRONLY
    handles = [it.open(path, flags)]
    if path != "trace_pipe":
        handles.append(it.open(path, flags))
    assert it.instance.opened == len(handles)
    for handle in handles:
        handle.close()
    assert it.instance.opened == 0


def test_modes() -> None:
    machine = Machine()
    directory = TracingDirectory(lambda: Instance(How(), machine.plant, machine.clock))
    modes = {name: node.mode for name, node in directory.root.names.items()}
    assert {name for name, mode in modes.items() if mode == 0o600} == set(WRITABLE)
    assert {name for name, mode in modes.items() if mode == 0o200} == {"trace_marker"}
    assert {name for name, mode in modes.items() if mode == 0o700} == {"instances", "per_cpu"}
    for name, mode in modes.items():
        for flags, bits in ((os.O_RDONLY, 0o400), (os.O_WRONLY, 0o200), (os.O_RDWR, 0o600)):
            node = directory.root.names[name]
            if mode != 0o700 and bits & ~mode:
                with pytest.raises(PermissionError):
                    open_file(node, flags, WRITER)  # type: ignore[arg-type]


# -- what says what there is ---------------------------------------------------------------------------


def test_readme_and_docs_name_every_file() -> None:
    machine = Machine()
    directory = TracingDirectory(lambda: Instance(How(), machine.plant, machine.clock))
    there = {
        {"per_cpu": "per_cpu/cpuN/trace", "instances": "instances/"}.get(name, name)
        for name in directory.root.names
    }
    assert set(FILES) == there
    assert all(name in README for name in (*FILES, *OPTIONS, *ERRORS))
    assert [word.removeprefix("no") for word in Files(machine).read("trace_options").split()] == list(OPTIONS)
    page = (DOCS / "mount.md").read_text()
    first = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for cell in first for name in re.findall(r"`([^`]+)`", cell)} >= {*FILES, *OPTIONS, *ERRORS}
    assert all(len(line) < 120 for line in README.splitlines())


def test_man_page(tmp_path: Path) -> None:
    script = DOCS.parent / "scripts/build-man"
    subprocess.run([sys.executable, script, tmp_path / "ksym.1"], check=True, stdout=subprocess.DEVNULL)
    text = (tmp_path / "ksym-mount.1").read_text()
    assert all(
        re.match(r"\.(TH|SH|TP|PP|BR?|nf|fi)\b", line) for line in text.splitlines() if line[:1] in ".'"
    )
    plain = text.replace("\\-", "-").replace("\\(aq", "'")
    for rows in (FILES, OPTIONS, ERRORS):
        assert all(f".B {name}\n{what}\n" in plain for name, what in rows.items())


# -- any bytes at all ----------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [b"a:rw-\n", b"b:-w-", b"0", b"1", b"nop", b"ksym_tracer\n", b"*:---", b"values", b"notwin", b"\n", b" ",
     b"64", b"a:rw- if new > 5 && comm == 'x'", b"task(self).comm:r--\n", b"./p:x:rw-", b"no", b"a:---\n",
     b"\xff\xfe", b"\0"]
)  # fmt: skip
WRITES = st.lists(st.binary(max_size=80) | WORDS | st.lists(WORDS, max_size=6).map(b"".join), max_size=12)


@given(data=st.data())
@settings(max_examples=1200)
def test_any_bytes_are_taken_or_refused(data: st.DataObject) -> None:
    """10,000 writes or so: nothing is raised but an errno, no register is lost, all files can be read."""
    it, refused = Files(Machine()), set()
    for written in data.draw(WRITES):
        path = data.draw(st.sampled_from([*WRITABLE, "trace_marker", "per_cpu/cpu0/trace"]))
        flags = data.draw(st.sampled_from([0, os.O_TRUNC, os.O_APPEND]))
        try:
            handle = it.open(path, os.O_WRONLY | flags)
            try:
                assert 0 <= handle.write(0, written, WRITER) <= len(written)
            finally:
                handle.close()
        except OSError as error:
            refused.add(error.errno)
        it.machine.hit("a")
    for path in (*WRITABLE, "ksym_profile", "available_tracers"):
        assert it.read(path).replace("\n", "").isprintable()
    assert it.machine.used == sum(2 if ":r--" in line else 1 for line in it.read(FILTER).splitlines())
    assert it.instance.opened == 0
    assert refused <= {errno.EINVAL, errno.ENOSPC, errno.ENOMEM, errno.EBADF}
    it.write(FILTER)
    assert it.machine.used == 0


def test_who_writes_counts_and_not_who_opened_the_file(it: Files) -> None:
    """A descriptor may be inherited: `exec 3> trace_marker` in a shell, `echo >&3` by its children."""
    opened_by, writer = Caller(os.getpid(), 0, 0), Caller(4711, 0, 0)
    marker, filters = (it.open(name, os.O_WRONLY, opened_by) for name in ("trace_marker", FILTER))
    marker.write(0, b"hello\n", writer)
    filters.write(0, b"task(self).comm:rw-\n", writer)
    assert "<...>-4711" in it.read("trace")
    assert it.read(FILTER) == "task(4711).comm:rw-\n"


def test_a_pipe_gives_no_more_at_once_than_a_reader_may_lose(it: Files) -> None:
    it.write(FILTER, "a:-w-\n")
    it.machine.hit("a", 200)
    handle = it.open("trace_pipe")
    parts = [part for _ in range(3) if (part := handle.read(0, 1 << 17))]
    assert [len(part) for part in parts] == [4096] * 3


def test_a_trace_is_read_in_pieces(it: Files) -> None:
    it.write(FILTER, "a:-w-\n")
    it.machine.hit("a", 1000)
    assert len(it.open("trace").read(0, 1 << 17) or b"") == 32 << 10
    assert len(rows(it.read("trace"))) == 1000


def test_a_removed_instance_plants_nothing(it: Files) -> None:
    """Its files can still be reached, by a descriptor of one of them that was opened with O_PATH."""
    it.instance.close()
    for name, node in it.names.items():
        if isinstance(node, File):
            with pytest.raises(OSError, match="No such device") as refused:
                it.open(name, os.O_WRONLY if node.mode == 0o200 else os.O_RDONLY)
            assert refused.value.errno == errno.ENODEV


def test_what_c_programs_write_may_end_in_a_nul(it: Files) -> None:
    it.write(FILTER, b"a:rw-\0")
    it.write("tracing_on", b"0\0")
    assert (it.read(FILTER), it.read("tracing_on")) == ("a:rw-\n", "0\n")


def test_an_error_in_a_long_line_is_shown_with_what_is_around_it(it: Files) -> None:
    assert it.error(FILTER, "x" * 100_000 + ":rwz") == errno.EINVAL
    assert len(it.read("error_log")) < 1000


@pytest.mark.parametrize(("name", "columns"), [("abc", 3), ("\u65e5\u672c", 4), ("e\u0301", 1)])
def test_the_caret_stands_under_the_place_on_a_terminal(it: Files, name: str, columns: int) -> None:
    log = ErrorLog()
    text = f"{name}:rwz"
    place = Place(text, Span(len(name) + 3, len(name) + 4))
    log.add(FILTER, KsymError("cannot", "why", place=place), text)
    assert log.text().splitlines()[-1] == " " * (len("  Command: ") + columns + 3) + "^"


def test_a_buffer_that_memory_cannot_hold_is_refused(it: Files) -> None:
    assert it.error("buffer_size_kb", "99999999999") == errno.ENOMEM
    assert "of this machine's memory; give " in it.read("error_log")
    assert it.error("buffer_size_kb", "9" * 5000) == errno.EINVAL
    assert it.read("buffer_size_kb") == "1408\n"
