# SPDX-License-Identifier: BSD-2-Clause
"""32-bit code is decoded as such: in a 32-bit program, and where a 64-bit program changes the mode."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ksym.capture.instructions import available
from ksym.linux.libc import MACHINE
from support.program import ksym
from synthetic.compile import build, nm

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="32-bit code of x86"),
    pytest.mark.skipif(not available(), reason="decoded by iced-x86, which is not installed"),
]

TOUCH = """
        movl counter, %eax
        addl %eax, counter
        movl %eax, counter
        movl $counter, %ecx
        incl (%ecx)
        inc %ecx
        dec %ecx
        movl (%ecx), %edx
        movb %ah, counter+1
"""
"""What 64-bit code has other meanings for: addresses in the instruction (a1, a3), `inc` and `dec` (41, 49)."""
KINDS = ["R", "RW", "W", "RW", "R", "W"]


def texts(counter: int) -> list[str]:
    at = f"[{counter:#x}]"
    return [
        f"mov eax,{at}", f"add {at},eax", f"mov {at},eax", "inc dword ptr [ecx]", "mov edx,[ecx]",
        f"mov [{counter + 1:#x}],ah",
    ]  # fmt: skip


NARROW = f"""
        .data
        .globl counter, text
        .type counter,@object
        .size counter, 4
        .balign 8
counter: .long 3
        .type text,@object
        .size text, 8
        .balign 8
text:   .quad 0
        .text
        .globl touch, _start
        .type touch,@function
touch:
{TOUCH}
        ret
        .size touch, .-touch
        .type _start,@function
_start:
        call touch
        call touch
        movl $text, %edi
        movl $8, %ecx
        rep stosb
        movl $1, %eax
        xorl %ebx, %ebx
        int $0x80
        .size _start, .-_start
"""
BOTH = f"""
        .data
        .globl counter
        .type counter,@object
        .size counter, 4
        .balign 8
counter: .long 3
stack:  .quad 0
there:  .long touch
        .word 0x23
        .text
        .globl touch, _start, wide
        .code32
        .type touch,@function
touch:
{TOUCH}
        ljmp $0x33, $back
        .size touch, .-touch
        .code64
        .type wide,@function
wide:
        movl $0x2b, %eax
        movl %eax, %ds
        movq %rsp, stack
        ljmpl *there
back:
        movq stack, %rsp
        movabsl counter, %eax
        incl counter
        ret
        .size wide, .-wide
        .type _start,@function
_start:
        call wide
        movl $60, %eax
        xorl %edi, %edi
        syscall
        .size _start, .-_start
