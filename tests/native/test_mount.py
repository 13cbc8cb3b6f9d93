# SPDX-License-Identifier: BSD-2-Clause
"""``ksym mount`` on this machine's kernel, used as people use it: through a shell."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import shutil
import signal
import subprocess
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ksym.commands.mount import _Background
from ksym.commands.samples import Sample
from ksym.errors import KsymError
from ksym.language.parser import parse_request
from ksym.linux.mounts import mount_at
from ksym.tracing.planted import How, Planted
from native.mounting import FILTER, LIMIT, Mounted, mounted, write_back
from native.running import ONE_LINE, as_nobody, nobody, sample, touch
from support.program import command, environment, ksym

pytestmark = pytest.mark.native
BUG = "this is a bug"


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Mounted]:
    with mounted(tmp_path / "it") as found:
        yield found


@pytest.fixture
def variable() -> Sample:
    return sample()


# -- the interface of 2009 -----------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_filter_through_a_shell(it: Mounted, variable: Sample, shell: str) -> None:
    name = variable.request
    assert it.out(f"echo {name}:rw- > {FILTER}; cat {FILTER}", shell=shell) == f"{name}:rw-\n"
    touch(variable.file)
    write_back(variable.file)
    assert [kind for kind, _ in it.rows()] == ["R", "R", "W"]
    assert it.out(f"echo {name}:-w- > {FILTER}; cat {FILTER}", shell=shell) == f"{name}:-w-\n"
    write_back(variable.file)
    assert [kind for kind, _ in it.rows()] == ["R", "R", "W", "W"]
    script = f"echo 'task(self).flags:-w-' >> {FILTER}; cat {FILTER}; echo $$"
    first, second, pid = it.out(script, shell=shell).split()
    assert (first, second) == (f"task({pid}).flags:-w-", f"{name}:-w-")
    for clear in ("echo 0 >", "echo '*:---' >", "echo >", ": >", "truncate -s 0"):
        assert it.out(f"{clear} {FILTER}; cat {FILTER}", shell=shell) == ""
        it.out(f"echo {name}:rw- > {FILTER}", shell=shell)
    assert it.out(f"echo {name}:--- > {FILTER}; cat {FILTER}", shell=shell) == ""


def test_the_profile_has_every_hit(it: Mounted, variable: Sample) -> None:
    it.write(FILTER, f"{variable.request}:rw-\n")
    for _ in range(5):
        touch(variable.file)
    (row,) = it.read("ksym_profile").splitlines()[2:]
    kind, name, count = row.split()
    assert (kind, name) == ("RW", variable.request)
    assert int(count) >= 5
    it.write(FILTER, f"{variable.request}:-w-\n")
    assert int(it.read("ksym_profile").split()[-1]) >= 5


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (FILTER, "VARIABLE", "has no ACCESS"),
        (FILTER, "VARIABLE:rwx", "x"),
        (FILTER, "a:b:c:rw-", "more than one ':'"),
        (FILTER, "VARIABLE:---", "not watched"),
        (FILTER, "nosuch_module_:nosuch:rw-", "nosuch"),
        (FILTER, "VARIABLE:rw- if new >", "nothing follows"),
        (FILTER, "VARIABLE:rw- if nosuch > 1", "nosuch"),
        (FILTER, "./prog:x:rw-", "ksym trace -p PID ./prog:x"),
        (FILTER, "task(4194304).comm:rw-", "no such task"),
        ("tracing_on", "2", "neither 0 nor 1"),
        ("current_tracer", "function", "ksym_tracer, nop"),
        ("buffer_size_kb", "0", "it is not a positive number"),
        ("trace_options", "values nosuch", "stacktrace"),
    ],
)
def test_what_is_wrong_is_einval_and_error_log_says_why(
    it: Mounted, variable: Sample, name: str, text: str, says: str
) -> None:
    text = text.replace("VARIABLE", variable.request)
    done = it.sh(f"echo '{text}' > {name}", shell="bash")
    assert done.returncode != 0
    assert "Invalid argument" in done.stderr
    what, shown, caret = it.read("error_log").splitlines()
    assert f"{name}: error: " in what
    assert says in what
    assert shown == f"  Command: {text}"
    assert caret.strip() == "^"
    assert len(caret) <= len(shown) + 1
    assert it.read(FILTER) == ""


def test_out_of_registers_is_enospc(it: Mounted, variable: Sample) -> None:
    with pytest.raises(OSError) as raised:
        it.write(
            FILTER,
            "task(self)->signal->rlim[0]:rw-\ntask(self)->signal->rlim[1]:rw-\ntask(self)->flags:rw-\n",
        )
    assert raised.value.errno == errno.ENOSPC
    assert it.read(FILTER) == ""
    it.write(FILTER, f"{variable.request}:-w-\n")


def test_lines_of_one_write_all_or_none(it: Mounted, variable: Sample) -> None:
    name = variable.request
    it.write(FILTER, f"{name}:-w-\n")
    for bad in ("nosuch_module_:x:rw-", "zz", f"{name}:rw-"):
        with pytest.raises(OSError) as raised:
            it.write(FILTER, f"task(self).flags:-w-\n{name}:rw-\n{bad}\n")
        assert raised.value.errno == errno.EINVAL
        assert it.read(FILTER) == f"{name}:-w-\n"
    it.write(FILTER, f"{name}:---\ntask(self).flags:-w-\n{name}:rw-\n")
    assert it.read(FILTER) == f"{name}:rw-\ntask({os.getpid()}).flags:-w-\n"


def test_a_condition(it: Mounted, variable: Sample) -> None:
    it.write(FILTER, f"{variable.request}:rw- if access == W\n")
    touch(variable.file)
    write_back(variable.file)
    assert [kind for kind, _ in it.rows()] == ["W"]


def test_values_and_stacks_and_the_other_table(it: Mounted, variable: Sample) -> None:
    it.write(FILTER, f"{variable.request}:rw-\n")
    it.write("trace_options", "values stacktrace")
    write_back(variable.file)
    value = variable.file.read_text().strip()
    lines = [line for line in it.read("trace").splitlines() if not line.startswith("#")]
    (place,) = [place for place, line in enumerate(lines) if f"-{os.getpid()} " in line and " W  " in line]
    assert lines[place].endswith(f"  {value} -> {value}") or not value.isdigit()
    assert lines[place + 1].startswith(" => ")
    it.write("trace_options", "noksym-format")
    assert "# TIME" in it.read("trace")
    assert it.read(FILTER) == f"{variable.request}:rw-\n"


# -- the files of tracefs ------------------------------------------------------------------------------


def test_markers_among_the_accesses(it: Mounted, variable: Sample) -> None:
    it.write(FILTER, f"{variable.request}:r--\n")
    it.write("trace_marker", "before\n")
    touch(variable.file)
    it.write("trace_marker", "between\n")
    touch(variable.file)
    it.write("trace_marker", "after\n")
    mine = [line for line in it.read("trace").splitlines() if f"-{os.getpid()} " in line]
    assert [re.sub(r".*(tracing_mark_write: |\+0x0/0x)", "", line).split()[0] for line in mine][::2] == [
        "before", "between", "after",
    ]  # fmt: skip
    assert len(mine) == 5


def test_overrun_and_another_size(it: Mounted) -> None:
    it.write("buffer_size_kb", "1")
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        for number in range(20):
            it.write("trace_marker", f"{number}\n")
        assert "entries-in-buffer/entries-written: 16/20 " in it.read("trace")
        assert "entries-in-buffer/entries-written: 16/20 " in it.read(f"per_cpu/cpu{min(cpus)}/trace")
        it.write("buffer_size_kb", "2")
        for number in range(20, 32):
            it.write("trace_marker", f"{number}\n")
    finally:
        os.sched_setaffinity(0, cpus)
    assert "entries-in-buffer/entries-written: 28/32 " in it.read("trace")
    found = re.findall(r"tracing_mark_write: (\d+)", it.read("trace"))
    assert found == [str(number) for number in range(4, 32)]
    it.out("echo > trace")
    assert "entries-in-buffer/entries-written: 0/0 " in it.read("trace")


def test_trace_pipe(it: Mounted, variable: Sample) -> None:
    it.write(FILTER, f"{variable.request}:rw-\n")
    with it.reading() as reader:
        assert reader.stdout is not None
        touch(variable.file)
        assert reader.stdout.readline().startswith(
            f"{Path('/proc/self/comm').read_text().strip():>11}-".encode()
        )
        assert it.sh("cat trace_pipe").stderr.strip().endswith("Device or resource busy")
        it.write("trace_marker", "x\n")
        while b"tracing_mark_write: x" not in reader.stdout.readline():
            pass
        reader.send_signal(signal.SIGINT)
        assert reader.wait(LIMIT) == -signal.SIGINT
    assert it.rows() == []  # consumed
    it.write("trace_marker", "y\n")
    fd = os.open(it.at / "trace_pipe", os.O_RDONLY)
    assert os.read(fd, 4096).endswith(b"tracing_mark_write: y\n")
    os.close(fd)


def test_trace_pipe_without_waiting(it: Mounted) -> None:
    fd = os.open(it.at / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            os.read(fd, 4096)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        assert poll.poll(0) == []
        it.write("trace_marker", "x\n")
        assert poll.poll(LIMIT * 1000) == [(fd, select.POLLIN)]
        assert os.read(fd, 4096).endswith(b"tracing_mark_write: x\n")
        assert poll.poll(0) == []
        it.write("tracing_on", "0")
        assert poll.poll(LIMIT * 1000) == [(fd, select.POLLIN)]
        assert os.read(fd, 4096) == b""
    finally:
        os.close(fd)


def test_changes_leave_no_descriptor_behind(it: Mounted, variable: Sample) -> None:
    """A server lives for weeks."""

    def changed() -> list[str]:
        for access in ("-w-", "rw-"):
            it.write("ksym_trace_filter", f"{variable.request}:{access}\n")
        it.write("ksym_trace_filter", "0\n")
        return sorted(os.readlink(each) for each in Path(f"/proc/{it.process.pid}/fd").iterdir())

    kinds = ("anon_inode:", "/sys", "/proc")
    first = [each for each in changed() if each.startswith(kinds)]
    for _ in range(3):
        last = changed()
    assert [each for each in last if each.startswith(kinds)] == first


def test_a_watch_that_was_given_up_leaves_no_tables_behind(variable: Sample) -> None:
    """Each takes some 10 MB, and a server sees thousands of them."""
    planted = Planted(parse_request(f"{variable.request}:rw-"), How())
    session, live = weakref.ref(planted._session), weakref.ref(planted._live)
    planted.enable()
    touch(variable.file)
    assert planted.take()
    planted.close()
    assert (session(), live()) == (None, None)


def test_off_and_nop(it: Mounted, variable: Sample) -> None:
    it.write(FILTER, f"{variable.request}:rw-\n")
    it.write("tracing_on", "0\n")
    touch(variable.file)
    assert it.rows() == []
    assert "Bad file descriptor" in it.sh("echo x > trace_marker", shell="bash").stderr
    it.write("tracing_on", "1\n")
    it.write("current_tracer", "nop\n")
    touch(variable.file)
    assert it.rows() == []
    assert it.read(FILTER) == f"{variable.request}:rw-\n"
    it.write("current_tracer", "ksym_tracer\n")
    touch(variable.file)
    assert [kind for kind, _ in it.rows()] == ["R"]


def test_instances(it: Mounted, variable: Sample) -> None:
    name = variable.request
    it.out("mkdir instances/a instances/b")
    assert it.sh("mkdir instances/a").returncode == 1
    it.write("instances/a/ksym_trace_filter", f"{name}:r--\n")
    it.write("instances/b/ksym_trace_filter", f"{name}:-w-\n")
    write_back(variable.file)
    assert [kind for kind, _ in it.rows("instances/a/trace")] == ["R"]
    assert [kind for kind, _ in it.rows("instances/b/trace")] == ["W"]
    assert (it.rows(), it.read(FILTER)) == ([], "")
    with (it.at / "instances/a/trace").open():
        assert "busy" in it.sh("rmdir instances/a").stderr
    it.out("rmdir instances/a instances/b")
    assert it.out("ls instances") == ""
    it.write(FILTER, f"{name}:rw-\n")


def test_what_is_there(it: Mounted) -> None:
    names = it.out("ls").split()
    assert it.out("ls instances") == ""
    listed = it.out("find . -type f -printf '%P %m %u\n'").splitlines()
    assert {line.split(" ", 1)[1] for line in listed} == {"400 root", "600 root", "200 root"}
    assert set(names) == {line.split("/")[0].split(" ")[0] for line in listed} | {"instances"}
    assert "ksym_trace_filter" in it.read("README")
    for script in (
        "touch x",
        "rm trace",
        "mv trace x",
        "mkdir x",
        "chmod 666 trace",
        "ln trace x",
        "rmdir per_cpu",
    ):
        assert it.sh(script).returncode != 0
    assert it.out("ls").split() == names


# -- careless, hasty and absent users ------------------------------------------------------------------


def test_cat_of_everything_changes_nothing(it: Mounted, variable: Sample) -> None:
    it.write(FILTER, f"{variable.request}:-w-\ntask(1).flags:-w-\n")
    it.write("trace_marker", "x\n")
    it.out("mkdir instances/a")
    state = it.out(f"cat {FILTER} current_tracer tracing_on buffer_size_kb trace_options error_log trace")
    done = it.sh("find . -type f ! -name trace_pipe | xargs cat")
    assert (
        done.stderr.splitlines()
        == [f"cat: {name}: Permission denied" for name in sorted(re.findall(r"\S*trace_marker", done.stderr))]
        or done.stderr.count("Permission denied") == 2
    )
    assert (
        it.out(f"cat {FILTER} current_tracer tracing_on buffer_size_kb trace_options error_log trace")
        == state
    )


def test_cat_of_everything_ends(it: Mounted) -> None:
    """``trace_pipe`` blocks it, as in tracefs, but for tracing being off and something there to read."""
    it.write("trace_marker", "x\n")
    it.write("tracing_on", "0\n")
    assert it.sh("find . -type f | xargs cat").stdout.count("tracing_mark_write: x\n") >= 2


def test_two_writers_at_once(it: Mounted, variable: Sample) -> None:
    """Each has its own variable; neither ever fails, nor touches the other's."""
    steps = "echo {0}:-w- > {1} && echo {0}:rw- > {1} && echo {0}:--- > {1}"
    script = f"for n in 1 2 3 4 5 6 7 8; do {steps} || exit 1; done"
    names = (variable.request, "task(1).flags")
    processes = [
        subprocess.Popen(["sh", "-c", script.format(f"'{name}'", FILTER)], cwd=it.at, stderr=subprocess.PIPE)
        for name in names
    ]
    for process in processes:
        assert process.communicate(timeout=LIMIT)[1] == b""
        assert process.returncode == 0
    assert it.read(FILTER) == ""
    assert it.read("error_log") == ""


