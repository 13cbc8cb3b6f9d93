# SPDX-License-Identifier: BSD-2-Clause
"""Bad input and bad days: each has its message, its status, and leaves no register taken (see conftest)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from ksym.linux.libc import MACHINE
from ksym.symbols.kallsyms import Kallsyms
from native.running import ONE_LINE, ended, free, line, nobody, row, sample, started, summary, touch
from support.program import command, environment, ksym, shell

pytestmark = pytest.mark.native

X86 = pytest.mark.skipif(MACHINE != "x86_64", reason="it is so on x86 alone")
KERNEL = Kallsyms.of_this_kernel()
NO_DATA = pytest.mark.skipif(KERNEL.has_data, reason="this kernel has CONFIG_KALLSYMS_ALL")

SENTENCES = [
    pytest.param(
        "workqueue:panic_on_stal",
        "cannot watch workqueue:panic_on_stal: no parameter of workqueue has that name, and /proc/kallsyms has no "
        "variables (CONFIG_KALLSYMS_ALL is off); did you mean workqueue:panic_on_stall?",
        marks=NO_DATA, id="no such parameter",
    ),
    pytest.param(
        "workqeue:panic_on_stall",
        "cannot watch workqeue:panic_on_stall: there is no module workqeue (not loaded, or without parameters); "
        "did you mean workqueue:panic_on_stall?",
        id="no such module",
    ),
    pytest.param(
        "workqueue.panic_on_stall",
        re.compile("cannot watch workqueue: it is a module, not a variable; name .* parameters, as in workqueue:.+"),
        id="a dot behind a module",
    ),
    pytest.param(
        "kernel.nosuchname",
        "cannot watch kernel: the kernel has no variable of that name, only a group of sysctls; "
        "write the variable's own name, often the last part of the sysctl's (kernel.NAME)",
        id="sysctl",
    ),
    pytest.param(
        "nosuchprogram:counter",
        "cannot watch nosuchprogram:counter: there is no module nosuchprogram (not loaded, or without parameters); "
        "`lsmod` lists the modules that are loaded; a program is named by its path, as in ./PROGRAM:VARIABLE",
        id="program without a slash",
    ),
    pytest.param(
        "do_exit:foo",
        "cannot watch do_exit:foo: do_exit is a symbol, not a module, and foo is not an ACCESS; write do_exit:--x",
        id="no ACCESS",
    ),
    pytest.param(
        "current->comm",
        "cannot watch current: a task is named by its PID; write task(self)->MEMBER, or task(PID)->MEMBER",
        id="current",
    ),
    pytest.param(
        "nosuchname_of_all",
        "cannot watch nosuchname_of_all: this kernel's /proc/kallsyms has no variables (CONFIG_KALLSYMS_ALL is off); "
        "give --vmlinux FILE (a vmlinux or System.map), or name a module parameter (MODULE:NAME), "
        "a per-CPU variable, task(PID)->MEMBER or *(TYPE *)0xADDRESS",
        marks=NO_DATA, id="no KALLSYMS_ALL",
    ),
    pytest.param(
        "0x12345678/4",
        "cannot watch 0x12345678/4: 0x12345678 is not a kernel address; printk's %p prints hashed values like this "
        "one; "
        "use the address that %px prints, or /proc/kallsyms; for a user address add -p PID",
        id="hashed address",
    ),
    pytest.param(
        "0x7f0000001000/4",
        "cannot watch 0x7f0000001000/4: 0x7f0000001000 lies in user space and no process is given; add -p PID",
        id="user address",
    ),
    pytest.param(
        "*(u32 *)0xffffffff82c0ffee",
        "cannot watch *(u32 *)0xffffffff82c0ffee: 0xffffffff82c0ffee is not aligned to the 4 bytes of u32, as every "
        "object of that type is; check the address; 0xffffffff82c0ffee/4 watches these bytes with more registers",
        id="misaligned",
    ),
    pytest.param(
        "do_exit",
        "cannot watch do_exit: it is a function, not a variable; watch its execution with do_exit:--x",
        id="function as data",
    ),
    pytest.param(
        "workqueue:panic_on_stall:--x",
        "cannot watch workqueue:panic_on_stall:--x: it is a variable, not a function; "
        "watch its accesses: workqueue:panic_on_stall:rw-",
        id="data as function",
    ),
    pytest.param(
        "task(1)",
        re.compile(r"cannot watch task\(1\): the whole task_struct has \d+ bytes; name a member: task\(1\)\.comm"),
        id="whole task",
    ),
    pytest.param(
        "task(1).com",
        re.compile(r"cannot reach task\(1\)\.com: struct task_struct has no member 'com'; did you mean comm.*\?"),
        id="no such member",
    ),
    pytest.param(
        "task(1).comm[16]",
        "cannot reach task(1).comm[16]: the array has 16 elements; number them 0 to 15",
        id="index",
    ),
    pytest.param(
        "task(4194303).comm",
        "cannot find task(4194303): there is no such task; see ps -eL",
        id="no such task",
    ),
    pytest.param(
        "./nosuch:counter",
        "cannot watch ./nosuch:counter: a user variable lies in a process and none is given; "
        "add -p PID or -- COMMAND",
        id="no process",
    ),
]  # fmt: skip

MALFORMED = {
    "a:b:c:rw-": "more than one ':' besides those of module and ACCESS; write MODULE:SYMBOL:ACCESS",
    "pid_max:": "no ACCESS follows the ':'; write pid_max:rw-",
    "pid_max:wr-": "'w' is out of place in ACCESS, the order is r, w, x; write pid_max:rw-",
    "pid_max:rw!": "'!' is not a character of ACCESS; use rw-, -w-, r-- or --x",
    "pid_max:rwx": "x stands by itself, one register watches either data or execution; "
    "use --x, or r, w and - without x",
    "pid_max:---": "'---' clears a watch, and belongs to the tracing directory; use rw-, -w-, r-- or --x here",
}

USAGE = {
    (): "the following arguments are required: REQUEST; see ksym trace --help",
    ("x", "--limit", "0"): "argument --limit: '0' is not a positive whole number; see ksym trace --help",
    ("x", "--frmat", "json"): "unrecognized arguments: --frmat json; see ksym trace --help",
    ("x", "-C", "a"): "argument -C/--cpus: 'a' is not a list of CPUs like 0-3,8; see ksym trace --help",
    (
        "x",
        "--duration",
        "",
    ): "argument --duration: '' is not a number of seconds above 0; see ksym trace --help",
    ("x", "-w-"): "-w- stands apart; put ACCESS right after the variable, as in pid_max:-w-",
    ("x", "--x"): "--x stands apart; put ACCESS right after the variable, as in pid_max:-w-",
    ("x", "--"): "nothing follows --; name a COMMAND after it",
}


@pytest.mark.parametrize(("request_", "sentence"), SENTENCES)
@pytest.mark.parametrize("verb", ["trace", "stat"])
def test_what_cannot_be_watched(verb: str, request_: str, sentence: str | re.Pattern[str]) -> None:
    result = ksym(verb, request_, "--duration", "5")
    assert (result.status, result.out) == (125, "")
    text = result.err.removeprefix("ksym: ").removesuffix("\n")
    assert text == sentence if isinstance(sentence, str) else sentence.fullmatch(text), text


def test_resolve_has_no_command_to_offer() -> None:
    result = ksym("resolve", "./nosuch:counter")
    assert (result.status, result.out) == (125, "")
    assert result.err.endswith("a user variable lies in a process and none is given; add -p PID\n")


@pytest.mark.parametrize(("request_", "why"), MALFORMED.items())
def test_malformed_requests_of_the_seeds_kinds(request_: str, why: str) -> None:
    result = ksym("trace", request_)
    assert (result.status, result.out, result.err) == (
        2,
        "",
        f"ksym: cannot read request '{request_}': {why}\n",
    )


@pytest.mark.parametrize(("words", "why"), USAGE.items())
def test_wrong_usage(words: tuple[str, ...], why: str) -> None:
    result = ksym("trace", *words)
    assert (result.status, result.err) == (2, f"ksym: cannot read the command line: {why}\n")


def test_an_unknown_command_gets_the_nearest() -> None:
    result = ksym("tarce", "pid_max")
    expected = "ksym: cannot read the command line: there is no command 'tarce'; did you mean trace?\n"
    assert (result.status, result.err) == (2, expected)


def test_duplicates_are_refused() -> None:
    request = sample().request
    same = ksym("trace", request, request)
    other = ksym("trace", request, f"{request}:-w-")
    assert (same.status, other.status) == (2, 2)
    assert same.err == (
        f"ksym: cannot watch {request} twice: both requests are '{request}:rw-'; keep one of them\n"
    )
    assert other.err == (
        f"ksym: cannot watch {request} twice: it is asked for as '{request}:rw-' and as '{request}:-w-'; "
        "keep one of them\n"
    )


def test_a_traceback_for_developers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in ksym("trace", "no_such_thing").err
    monkeypatch.setenv("KSYM_DEBUG", "1")
    result = ksym("trace", "no_such_thing")
    assert result.err.startswith("Traceback (most recent call last):\n")
    assert result.status == 125


# -- COMMAND -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "status", "sentence"),
    [
        ("nosuch-command", 127, "it is in no directory of PATH; check the spelling of COMMAND"),
        ("./nosuch", 127, "there is no such file; check the spelling of COMMAND"),
        ("/etc/passwd", 126, "it is not executable; name a program"),
        ("/etc", 126, "it is a directory; name a program"),
    ],
)
def test_commands_that_cannot_run(word: str, status: int, sentence: str) -> None:
    result = ksym("trace", sample().request, "--", word)
    assert (result.status, result.out, result.err) == (status, "", f"ksym: cannot run {word}: {sentence}\n")


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"\x7fELF garbage")
    (tmp_path / "garbage").chmod(0o755)
    result = ksym("stat", sample().request, "--", str(tmp_path / "garbage"))
    assert result.status == 126
    assert (
        "it is neither a program for this machine nor a script that names its interpreter (#!)" in result.err
    )
    assert len(result.err.splitlines()) == 1


def test_a_script_whose_interpreter_is_missing(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/no/such/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    result = ksym("stat", sample().request, "--", str(tmp_path / "script"))
    assert result.status == 127
    assert "its first line names an interpreter that does not exist; correct that line" in result.err


def test_a_second_run_of_the_program_is_watched_too(program: Path) -> None:
    name = str(program)
    hits = []
    for script in (name, f"{name}; {name}; true"):
        result = ksym("stat", f"{name}:counter:-w-", "--", "sh", "-c", script)
        hits.append(int(summary(result.err).split()[1]))
    assert hits[0] > 0
    assert hits[1] == 2 * hits[0]


@pytest.mark.parametrize("verb", ["trace", "stat"])
@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), (":", 0)]
)
def test_the_status_is_that_of_command(verb: str, script: str, status: int) -> None:
    result = ksym(verb, sample().request, *shell(script))
    assert result.status == status
    assert summary(result.err)


def test_what_command_starts_is_watched_too() -> None:
    chosen = sample()
    result = ksym("trace", chosen.request, "--format", "json", *shell(f"(exec cat {chosen.file}) & wait"))
    assert [(row["comm"], row["access"]) for row in result.rows()] == [("cat", "R")]


def test_a_program_without_the_variable() -> None:
    result = ksym("trace", "./nosuch:counter", "--", "true")
    assert result.status == 125
    assert result.err == ("ksym: cannot watch ./nosuch: there is no file ./nosuch; check the path\n")


@X86
@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("./prog:conter", "cannot watch ./prog:conter: ./prog has no such symbol; did you mean ./prog:counter?"),
        ("./prog:cfg.limits[9]", "cannot reach ./prog:cfg.limits[9]: the array has 4 elements; number them 0 to 3"),
        ("./prog:cfg.lim", "cannot reach ./prog:cfg.lim: struct config has no member 'lim'; did you mean limits?"),
    ],
)  # fmt: skip
def test_names_that_a_program_does_not_have(program: Path, target: str, sentence: str) -> None:
    result = ksym("trace", target, "--", "./prog", cwd=program.parent)
    assert (result.status, result.out, result.err) == (125, "", f"ksym: {sentence}\n")


def test_a_process_that_is_gone() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    result = ksym("trace", sample().request, "-p", str(gone.pid))
    expected = f"ksym: cannot watch process {gone.pid}: there is no such process; see ps -e\n"
    assert (result.status, result.err) == (125, expected)


# -- where rows go -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("trace", "--limit", "5", "-q"),
        ("trace",),
        ("stat", "-I", "5"),
        ("stat", "-I", "5", "-q"),
        ("resolve",),
    ],
    ids=" ".join,
)
def test_a_reader_that_has_seen_enough(words: tuple[str, ...]) -> None:
    chosen = sample()
    reading, writing = os.pipe()
    # The variable is touched all the time, as the guard may see.
    unguarded = () if words[0] == "resolve" else ("--guard", "off")
    process = subprocess.Popen(
        command(words[0], chosen.request, *words[1:], *unguarded), stdout=writing, stderr=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip
    os.close(writing)
    os.close(reading)
    while process.poll() is None:
        touch(chosen.file)
    _, error = process.communicate()
    assert process.returncode == 0
    assert not [text for text in error.splitlines() if not text.startswith("ksym: ") or "cannot" in text]
    if words[0] == "resolve":
        return
    assert re.fullmatch(r"ksym: \d+ (access|hit).*, 0 lost, 0 disarmed; .*", summary(error))
    told = "ksym: the reader of the rows went away: the last ones were not shown\n"
    assert (told in error) == (words == ("trace",))


@pytest.mark.parametrize(
    "words", [("trace", "-o", "/dev/full"), ("trace",), ("stat",), ("stat", "--json"), ("resolve",), ("doctor",)],
    ids=" ".join,
)  # fmt: skip
def test_a_full_disk(words: tuple[str, ...]) -> None:
    chosen = sample()
    run = words[0] in ("trace", "stat")
    more = ("--", "sh", "-c", f"cat {chosen.file} > /dev/null") if run else ()
    request = () if words[0] == "doctor" else (chosen.request,)
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            command(words[0], *request, *words[1:], *more), stdout=full, stderr=subprocess.PIPE, text=True,
            env=environment(),
        )  # fmt: skip
    assert result.returncode == 125
    *counts, told = result.stderr.splitlines(keepends=True)
    assert re.match(r"ksym: cannot write (/dev/full|the output): No space left on device; ", told)
    assert ONE_LINE.fullmatch(told)
    # A run that has counted something by then says what.
    assert [summary(line) for line in counts] == [f"ksym: 1 hit, 0 lost, 0 disarmed; {chosen.request} 1"] * (
        words[0] == "stat"
    )


def test_a_folder_that_is_not_there() -> None:
    result = ksym("trace", sample().request, "-o", "/nosuch/rows", "--", "true")
    expected = "ksym: cannot write /nosuch/rows: No such file or directory; choose another file with -o\n"
    assert (result.status, result.err) == (125, expected)


def test_a_run_that_is_refused_makes_and_replaces_no_file(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    words = ("trace", "nosuchmodule:nosuchname", "-o", str(rows))
    assert ksym(*words).status == 125
    assert not rows.exists()
    rows.write_text("of an earlier run\n")
    assert ksym(*words, "--force").status == 125
    assert rows.read_text() == "of an earlier run\n"


# -- signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_in_order(number: signal.Signals) -> None:
    chosen = sample()
    with started("trace", chosen.request, "--format", "json") as process:
        rows = row(process, chosen.file)
        out, error = ended(process, number)
    assert process.returncode == 0
    count = len((rows + out).splitlines())
    assert re.match(rf"ksym: {count} access", summary(error))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_counting_in_order(number: signal.Signals) -> None:
    chosen = sample()
    with started("stat", chosen.request, "-I", "10", "-q") as process:
        line(process)
        touch(chosen.file)
        out, error = ended(process, number)
    assert process.returncode == 0
    assert out.split()[1] == "1"
    assert summary(error).startswith("ksym: 1 hit, 0 lost")


def test_a_killed_run_holds_no_register() -> None:
    chosen = sample()
    with started("trace", chosen.request, "--format", "json") as process:
        row(process, chosen.file)
        assert max(free()) < 4
        ended(process, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL  # that its register is free again is for the fixture to see


def test_command_goes_on_when_ksym_is_killed(program: Path) -> None:
    script = "./prog; echo $$; read line; echo went on"
    words = command("trace", "./prog:counter", "-o", "/dev/null", "--", "sh", "-c", script)
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=program.parent, bufsize=0
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert max(free()) < 4
        process.kill()
        assert process.wait() == -signal.SIGKILL
        os.kill(pid, 0)
        process.stdin.write(b"\n")
        assert process.stdout.read() == b"went on\n"


def test_a_signal_while_command_is_on_its_way_to_the_variable() -> None:
    with started("trace", "./nosuch:counter", "--", "sh", "-c", "echo up; exec sleep 1000") as process:
        assert line(process) == "up\n"
        _, error = ended(process, signal.SIGTERM)
    assert process.returncode == 125
    assert error == "ksym: cannot watch ./nosuch: SIGTERM came before sh had it in memory\n"


def test_a_signal_ends_command_too() -> None:
    chosen = sample()
    with started("trace", chosen.request, "-q", "--", "sh", "-c", "echo $$; exec sleep 1000") as process:
        pid = int(line(process))
        _, error = ended(process, signal.SIGTERM)
    assert process.returncode == 143
    assert summary(error)
    assert not os.path.exists(f"/proc/{pid}")


# -- without privileges ------------------------------------------------------------------------------


def test_kernel_variables_need_root() -> None:
    result = nobody("trace", sample().request)
    assert result.status == 125
    assert result.err == (
        "ksym: cannot find kernel symbols: kernel variables may be watched only by root (CAP_SYS_ADMIN); "
        "run it with sudo\n"
    )
    address = KERNEL.find("_text")[0].address
    result = nobody("stat", f"{address:#x}/4")
    assert (result.status, result.err) == (
        125,
        f"ksym: cannot watch {address:#x}/4: kernel addresses may be watched only by root (CAP_SYS_ADMIN); "
        "run it with sudo\n",
    )


def test_other_users_processes_are_theirs() -> None:
    result = nobody("stat", "0x7ffff000/4", "-p", str(os.getpid()))
    assert result.status == 125
    assert result.err == (
        "ksym: cannot watch 0x7ffff000/4: that process belongs to another user, or it may not be traced; "
        "run it with sudo\n"
    )


def test_doctor_and_selftest_expect_less_of_nobody() -> None:
    doctor, selftest = nobody("doctor"), nobody("selftest")
    assert (doctor.status, selftest.status) == (0, 0)
    assert re.search(r"^limited +watch kernel variables ", doctor.out, re.MULTILINE)
    assert re.search(r"^skipped +kernel variable: ", selftest.out, re.MULTILINE)
