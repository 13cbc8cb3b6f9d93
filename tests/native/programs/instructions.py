# SPDX-License-Identifier: BSD-2-Clause
"""x86 instructions that touch one watched variable, and what each of them shows.

Each stands in a function of its own, so that a row's FUNCTION names the instruction that made the access (`assembly`).
In front of each, ``reset`` gives the variable its value, with one store. Meanwhile

- rdi is the variable's address, rsi that of 1024 other bytes, the first 64 of them 0x55,
- rax, rcx, rdx and xmm0 are 0,
- r12 - 8 is the stack pointer that the function has to return with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VALUE = "0x0807060504030201"
"""What the variable holds in front of most instructions; its bytes differ from each other."""


@dataclass(frozen=True)
class Case:
    """An instruction and what ksym shows of it.

    Args:
        name: Part of its function's name.
        code: The instruction, with the variable as ``[rdi]`` or ``var``.
        made: The access to the variable as the processor makes it: ``R``, ``W``, ``RW``, or "" for none.
        hits: Traps that it takes.
        before: Instructions that prepare it; they leave the variable alone.
        behind: Instructions behind it.
        value: What the variable holds in front of it.
        written: TYPE where it is known for a write, by twins or a ``-w-`` watch, if not ``made``.
        decoded: TYPE by decoding, if not ``made``.
        changed: TYPE by decoding and the change of the value, if not ``decoded``.
        why: Why they differ from ``made``: a key of REASONS.
        does: What the docs say of it, if more than the code.
        lands: Control goes to another place, so the row names that: LANDS_IN, or a function of its own.
        flag: Of /proc/cpuinfo, without which the processor does not have it.
        vendor: The only one on whose processors it is known to be so.
    """

    name: str
    code: str
    made: str
    hits: int = 1
    before: str = ""
    behind: str = "nop"
    value: str = VALUE
    written: str = ""
    decoded: str = ""
    changed: str = ""
    why: str = ""
    does: str = ""
    lands: str = ""
    flag: str = ""
    vendor: str = ""

    @property
    def function(self) -> str:
        """The function that its rows name."""
        return f"case_{self.name}{'_there' if self.lands else ''}"

    def types(self) -> dict[str, str]:
        """TYPE by how it is found out, "" where there is no row."""
        written = (self.written or self.made) if "W" in self.made else ""
        decoded = self.decoded or self.made
        return {
            "twins": written or self.made,
            "change": self.changed or decoded,
            "decoding": decoded,
            "-w-": written,
            "r--": self.made if self.made == "R" else "",
        }


REASONS = {
    "places": "It reads one place and writes another. Which of them is the variable the code does not tell.",
    "both": "It reads one place and writes another, and both lie in the variable. The code does not tell that.",
    "area": "It writes the area and reads a part of it, at its 512th byte. Decoding knows the area as a whole.",
    "control": "It goes elsewhere, and the address reported is that of the place. What stands in front made no access.",
    "landed": "It goes to a place behind a store. That is taken for what made the access, though it is another's.",
}

JUMPS: dict[str, Any] = {"lands": "elsewhere", "why": "control", "decoded": "?"}
MOVES: dict[str, Any] = {"why": "places", "decoded": "?"}
STACK: dict[str, Any] = {"before": "lea rsp, [rdi + 8]", "behind": "lea rsp, [r12 - 8]"}
AVX: dict[str, Any] = {"flag": "avx", "behind": "vzeroupper"}
INTEL: dict[str, Any] = {"vendor": "GenuineIntel"}
ONES = "pcmpeqb xmm1, xmm1"
ZEROS = "pxor xmm1, xmm1"

# fmt: off
CASES = (
    # -- loads and stores
    Case("load8", "mov rax, [rdi]", "R"),
    Case("load4", "mov eax, [rdi + 4]", "R"),
    Case("load2", "mov ax, [rdi + 6]", "R"),
    Case("load1", "mov al, [rdi + 7]", "R"),
    Case("store8", "mov [rdi], rax", "W"),
    Case("store4", "mov [rdi], eax", "W"),
    Case("store2", "mov [rdi + 2], ax", "W"),
    Case("store1", "mov [rdi + 7], al", "W"),
    Case("store_same", "mov byte ptr [rdi], 1", "W", does="the value that is there already"),
    Case("store_imm", "mov qword ptr [rdi], 5", "W"),
    Case("load_moffs", "movabs al, [var]", "R"),
    Case("store_moffs", "movabs [var], eax", "W"),
    Case("load_rip", "mov rax, [rip + var]", "R"),
    Case("movzx", "movzx eax, byte ptr [rdi]", "R"),
    Case("movsxd", "movsxd rax, dword ptr [rdi]", "R"),
    Case("movbe_load", "movbe rax, [rdi]", "R", flag="movbe"),
    Case("movbe_store", "movbe [rdi], rax", "W", flag="movbe"),
    Case("movnti", "movnti [rdi], rax", "W"),
    Case("load_before", "mov rax, [rdi - 4]", "R", does="half of it in front of the variable"),
    Case("store_before", "mov [rdi - 7], rax", "W", does="one byte of it in the variable"),
    Case("store_behind", "mov [rdi + 7], rax", "W", does="one byte of it in the variable"),
    # -- arithmetic
    Case("add_from", "add rax, [rdi]", "R"),
    Case("mul", "mul qword ptr [rdi]", "R"),
    Case("imul", "imul rax, [rdi], 3", "R"),
    Case("div", "div qword ptr [rdi]", "R"),
    Case("cmp", "cmp [rdi], eax", "R"),
    Case("test", "test [rdi], eax", "R"),
    Case("popcnt", "popcnt rax, [rdi]", "R", flag="popcnt"),
    Case("crc32", "crc32 eax, dword ptr [rdi]", "R", flag="sse4_2"),
    Case("add_to", "add [rdi], eax", "RW"),
    Case("adc_to", "adc qword ptr [rdi], 0", "RW"),
    Case("xor_to", "xor [rdi], rax", "RW"),
    Case("and_same", "and qword ptr [rdi], -1", "RW"),
    Case("inc", "inc qword ptr [rdi]", "RW"),
    Case("neg", "neg dword ptr [rdi]", "RW"),
    Case("not", "not byte ptr [rdi]", "RW"),
    Case("shl", "shl qword ptr [rdi], 3", "RW"),
    Case("shl_by_0", "shl qword ptr [rdi], cl", "RW", does="with cl = 0"),
    Case("shld", "shld [rdi], rax, 3", "RW"),
    Case("cmov_taken", "cmove rax, [rdi]", "R", before="xor eax, eax", does="with the condition true"),
    Case("cmov_not_taken", "cmovne rax, [rdi]", "R", before="xor eax, eax", does="with the condition false"),
    Case("setcc", "sete byte ptr [rdi]", "W"),
    # -- bits
    Case("bt", "bt [rdi], eax", "R", before="mov eax, 9"),
    Case("bt_far", "bt [rsi], rax", "R", before="lea rax, [rdi * 8]\nlea rcx, [rsi * 8]\nsub rax, rcx",
         does="with rsi elsewhere and the bit in the variable"),
    Case("bts", "bts [rdi], eax", "RW", before="mov eax, 63"),
    Case("bts_set", "bts qword ptr [rdi], 0", "RW", does="of a bit that is set"),
    Case("btr", "btr qword ptr [rdi], 0", "RW"),
    Case("btc", "btc qword ptr [rdi], 5", "RW"),
    Case("lock_bts", "lock bts qword ptr [rdi], 4", "RW"),
    # -- exchanges
    Case("xchg", "xchg [rdi], rax", "RW"),
    Case("xadd", "xadd [rdi], rax", "RW"),
    Case("lock_xadd", "lock xadd [rdi], rax", "RW"),
    Case("lock_add", "lock add qword ptr [rdi], 1", "RW"),
    Case("lock_inc", "lock inc dword ptr [rdi]", "RW"),
    Case("cmpxchg", "lock cmpxchg [rdi], rcx", "RW", before=f"mov rax, {VALUE}"),
    Case("cmpxchg_fails", "lock cmpxchg [rdi], rcx", "RW", does="that fails"),
    Case("cmpxchg_alone", "cmpxchg [rdi], ecx", "RW", does="that fails"),
    Case("cmpxchg8b", "lock cmpxchg8b [rdi]", "RW", before="mov eax, 0x04030201\nmov edx, 0x08070605"),
    Case("cmpxchg8b_fails", "lock cmpxchg8b [rdi]", "RW", does="that fails"),
    Case("cmpxchg16b", "lock cmpxchg16b [rdi]", "RW", before=f"mov rax, {VALUE}\nmov rdx, [rdi + 8]", flag="cx16"),
    Case("cmpxchg16b_fails", "lock cmpxchg16b [rdi]", "RW", flag="cx16", does="that fails"),
    # -- strings
    Case("stos", "stosq", "W"),
    Case("lods", "lodsq", "R", before="mov rsi, rdi"),
    Case("scas", "scasq", "R"),
    Case("cmps", "cmpsq", "R"),
    Case("cmps_both", "cmpsd", "R", before="lea rsi, [rdi + 4]", does="both places in the variable"),
    Case("movs_from", "movsq", "R", before="xchg rsi, rdi", does="out of the variable", **MOVES),
    Case("movs_to", "movsq", "W", changed="W", does="into the variable", **MOVES),
    Case("movs_to_same", "movsb", "W", before="mov byte ptr [rsi], 1", does="the value that is there already",
         **MOVES),
    Case("movs_both", "movsd", "RW", before="mov rsi, rdi\nadd rdi, 4", written="W", changed="W", decoded="?",
         why="both", does="within the variable"),
    Case("rep_stosb", "rep stosb", "W", 8, before="mov ecx, 8"),
    Case("rep_stosd", "rep stosd", "W", 2, before="mov ecx, 2"),
    Case("rep_stosb_none", "rep stosb", "", 0, does="with ecx = 0"),
    Case("rep_lodsb", "rep lodsb", "R", 8, before="mov rsi, rdi\nmov ecx, 8"),
    Case("repne_scasb", "repne scasb", "R", 4, before="mov al, 4\nmov ecx, 8", does="that stops at the 4th byte"),
    Case("repe_cmpsb", "repe cmpsb", "R", 3, before="mov dword ptr [rsi], 0xffff0201\nmov ecx, 8",
         does="that stops at the 3rd byte"),
    Case("rep_movsb_from", "rep movsb", "R", 8, before="xchg rsi, rdi\nmov ecx, 8", does="out of the variable",
         **MOVES),
    Case("rep_movsb_to", "rep movsb", "W", 8, before="mov ecx, 8", changed="W", does="into the variable", **MOVES),
    Case("rep_movsb_over", "rep movsb", "W", 8, before="sub rdi, 8\nmov ecx, 24", changed="W",
         does="over the variable and its neighbours", **MOVES),
    Case("rep_movsq_over", "rep movsq", "W", before="sub rdi, 8\nmov ecx, 3", changed="W",
         does="over the variable and its neighbours", **MOVES),
    Case("rep_movsb_both", "rep movsb", "RW", 4, before="mov rsi, rdi\nadd rdi, 4\nmov ecx, 4", written="W",
         changed="W", decoded="?", why="both", does="within the variable"),
    Case("rep_movsb_down", "rep movsb", "W", 8, before="add rdi, 7\nmov ecx, 8\nstd", behind="cld", changed="W",
         does="into the variable, downwards", **MOVES),
    Case("movdir64b_from", "movdir64b rsi, [rdi]", "R", flag="movdir64b", **MOVES),
    Case("movdir64b_to", "movdir64b rdi, [rsi]", "W", flag="movdir64b", changed="W", **MOVES),
    Case("xlat", "xlat", "R", before="mov rbx, rdi\nmov eax, 3"),
    # -- the stack, and control
    Case("push_from", "push [rdi]", "R", behind="pop rax", **MOVES),
    Case("pop_to", "pop [rdi]", "W", before="push 77", changed="W", **MOVES),
    Case("pop_to_same", "pop [rdi]", "W", before=f"mov rax, {VALUE}\npush rax", **MOVES,
         does="the value that is there already"),
    Case("push_to", "push rax", "W", does="with the stack in the variable", **STACK),
    Case("pop_from", "pop rax", "R", before="mov rsp, rdi", behind=STACK["behind"],
         does="with the stack in the variable"),
    Case("pushf_to", "pushfq", "W", does="with the stack in the variable", **STACK),
    Case("enter_to", "enter 0, 0", "W", does="with the stack in the variable", **STACK),
    Case("leave_from", "leave", "R", before="mov rbp, rdi", behind=STACK["behind"],
         does="with the stack in the variable"),
    Case("call_through", "call [rdi]", "R", value="case_call_through_there", **JUMPS),
    Case("jmp_through", "jmp [rdi]", "R", value="case_jmp_through_there", **JUMPS),
    Case("call_to", "call case_call_to_there", "W", before=STACK["before"], changed="W",
         does="with the stack in the variable", **JUMPS),
    Case("ret_from", "ret", "R", before="mov rsp, rdi", value="case_ret_from_there",
         does="with the stack in the variable", **JUMPS),
    Case("jmp_behind_store", "jmp [rdi]", "R", value="case_jmp_behind_store_there + 2", lands="mov [rsi], eax",
         decoded="W", why="landed", does="to behind a store"),
    # -- SSE and AVX
    Case("movaps_load", "movaps xmm0, [rdi]", "R"),
    Case("movaps_store", "movaps [rdi], xmm0", "W"),
    Case("movups_load", "movups xmm0, [rdi - 5]", "R"),
    Case("movups_store", "movups [rdi - 5], xmm0", "W"),
    Case("movq_load", "movq xmm0, [rdi]", "R"),
    Case("movq_store", "movq [rdi], xmm0", "W"),
    Case("movss_store", "movss [rdi + 4], xmm0", "W"),
    Case("addps", "addps xmm0, [rdi]", "R"),
    Case("movntps", "movntps [rdi], xmm0", "W"),
    Case("movntdqa", "movntdqa xmm0, [rdi]", "R", flag="sse4_1"),
    Case("pextrb", "pextrb [rdi], xmm0, 3", "W", flag="sse4_1"),
    Case("maskmov", "maskmovdqu xmm0, xmm1", "W", before=ONES),
    Case("maskmov_off", "maskmovdqu xmm0, xmm1", "W", before=ZEROS, does="with the mask all off", **INTEL),
    Case("vmovdqu_load", "vmovdqu ymm0, [rdi - 8]", "R", **AVX),
    Case("vmovdqu_store", "vmovdqu [rdi - 8], ymm0", "W", **AVX),
    Case("vbroadcast", "vbroadcastss ymm0, dword ptr [rdi]", "R", **AVX),
    Case("vmaskmov_load", "vmaskmovps xmm0, xmm1, [rdi]", "R", before=ONES, **AVX),
    Case("vmaskmov_load_off", "vmaskmovps xmm0, xmm1, [rdi]", "", 0, before=ZEROS, **AVX, **INTEL,
         does="with the mask all off"),
    Case("vmaskmov_store", "vmaskmovps [rdi], xmm1, xmm0", "W", before=ONES, **AVX),
    Case("vmaskmov_store_off", "vmaskmovps [rdi], xmm1, xmm0", "", 0, before=ZEROS, **AVX, **INTEL,
         does="with the mask all off"),
    Case("gather", "vpgatherdd xmm0, [rdi + xmm2 * 4], xmm1", "R", before=f"{ONES}\npxor xmm2, xmm2", flag="avx2",
         does="all four elements in the variable", **INTEL),
    Case("store512", "vmovdqu64 [rdi], zmm0", "W", flag="avx512f", behind="vzeroupper"),
    Case("store512_masked", "vmovdqu32 [rdi]{k1}, zmm0", "W", flag="avx512f", before="mov eax, 1\nkmovw k1, eax",
         behind="vzeroupper", does="with the variable's mask bit on"),
    Case("store512_off", "vmovdqu32 [rdi]{k1}, zmm0", "", 0, flag="avx512f", before="mov eax, 4\nkmovw k1, eax",
         behind="vzeroupper", does="with the variable's mask bits off", **INTEL),
    Case("scatter", "vpscatterdd [rdi + zmm2 * 4]{k1}, zmm0", "W", flag="avx512f", behind="vzeroupper", **INTEL,
         before="mov eax, 3\nkmovw k1, eax\nvpxor xmm2, xmm2, xmm2", does="two elements into the variable"),
    # -- the x87 unit and state
    Case("fld", "fld qword ptr [rdi]", "R", behind="fstp st(0)"),
    Case("fld_ten", "fld tbyte ptr [rdi]", "R", behind="fstp st(0)"),
    Case("fst", "fst qword ptr [rdi]", "W", before="fldz", behind="fstp st(0)"),
    Case("fistp", "fistp dword ptr [rdi]", "W", before="fld1"),
    Case("fnstcw", "fnstcw [rdi]", "W"),
    Case("stmxcsr", "stmxcsr [rdi]", "W"),
    Case("ldmxcsr", "ldmxcsr [rdi]", "R", value="0x1f80"),
    Case("fxsave", "fxsave64 [rdi]", "W", flag="fxsr", **INTEL),
    Case("fxrstor", "fxrstor64 [rdi]", "R", before="fxsave64 [rdi + 512]", value="0x037f", flag="fxsr", **INTEL),
    # -- caches
    Case("clflush", "clflush [rdi]", "R", flag="clflush", **INTEL),
    Case("clflushopt", "clflushopt [rdi]", "R", flag="clflushopt", **INTEL),
    Case("clwb", "clwb [rdi]", "R", flag="clwb", **INTEL),
    Case("prefetch", "prefetcht0 [rdi]", "", 0),
    Case("prefetchw", "prefetchw [rdi]", "", 0, flag="3dnowprefetch"),
    # -- no access
    Case("lea", "lea rax, [rdi]", "", 0),
    Case("nop", "nop dword ptr [rdi]", "", 0),
)
# fmt: on


@dataclass(frozen=True)
class Placed:
    """An instruction that touches more or less than one watch covers.

    Args:
        case: The instruction; ``made`` is of each watch that it touches.
        var: Its hits of the variable, 8 bytes.
        next: Of the 8 bytes behind it.
        byte3: Of the variable's byte 3 alone.
    """

    case: Case
    var: int
    next: int
    byte3: int


# fmt: off
PLACED = (
    Placed(Case("all", "mov [rdi], rax", "W"), 1, 0, 1),
    Placed(Case("half", "mov [rdi + 4], eax", "W"), 1, 0, 0),
    Placed(Case("unaligned", "mov [rdi + 3], eax", "W"), 1, 0, 1),
    Placed(Case("behind", "mov [rdi + 8], rax", "W"), 0, 1, 0),
    Placed(Case("straddling_store", "mov [rdi + 4], rax", "W"), 1, 1, 0),
    Placed(Case("straddling_load", "mov rax, [rdi + 1]", "R"), 1, 1, 1),
    Placed(Case("straddling_inc", "inc qword ptr [rdi + 3]", "RW"), 1, 1, 1),
    Placed(Case("straddling_lock", "lock inc dword ptr [rdi + 6]", "RW"), 1, 1, 0),
    Placed(Case("both", "movups [rdi], xmm0", "W"), 1, 1, 1),
    Placed(Case("in_front", "movups xmm0, [rdi - 8]", "R"), 1, 0, 1),
    Placed(Case("exchange", "lock cmpxchg16b [rdi]", "RW", flag="cx16"), 1, 1, 1),
    Placed(Case("wide", "vmovdqu [rdi], ymm0", "W", **AVX), 1, 1, 1),
    Placed(Case("bytes", "rep stosb", "W", before="mov ecx, 16"), 8, 8, 1),
    Placed(Case("words", "rep stosd", "W", before="mov ecx, 4"), 2, 2, 1),
)
# fmt: on

# The same instruction writes the variable, reads it, writes it.
WAYS_OF_ONE = tuple(
    Case(name, "call both_ways", "", before=before)
    for name, before in (("to", "nop"), ("from", "xchg rsi, rdi"), ("to_again", "nop"))
)