def test_readers_killed_in_the_middle(it: Mounted, variable: Sample) -> None:
    it.write(FILTER, f"{variable.request}:rw-\n")
    for _ in range(5):
        with it.reading() as reader:
            assert reader.stdout is not None
            touch(variable.file)
            assert reader.stdout.readline()
            reader.kill()
            reader.wait(LIMIT)
    for _ in range(200):
        it.write("trace_marker", "x" * 1000)
    for _ in range(5):
        with it.reading("trace") as reader:
            assert reader.stdout is not None
            assert reader.stdout.read(10) == b"# tracer: "
            reader.kill()
            reader.wait(LIMIT)
    assert it.read("trace").count("xxx\n") == 200


def test_a_reader_that_never_reads(it: Mounted, variable: Sample) -> None:
    it.write("buffer_size_kb", "1")
    it.write(FILTER, f"{variable.request}:rw-\n")
    with (it.at / "trace_pipe").open("rb", buffering=0), (it.at / "trace").open("rb", buffering=0) as trace:
        for _ in range(100):
            touch(variable.file)
        assert int(it.read("ksym_profile").split()[-1]) >= 100
        assert trace.read(1) == b"#"
    # One whose own reader does not read: it stops in write(2).
    source, sink = os.pipe()
    with it.reading(stdout=sink), os.fdopen(source, "rb", 0) as pipe:
        os.close(sink)
        for _ in range(100):
            it.write("trace_marker", "x" * 4000)
        assert it.read("tracing_on") == "1\n"
        while b"tracing_mark_write" not in pipe.read(1 << 16):
            pass