"""
"""It jumps to its own 32-bit code: by the selectors of the kernel for code of both and for data, which 64-bit code
leaves empty (arch/x86/include/asm/segment.h)."""
STATIC = ("-nostdlib", "-static", "-no-pie", "-Wl,--build-id")


def assembled(folder: Path, source: str, *flags: str) -> Path:
    program = build(folder, "prog", source, *STATIC, *flags, suffix="s")
    try:
        status = subprocess.run([str(program)]).returncode
    except OSError as error:
        pytest.skip(f"this kernel runs no 32-bit programs: {error}")
    if status:
        pytest.skip("this kernel has no segment for 32-bit code")
    return program


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assembled(tmp_path_factory.mktemp("narrow"), NARROW, "-m32")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assembled(tmp_path_factory.mktemp("both"), BOTH)


def rows(program: Path, *words: str, target: str = "counter:rw-") -> list[tuple[str, str, int]]:
    result = ksym("trace", f"./prog:{target}", *words, "--format", "json", "--", "./prog", cwd=program.parent)
    assert result.status == 0, result.err
    return [(row["access"], row["instruction"], row["hits"]) for row in result.rows()]


def recorded(program: Path, *words: str) -> list[tuple[str, str, int]]:
    done = ksym("record", "-f", "-o", "x.data", "./prog:counter", *words, "--", "./prog", cwd=program.parent)
    assert done.status == 0, done.err
    return scripted(program.parent, "x.data")


def scripted(folder: Path, file: str) -> list[tuple[str, str, int]]:
    result = ksym("script", "--format", "json", file, cwd=folder)
    assert result.status == 0, result.err
    return [(row["access"], row["instruction"], row["hits"]) for row in result.rows()]


def expected(program: Path) -> list[tuple[str, str, int]]:
    """What ``touch`` does once."""
    return [(kind, text, 1) for kind, text in zip(KINDS, texts(nm(program)["counter"]), strict=True)]


WAYS = [("--twin", "on"), ("--twin", "off"), ("--twin", "off", "--no-bpf"), ("--twin", "on", "--no-bpf")]


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_a_program_of_32_bits(narrow: Path, way: tuple[str, ...]) -> None:
    assert rows(narrow, *way) == 2 * expected(narrow)
    writes = [each for each in 2 * expected(narrow) if each[0] != "R"]
    assert rows(narrow, *way[2:], target="counter:-w-") == writes


@pytest.mark.parametrize("bpf", [True, False], ids=["program", "no program"])
def test_a_string_instruction_of_32_bits_is_one_access(narrow: Path, bpf: bool) -> None:
    ((kind, text, _),) = rows(narrow, *([] if bpf else ["--no-bpf"]), target="text:-w-")
    assert (kind, text) == ("W", "rep stosb [edi]")


@pytest.mark.parametrize("way", WAYS[1:3], ids=" ".join)
def test_a_recording_of_a_program_of_32_bits(narrow: Path, way: tuple[str, ...]) -> None:
    assert recorded(narrow, *way) == 2 * expected(narrow)
    report = json.loads(ksym("report", "--json", "x.data", cwd=narrow.parent).out)
    assert "rcx" not in json.dumps(report)
    assert texts(nm(narrow)["counter"])[0] in json.dumps(report)


def test_counts_of_a_program_of_32_bits(narrow: Path) -> None:
    done = ksym(
        "stat",
        "./prog:counter",
        "--twin",
        "off",
        "--by",
        "function",
        "--json",
        "--",
        "./prog",
        cwd=narrow.parent,
    )
    found = {
        (row["type"], row["function"]): row["hits"]
        for row in map(json.loads, done.out.splitlines())
        if "type" in row
    }
    assert found == {("R", "touch"): 4, ("W", "touch"): 4, ("RW", "touch"): 4}


def test_what_perf_recorded_of_a_program_of_32_bits(narrow: Path) -> None:
    """The file that was mapped tells."""
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed")
    address = nm(narrow)["counter"]
    subprocess.run(
        ["perf", "record", "-q", "-o", "p.data", "-c", "1", "-e", f"mem:{address:#x}/4:rw:u", "./prog"],
        cwd=narrow.parent,
        check=True,
        capture_output=True,
    )
    assert scripted(narrow.parent, "p.data") == 2 * expected(narrow)


@pytest.mark.parametrize("way", [("--twin", "on"), ("--twin", "off")], ids=" ".join)
def test_a_process_that_holds_code_of_both(both: Path, way: tuple[str, ...]) -> None:
    """Each hit tells how the processor took the code, live and in a recording."""
    counter = nm(both)["counter"]
    wanted = [
        *expected(both),
        ("R", f"mov eax,[{counter:#x}]", 1),
        ("RW", f"inc dword ptr [{counter:#x}]", 1),
    ]
    assert rows(both, *way) == wanted
    assert recorded(both, *way) == wanted


def test_a_command_that_runs_programs_of_both(tmp_path: Path, narrow: Path, both: Path) -> None:
    """A process that runs another program holds other code at the same addresses."""
    shutil.copy(narrow, tmp_path / "narrow")
    shutil.copy(both, tmp_path / "both")
    for name, wanted in (("narrow", 2 * expected(narrow)), ("both", expected(both))):
        command = f"./both; ./narrow; exec ./{name}"
        result = ksym(
            "trace", f"./{name}:counter", "--format", "json", "--", "sh", "-c", command, cwd=tmp_path
        )
        found = [(row["access"], row["instruction"], row["hits"]) for row in result.rows()]
        assert found[: len(wanted)] == wanted
