# SPDX-License-Identifier: BSD-2-Clause
"""The program that runs the instructions of `native.programs.instructions`, in assembler."""

from __future__ import annotations

from collections.abc import Iterable

from native.programs.instructions import Case

_HEAD = """
.intel_syntax noprefix
.section .note.GNU-stack, "", @progbits
.macro variable name, at, length
.globl \\name
.type \\name, @object
.size \\name, \\length
.set \\name, \\at
.endm
.macro function name
.globl \\name
.type \\name, @function
\\name:
.endm
.macro end name
.size \\name, . - \\name
.endm
.data
.balign 64
.skip 64
1: .skip 8
2: .skip 1016
variable var, 1b, 8
variable next, 2b, 8
variable byte3, 1b + 3, 1
.balign 64
other: .skip 1024
.text
function reset
    mov [rip + var], rdi
    ret
end reset
function main
    push rbx
    push rbp
    push r12
    push r13
    push r14
    lea rbx, [rip + table]
1:  mov rdi, [rbx + 8]
    call reset
    lea rdi, [rip + other]
    mov rax, 0x5555555555555555
    mov ecx, 8
    rep stosq
    lea rdi, [rip + var]
    lea rsi, [rip + other]
    mov r12, rsp
    mov r13, rbx
    xor eax, eax
    xor edx, edx
    pxor xmm0, xmm0
    call [rbx]
    lea rbx, [r13 + 16]
    cmp qword ptr [rbx], 0
    jne 1b
    xor eax, eax
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
end main
"""


BOTH_WAYS = """
.text
function both_ways
    movsb
    nop
    ret
end both_ways
"""
"""A function that cases may call, with one instruction that reads one place and writes another."""


def source(cases: Iterable[Case]) -> str:
    """The program, in assembler: it runs the cases in this order."""
    cases = tuple(cases)
    lines = [_HEAD]
    for case in cases:
        name = f"case_{case.name}"
        lines += [".balign 16", f"function {name}", case.before, case.code]
        if case.lands:
            there = "" if case.lands == "elsewhere" else case.lands
            lines += [f"end {name}", ".balign 16", f"function {name}_there", there, "lea rsp, [r12 - 8]"]
            lines += ["ret", f"end {name}_there"]
        else:
            lines += [case.behind, "ret", f"end {name}"]
    lines += [".section .rodata", ".balign 8", "table:"]
    lines += [f".quad case_{case.name}, {case.value}" for case in cases]
    return "\n".join([*lines, ".quad 0, 0", ""])