def test_nobody_else_gets_in(it: Mounted) -> None:
    prefix, names = as_nobody()
    for words in (["ls", it.at], ["cat", it.at / "trace"], ["sh", "-c", f"echo 0 > {it.at}/tracing_on"]):
        done = subprocess.run([*prefix, *words], env=names, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode != 0
        assert "ermission denied" in done.stderr


# -- its beginning and its end -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP", "umount", "fusermount", "fusermount3"])
def test_every_end_gives_the_registers_back(tmp_path: Path, variable: Sample, how: str) -> None:
    with mounted(tmp_path / "it") as it:
        it.write(FILTER, f"{variable.request}:rw-\n")
        it.out("mkdir instances/a; echo 'task(self).flags:-w-' > instances/a/ksym_trace_filter")
        if how.startswith("SIG"):
            with it.reading() as reader:
                it.end(signal.Signals[how])
                assert reader.wait(LIMIT) == 0  # the end of the file
        elif how == "umount":
            subprocess.run(["umount", it.at], check=True)
            it.end()
        else:
            if shutil.which(how) is None:
                pytest.skip(f"{how} is not installed")
            subprocess.run([how, "-u", it.at], check=True)
            it.end()


def test_killed_it_leaves_a_mount_that_umount_cleans(tmp_path: Path, variable: Sample) -> None:
    with mounted(tmp_path / "it") as it:
        it.write(FILTER, f"{variable.request}:rw-\n")
        with it.reading() as reader:
            it.process.kill()
            it.process.wait(LIMIT)
            assert reader.wait(LIMIT) != 0
        assert mount_at(str(it.at)) is not None
        with pytest.raises(OSError, match="not connected"):
            it.read("trace")
        subprocess.run(["umount", it.at], check=True)
        assert mount_at(str(it.at)) is None


def test_killed_the_next_one_cleans_up(tmp_path: Path, variable: Sample) -> None:
    with mounted(tmp_path / "it") as first:
        first.write(FILTER, f"{variable.request}:rw-\n")
        first.process.kill()
        first.process.wait(LIMIT)
        with mounted(tmp_path / "it") as second:
            assert second.read(FILTER) == ""
            second.write(FILTER, f"{variable.request}:rw-\n")


def test_in_the_background(tmp_path: Path, variable: Sample) -> None:
    name = f"it{os.getpid()}"
    at = tmp_path / name
    at.mkdir()
    try:
        done = ksym("mount", "--daemon", name, cwd=tmp_path)
        assert (done.status, done.out, done.err) == (0, "", f"ksym: tracing directory on {name}\n")
        fd = os.open(at / FILTER, os.O_WRONLY)
        os.write(fd, f"{variable.request}:rw-\n".encode())
        os.close(fd)
        pid = server_of(name)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)} == {os.devnull}
        assert os.getsid(pid) == pid
        gone = os.pidfd_open(pid)
        again = ksym("mount", "-d", str(at))
        assert (again.status, again.out) == (125, "")
        assert ONE_LINE.fullmatch(again.err)
        assert "a tracing directory is mounted there" in again.err
        subprocess.run(["umount", at], check=True)
        assert select.select([gone], [], [], LIMIT)[0]
        os.close(gone)
    finally:
        while mount_at(str(at)) is not None:
            subprocess.run(["umount", "-l", at], check=True)


def test_a_server_that_is_killed_before_it_is_ready() -> None:
    """The one in front does not end as if all were well, nor without a word."""
    background = _Background(wanted=True)
    if background.child is None:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(
        KsymError, match=r"^cannot mount on it: its server was ended by SIGKILL before it was ready; "
    ):
        background.outcome("it")


def server_of(name: str) -> int:
    """The process whose last argument it is."""
    (found,) = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and cmdline_of(entry).endswith(f"\0{name}\0".encode())
    ]
    return found


def cmdline_of(entry: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (entry / "cmdline").read_bytes()
    return b""


@pytest.mark.parametrize("daemon", [[], ["--daemon"]])
@pytest.mark.parametrize("case", ["missing", "file", "full", "below a file", "mounted"])
def test_a_place_that_is_not_fit(tmp_path: Path, case: str, daemon: list[str]) -> None:
    at = tmp_path / "it"
    with contextlib.ExitStack() as stack:
        if case == "file":
            at.write_text("x")
        elif case == "below a file":
            at.write_text("x")
            at = at / "below"
        elif case == "full":
            at.mkdir()
            (at / "x").write_text("y")
        elif case == "mounted":
            stack.enter_context(mounted(at))
        before = Path("/proc/self/mountinfo").read_text()
        done = ksym("mount", *daemon, str(at))
        assert (done.status, done.out) == (125, "")
        assert ONE_LINE.fullmatch(done.err), done.err
        assert done.err.startswith(f"ksym: cannot mount on {at}: ")
        assert Path("/proc/self/mountinfo").read_text() == before


def test_who_is_not_root_is_refused(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    done = nobody("mount", "/tmp")
    assert done.status == 125
    assert ONE_LINE.fullmatch(done.err), done.err


@pytest.mark.parametrize("without", ["/dev/fuse", "CAP_SYS_ADMIN"])
def test_what_it_needs_is_not_there(tmp_path: Path, without: str) -> None:
    if without == "/dev/fuse":
        words = [
            "unshare", "-m", "sh", "-c",
            'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && exec "$@"',
            "sh",
        ]  # fmt: skip
    else:
        words = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run(
        [*words, *command("mount", str(tmp_path))],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert ONE_LINE.fullmatch(done.stderr), done.stderr
    assert (without if "/" in without else "CAP_SYS_ADMIN") in done.stderr


# -- any bytes at all ----------------------------------------------------------------------------------

FILES = (
    FILTER,
    "trace",
    "tracing_on",
    "current_tracer",
    "buffer_size_kb",
    "trace_options",
    "error_log",
    "trace_marker",
)
WORDS = st.sampled_from(
    [b"V:rw-\n", b"V:-w-", b"V:rw- if new > 5", b"V:---", b"*:---", b"0", b"1", b"64", b"nop", b"ksym_tracer\n",
     b"values", b"nostacktrace", b"task(self).comm:-w-", b"./p:x:rw-", b"\n", b"\xff\0"]
)  # fmt: skip


@pytest.fixture(scope="module")
def for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("mount") / "it") as found:
        yield found
        found.write(FILTER, "0")


@given(
    name=st.sampled_from(FILES),
    data=st.binary(min_size=1, max_size=200) | WORDS | st.lists(WORDS).map(b"\n".join),
)
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_bytes_are_taken_or_refused(for_all: Mounted, variable: Sample, name: str, data: bytes) -> None:
    data = data.replace(b"V:", variable.request.encode() + b":")
    number = 0
    fd = os.open(for_all.at / name, os.O_WRONLY)
    try:
        os.write(fd, data)
    except OSError as error:
        number = error.errno or 0
    finally:
        os.close(fd)
    assert number in (0, errno.EINVAL, errno.ENOSPC, errno.EPERM, errno.ENOMEM, errno.EBADF)
    assert for_all.process.poll() is None
    assert for_all.read("error_log").replace("\n", "").isprintable()
    # Nothing stays planted for the tests to come, or is lost on the way.
    for_all.write(FILTER, "0")
    assert for_all.read("ksym_profile").count("\n") == 2
