# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ksym.language
from ksym.errors import Span
from ksym.language import (
    Address,
    Cast,
    Index,
    Member,
    Mode,
    Request,
    RequestError,
    RequestSet,
    Root,
    Step,
    Symbol,
    Target,
    TaskRoot,
    UserSymbol,
    parse_request,
)

NO = Span(0, 0)  # spans do not take part in comparisons


def symbol(name: str, scope: str | None = None) -> Symbol:
    return Symbol(scope, name, NO)


def address(value: int, length: int | None = None) -> Address:
    return Address(value, length, NO)


def cast(type_name: str, operand: Symbol | Address, *, by_value: bool = False) -> Cast:
    return Cast(type_name, operand, by_value, NO)


def user(program: str, name: str) -> UserSymbol:
    return UserSymbol(program, name, NO)


def path(*steps: str | int) -> tuple[Step, ...]:
    return tuple(Member(step, NO) if isinstance(step, str) else Index(step, NO) for step in steps)


GOOD: list[tuple[str, Root, tuple[Step, ...]]] = [
    ("pid_max", symbol("pid_max"), ()),
    ("ext4:ext4_mount_count", symbol("ext4_mount_count", "ext4"), ()),
    ("workqueue:panic_on_stall", symbol("panic_on_stall", "workqueue"), ()),
    ("nf-conntrack:hashsize", symbol("hashsize", "nf_conntrack"), ()),
    ("8250:nr_uarts", symbol("nr_uarts", "8250"), ()),
    ("kvm_amd:npt", symbol("npt", "kvm_amd"), ()),
    ("mod:table[0x10]", symbol("table", "mod"), path(16)),
    ("init_task.comm", symbol("init_task"), path("comm")),
    ("init_net.ipv4.ip_id_key", symbol("init_net"), path("ipv4", "ip_id_key")),
    ("avenrun[1]", symbol("avenrun"), path(1)),
    ("grid[1][010]", symbol("grid"), path(1, 8)),
    (" grid [ 1 ] . x ", symbol("grid"), path(1, "x")),
    ("task", symbol("task"), ()),
    ("task(self).comm", TaskRoot(None, NO), path("comm")),
    ("task(1234).signal->rlim[7].rlim_cur", TaskRoot(1234, NO), path("signal", "rlim", 7, "rlim_cur")),
    ("0xffffffff82c0ffee", address(0xFFFFFFFF82C0FFEE), ()),
    ("0xffffffff82c0ffee/4", address(0xFFFFFFFF82C0FFEE, 4), ()),
    ("0xffffffffffffffff/1", address(0xFFFFFFFFFFFFFFFF, 1), ()),
    ("*(u32 *)0xffffffff82c0ffee", cast("u32", address(0xFFFFFFFF82C0FFEE)), ()),
    ("*(u32*)&name", cast("u32", symbol("name")), ()),
    ("*(struct foo *)name", cast("struct foo", symbol("name"), by_value=True), ()),
    ("*((const u32 *)0x10)", cast("u32", address(16)), ()),
    ("*(struct page **)name", cast("struct page *", symbol("name"), by_value=True), ()),
    ("*(void **)0x10", cast("void *", address(16)), ()),
    ("*(char * const *)0x10", cast("char *", address(16)), ()),
    ("*(unsigned long long *)&ext4:foo", cast("unsigned long long", symbol("foo", "ext4")), ()),
    ("((struct net *)&init_net)->ipv4.x", cast("struct net", symbol("init_net")), path("ipv4", "x")),
    (
        "((struct foo *)0xffff888000000000)->a.b",
        cast("struct foo", address(0xFFFF888000000000)),
        path("a", "b"),
    ),
    ("(((struct foo *)0x10))->a", cast("struct foo", address(16)), path("a")),
    ("(*(struct foo *)name).a[3]", cast("struct foo", symbol("name"), by_value=True), path("a", 3)),
    ("counter.0", symbol("counter.0"), ()),
    ("counter.0.field", symbol("counter.0"), path("field")),
    ("__already_done.12", symbol("__already_done.12"), ()),
    ("foo.isra.0", symbol("foo.isra.0"), ()),
    ("foo.constprop.0.isra.3", symbol("foo.constprop.0.isra.3"), ()),
    ("foo.part.0.cold", symbol("foo.part.0.cold"), ()),
    ("foo.cold", symbol("foo.cold"), ()),
    ("foo.cold.x", symbol("foo"), path("cold", "x")),
    ("foo.part", symbol("foo"), path("part")),
    ("./prog:counter", user("./prog", "counter"), ()),
    ("./prog:x", user("./prog", "x"), ()),
    ("./prog:counter.0", user("./prog", "counter.0"), ()),
    ("./prog:::global", user("./prog", "global"), ()),
    ("./my prog:counter", user("./my prog", "counter"), ()),
    ("./what if/prog:counter", user("./what if/prog", "counter"), ()),
    ("bin/prog:cfg.limits[2]", user("bin/prog", "cfg"), path("limits", 2)),
    ("/abs/path:ns::counter.field[2]", user("/abs/path", "ns::counter"), path("field", 2)),
    ("libc.so.6:environ", user("libc.so.6", "environ"), ()),
    ("libfoo.so:x", user("libfoo.so", "x"), ()),
    ("libstdc++.so.6.0.30:a::b", user("libstdc++.so.6.0.30", "a::b"), ()),
    ("a.so.b", symbol("a"), path("so", "b")),
    ("./p:parse.c::state", user("./p", "parse.c::state"), ()),
    ("./p:'x y.c'::state.next", user("./p", "x y.c::state"), path("next")),
    ("./p:parse::calls[2]", user("./p", "parse::calls"), path(2)),
    ("./p:'Box<int>::n'", user("./p", "Box<int>::n"), ()),
    ('./p:"pkg/inner.Level"', user("./p", "pkg/inner.Level"), ()),
    ("'./a:b c':n", user("./a:b c", "n"), ()),
    (r"'./it\'s':n", user("./it's", "n"), ()),
    ("'./a if b':'c if d'", user("./a if b", "c if d"), ()),
    ("a.socket", symbol("a"), path("socket")),
]

# What is refused, why and what to do instead, and the characters above the caret.
BAD = [
    ("", "it is empty; name a variable, as in pid_max:rw-", (0, 1)),
    ("pid_max:", "no ACCESS follows the ':'; write pid_max:rw-", (7, 8)),
    (":rw-", "the name of the variable is missing; put one in front of the ':', as in pid_max:rw-", (0, 1)),
    (":foo", "the module's name is missing before ':'; write MODULE:SYMBOL", (0, 1)),
    ("pid_max:xr", "ACCESS is exactly three characters, 'xr' has 2; use rw-, -w-, r-- or --x", (8, 10)),
    ("pid_max:wr", "ACCESS is exactly three characters, 'wr' has 2; write pid_max:rw-", (8, 10)),
    ("pid_max:rwz", "'z' is not a character of ACCESS; use rw-, -w-, r-- or --x", (10, 11)),
    (
        "pid_max:rwx",
        "x stands by itself, one register watches either data or execution; use --x, or r, w and - without x",
        (8, 11),
    ),
    (
        "pid_max:r-x",
        "x stands by itself, one register watches either data or execution; use --x, or r, w and - without x",
        (8, 11),
    ),
    ("pid_max:wr-", "'w' is out of place in ACCESS, the order is r, w, x; write pid_max:rw-", (8, 9)),
    ("pid_max:RW-", "ACCESS is written in lower case; write pid_max:rw-", (8, 11)),
    (
        "pid_max:---",
        "'---' clears a watch, and belongs to the tracing directory; use rw-, -w-, r-- or --x here",
        (8, 11),
    ),
    ("pid_max: rw-", "a space stands before ACCESS; write pid_max:rw-", (8, 9)),
    (
        "pid_max:rw- new > 3",
        "'new > 3' after ACCESS is not understood; begin a condition with 'if'",
        (12, 19),
    ),
    (
        "pid_max new > 3",
        "the word 'new' is not understood here; put conditions after 'if', and one variable in each request",
        (8, 11),
    ),
    ("pid_max:rw- if", "no condition follows 'if'; write one, as in: if new > 100", (12, 14)),
    ("pid_max if new > 3:rw-", "':' has no meaning in a condition; put ACCESS before 'if'", (18, 19)),
    ("if new > 3", "no TARGET stands before 'if'; name a variable first", (0, 2)),
    ("a:b:c:rw-", "more than one ':' besides those of module and ACCESS; write MODULE:SYMBOL:ACCESS", (3, 4)),
    ("a:b:wr", "ACCESS is exactly three characters, 'wr' has 2; write a:b:rw-", (4, 6)),
    ("watch pid_max", "'watch' is a command of gdb's; write pid_max:-w-", (0, 5)),
    ("watch -l ./p:x if new > 3", "'watch' is a command of gdb's; write ./p:x:-w- if new > 3", (0, 5)),
    ("rwatch libc.so.6:environ", "'rwatch' is a command of gdb's; write libc.so.6:environ:r--", (0, 6)),
    ("awatch pid_max:-w-", "'awatch' is a command of gdb's; write pid_max:-w-", (0, 6)),
    ("mem:0x10/4:w", "'mem' is an event of perf's; write 0x10/4:-w-", (0, 3)),
    ("mem:0x10:x", "'mem' is an event of perf's; write 0x10:--x", (0, 3)),
    ("watchpoint:0x10:8:wr", "'watchpoint' is a probe of bpftrace's; write 0x10/8:rw-", (0, 10)),
    (
        "lib-with-dashes.so.x:g",
        "no module is called 'lib-with-dashes.so.x'; write ./lib-with-dashes.so.x:g for a file",
        (0, 20),
    ),
    (
        "./p:parse.c:12",
        "a line of a source file cannot be watched; name a variable, as in ./p:VARIABLE, "
        "or a function, as in ./p:FUNCTION:--x",
        (4, 14),
    ),
    ("./p:&x.y[1]", "'&' is not needed, the variable itself is watched; write ./p:x.y[1]", (4, 5)),
    ("./p:Box<int>::n", "a name that holds '<' stands in quotes; write ./p:'Box<int>::n'", (7, 8)),
    (
        "./p:(anonymous namespace)::n",
        "a name that holds '(' stands in quotes; write ./p:'(anonymous namespace)::n'",
        (4, 5),
    ),
    ("./p:''", "the quotes are empty; write a name in them", (4, 6)),
    ("./p:x/0", "nothing can be watched in 0 bytes; write ./p:x/4", (6, 7)),
    ("./p:x/", "a length is expected after '/'; write ./p:x/4", (6, 6)),
    ("pid_max/99999999999", "no variable has 99999999999 bytes; write pid_max/4", (8, 19)),
    ("0x10/4/2", "'0x10/4' says the length already; write 0x10/4", (6, 7)),
    (
        "./p:a:b:rw-",
        "more than one ':' besides those of program and ACCESS; write PROGRAM:VARIABLE:ACCESS",
        (5, 6),
    ),
    ("./p", "the name of a variable of './p' is missing; write ./p:VARIABLE", (2, 3)),
    ("./p:", "the name of a variable of './p' is missing; write ./p:VARIABLE", (3, 4)),
    ("./p:rw-", "the name of the variable is missing; write ./p:VARIABLE:rw-", (4, 7)),
    ("libc.so.6", "the name of a variable of 'libc.so.6' is missing; write libc.so.6:VARIABLE", (8, 9)),
    ("libc.so.6:rw-", "the name of the variable is missing; write libc.so.6:VARIABLE:rw-", (10, 13)),
    (
        "ns::foo",
        "'::' belongs to C++ names of programs; write ./PROGRAM:ns::foo, or ns:foo for a module's variable",
        (2, 4),
    ),
    ("avenrun[1", "the '[' is never closed; add ']'", (7, 8)),
    ("avenrun]1", "no '[' opens this ']'; pair the brackets", (7, 8)),
    ("avenrun(1]", "no '[' opens this ']'; pair the brackets", (9, 10)),
    ("avenrun[-1]", "an index cannot be negative; count from 0", (8, 9)),
    ("avenrun[i]", "an index is a number; write one, as in avenrun[0]", (8, 9)),
    ("avenrun[99999999999]", "the index 99999999999 is larger than any array; write a smaller one", (8, 19)),
    ("avenrun[]", "an index is a number; write one, as in avenrun[0]", (8, 9)),
    ("avenrun[1 2]", "an index is one number; write avenrun[1]", (10, 11)),
    ("avenrun[08]", "'8' is not a digit of octal numbers; write it without the leading 0", (9, 10)),
    ("avenrun[1u]", "numbers take no suffix, all are 64 bits wide; write 1", (9, 10)),
    ("x@cpu", "'@cpu' names no CPU; write @cpuN with a CPU's number", (1, 5)),
    ("x@1", "'@1' lacks the word cpu; write @cpu1", (1, 3)),
    ("x@CPU1", "'@CPU1' names no CPU; write @cpu1", (1, 6)),
    ("x@cpu99999", "no machine has a CPU 99999; write @cpuN with a CPU's number", (1, 10)),
    ("x@cpu1.y", "@cpuN stands at the end of TARGET; write x.y@cpu1", (1, 6)),
    ("x@cpu1@cpu2", "@cpuN is given twice; leave one out", (6, 7)),
    ("x@", "'@' names no CPU; write @cpuN with a CPU's number", (1, 2)),
    ("./p:x@cpu1", "programs have no per-CPU variables; use -C to pick CPUs", (5, 10)),
    ("0x", "no digits follow 0x; write the number's digits", (0, 2)),
    ("0x12345678123456789", "an address has at most 64 bits, 16 digits; check the address", (0, 19)),
    ("0xfffffffffffffffe/4", "the length reaches past the end of memory; write a smaller one", (19, 20)),
    ("0xff/0", "nothing can be watched in 0 bytes; write 0xff/4", (5, 6)),
    ("0xff/", "a length is expected after '/'; write 0xff/4", (5, 5)),
    ("0xffzz", "'z' is not a digit of hexadecimal numbers; write digits only", (4, 5)),
    (
        "1234",
        "addresses are written in hexadecimal; write 0x1234; a process is given as -p 1234, besides the variable",
        (0, 4),
    ),
    ("12345678", "addresses are written in hexadecimal; write 0x12345678", (0, 8)),
    ("ffffffff82c0ffee", "this looks like an address without 0x; write 0xffffffff82c0ffee/4", (0, 16)),
    ("0xff.x", "a bare address has no type, so no members; write ((struct NAME *)0xff)->MEMBER", (4, 5)),
    ("0xff:foo", "an address belongs to no module; write 0xff", (0, 4)),
    (
        "*name",
        "'*' does not know what it points to without a cast; write the type, as in *(u32 *)name",
        (0, 1),
    ),
    (
        "*name:rw-",
        "'*' does not know what it points to without a cast; write the type, as in *(u32 *)name",
        (0, 1),
    ),
    (
        "*",
        "'*' by itself names no variable, only '*:---' in the tracing directory; write a variable's name",
        (0, 1),
    ),
    (
        "*:---",
        "'---' clears a watch, and belongs to the tracing directory; use rw-, -w-, r-- or --x here",
        (2, 5),
    ),
    (
        "**(u32 **)0xff",
        "only one '*' may stand in front; follow a pointer to a pointer once, as in *(u32 **)NAME",
        (1, 2),
    ),
    ("*(u32)0xff", "a cast needs a pointer's type; write (u32 *)", (2, 5)),
    ("*()0xff", "the parentheses hold no type; write a type, as in (u32 *)", (1, 3)),
    ("*(void *)0xff", "void has no size; cast to a type, or write 0xADDRESS/LENGTH", (1, 9)),
    ("*(struct *)0xff", "'struct' has no name; write (struct NAME *)", (1, 11)),
    ("*(foo bar *)0xff", "'foo bar' is not one type; write one, as in (struct foo *)", (1, 12)),
    ("*(u32 *)0xff/4", "'u32' says the length already; leave the cast or the length out", (12, 13)),
    (
        "*(u32 *)",
        "a cast applies to a name or an address; write one after the cast, as in *(u32 *)0xADDRESS",
        (8, 8),
    ),
    ("*(u32 *)-5", "addresses are not negative; write the address in hexadecimal", (8, 9)),
    ("*(struct foo *)x.y", "C takes the member before the '*'; write ((struct foo *)x)->y", (16, 17)),
    ("*(struct foo *)x->y:rw-", "C takes the member before the '*'; write ((struct foo *)x)->y", (16, 18)),
    (
        "(struct net *)&init_net->x",
        "the member is taken before the cast; write ((struct net *)&init_net)->x",
        (0, 14),
    ),
    (
        "((struct a *)&b)",
        "a cast by itself is a pointer, not the object; write *((struct a *)&b) or ((struct a *)&b)->MEMBER",
        (0, 16),
    ),
    (
        "(struct net *)&init_net",
        "a cast by itself is a pointer, not the object; write *(struct net *)&init_net",
        (0, 14),
    ),
    ("(pid_max)", "parentheses hold only casts; write pid_max", (0, 1)),
    ('"pid_max":rw-', "names of the kernel stand without quotes; write pid_max", (0, 9)),
    ("'pid_max'", "names of the kernel stand without quotes; write pid_max", (0, 9)),
    ("pid_max > 5", "a condition follows 'if'; write pid_max if new > 5", (8, 9)),
    ("pid_max=5", "a condition follows 'if'; write pid_max if new == 5", (7, 8)),
    ("task 1", "'1' is not expected here; write task(1)", (5, 6)),
    ("mem:0xffff/4:rw-", "'mem' is an event of perf's; write 0xffff/4:rw-", (0, 3)),
    ("foo:0xffff/4:rw-", "an address belongs to no module; write 0xffff/4", (0, 3)),
    ("0xffff:4", "an address belongs to no module; write 0xffff/4", (0, 6)),
    ("0xffff:x4", "an address belongs to no module; write 0xffff", (0, 6)),
    (
        "/sys/module/printk/parameters/time",
        "that is a file, not a variable; write printk:time",
        (0, 34),
    ),
    (
        "/proc/sys/kernel/pid_max",
        "that is a file, not a variable; write the variable behind it, often called pid_max",
        (0, 24),
    ),
    ("&pid_max", "'&' is not needed, the variable itself is watched; write pid_max", (0, 1)),
    ("x/4/4", "the name of a variable of 'x/4/4' is missing; write x/4/4:VARIABLE", (4, 5)),
    ("./p:x/4/4", "a length is given twice; write ./p:x/4", (7, 8)),
    ("pid_max;rm", "';' has no meaning in a request; leave it out", (7, 8)),
    ("pid_max+4", "'+' does not compute with names; name a part, as in pid_max[N] or .NAME", (7, 8)),
    ("0xff00+16", "'+' does not compute with addresses; write 0xff10", (6, 7)),
    ("0xff00-4/4", "'-' does not compute with addresses; write 0xfefc/4", (6, 7)),
    ("task(foo)", "'foo' is not a task; write task(PID) with a number, or task(self)", (5, 8)),
    ("task()", "task() names no task; write task(PID) or task(self)", (5, 6)),
    ("task(0)", "PIDs are 1 to 4194304; write a task's PID", (5, 6)),
    ("task(99999999)", "PIDs are 1 to 4194304; write a task's PID", (5, 13)),
    ("task(1,2)", "task() takes one PID; write task(PID) or task(self)", (6, 7)),
    (
        "task(1).comm:foo",
        "'foo' is neither ACCESS nor a module's symbol; end with one of rw-, -w-, r-- or --x",
        (12, 13),
    ),
    ("a.", "a member's name is missing after '.'; write one", (2, 2)),
    ("a.b->", "a member's name is missing after '->'; write one", (5, 5)),
    (
        "a.0x10",
        "'0x10' is not a member, as a name does not begin with a digit; write a[0x10] for an element",
        (2, 6),
    ),
    ("a->0", "'0' is not a member, as a name does not begin with a digit; write a[0] for an element", (3, 4)),
    (
        "a b",
        "the word 'b' is not understood here; put conditions after 'if', and one variable in each request",
        (2, 3),
    ),
    ("foo(1)", "only task(PID) takes parentheses after a name; name the variable itself", (3, 4)),
    ("./p:level-w-", "ACCESS follows a ':'; write ./p:level:-w-", (9, 10)),
    ("level -w-", "ACCESS follows a ':'; write level:-w-", (6, 7)),
    ("./p:level:write", "ACCESS is exactly three characters, 'write' has 5; write ./p:level:-w-", (10, 15)),
    ("./p:level,./p:depth", "a request names one variable; write a request for each", (9, 10)),
    ("./p:fill()", "a name takes no parentheses; write ./p:fill, or ./p:fill:--x for a function", (8, 9)),
    ("./p:(int)level", "a program's variable takes no cast; write ./p:level", (4, 5)),
    ("./p:*(int *)level", "a program's variable takes no cast; write ./p:level", (4, 5)),
    ("./p:int level", "a variable is named without its type; write ./p:level", (8, 13)),
    ("static level", "a variable is named without its type; write level", (7, 12)),
    ("ffffffff81000010/8", "this looks like an address without 0x; write 0xffffffff81000010/8", (0, 16)),
    (
        "*(u32 *)ffffffff81000010",
        "this looks like an address without 0x; write *(u32 *)0xffffffff81000010",
        (8, 24),
    ),
    ("pid-max", "names are not spelled with '-'; write pid_max", (3, 4)),
    ('"pid"', "names of the kernel stand without quotes; write pid", (0, 5)),
    ("pid_max,jiffies", "a request names one variable; write a request for each", (7, 8)),
    (
        "*(u32 *)task(1).x",
        "a cast applies to a name or an address; write task(PID)->MEMBER without a cast",
        (8, 12),
    ),
    (
        "((u32 *)0xff)[2]",
        "a pointer's elements are not counted out; cast the element's own address",
        (13, 14),
    ),
    ("./p::v", "one ':' stands between a program and its variable; write ./p:v", (3, 5)),
    ("./p::n::v if new", "one ':' stands between a program and its variable; write ./p:n::v if new", (3, 5)),
    ("./p!v", "':' stands between a program and its variable, not '!'; write ./p:v", (0, 5)),
    ("./p`v", "':' stands between a program and its variable, not '`'; write ./p:v", (0, 5)),
    ("./p:fill:depth", "'::' stands between 'fill' and a variable of it; write ./p:fill::depth", (8, 9)),
    (
        "./p:tank.c:depth",
        "'::' stands between 'tank.c' and a variable of it; write ./p:tank.c::depth",
        (10, 11),
    ),
    ("./p:a[0:3]", "an index is one number; watch the bytes from its start on, as in ./p:a/8", (5, 10)),
    (
        "tank.c:12",
        "a line of a source file cannot be watched; name a variable, as in ./PROGRAM:VARIABLE",
        (0, 6),
    ),
    ("level:4:w", "the name of the variable cannot begin with a digit; write level/4 for a length", (6, 7)),
    (
        "kernel/threads-max",
        "that is a sysctl, not a variable; write the variable behind it, often called threads_max",
        (0, 18),
    ),
    ("w:0xffff:4", "'w' is a probe of bpftrace's; write 0xffff/4:rw-", (0, 1)),
    ("aw:0xffff:8:wr", "'aw' is a probe of bpftrace's; write 0xffff/8:rw-", (0, 2)),
    ("kprobe:vfs_read", "'kprobe' is a probe of bpftrace's; write vfs_read:--x", (0, 6)),
    ("uprobe:./p:fill", "'uprobe' is a probe of bpftrace's; write ./p:fill:--x", (0, 6)),
    ('prog["init_task"].pid', "'prog' is a word of drgn's; write init_task.pid", (0, 4)),
    ('per_cpu(prog["runqueues"], 1).cpu', "'per_cpu' is a word of drgn's; write runqueues.cpu@cpu1", (0, 7)),
    ("find_task(prog, 7).comm", "'find_task' is a word of drgn's; write task(7).comm", (0, 9)),
    ("€", "'€' has no meaning in a request; leave it out", (0, 1)),
    ("pid_max[" + "9" * 5000 + "]", "the number does not fit 64 bits; write a smaller one", (8, 5008)),
    ("task(" + "9" * 5000 + ")", "PIDs are 1 to 4194304; write a task's PID", (5, 5005)),
]

SEED_BAD = [
    ("pid_max", "it has no ACCESS; write pid_max:rw-", (7, 8)),
    ("a:b", "it has no ACCESS; write a:b:rw-", (3, 4)),
    ("kvm_amd:npt", "'n' is not a character of ACCESS; use rw-, -w-, r-- or --x", (8, 9)),
    ("a:b:c:d", "more than one ':' besides those of module and ACCESS; write MODULE:SYMBOL:ACCESS", (3, 4)),
    ("pid_max:--- if new", "clearing takes no condition; write pid_max:---", (12, 18)),
    ("pid_max:rwz", "'z' is not a character of ACCESS; use rw-, -w-, r-- or --x", (10, 11)),
    ("pid_max:wr-", "'w' is out of place in ACCESS, the order is r, w, x; write pid_max:rw-", (8, 9)),
    ("pid_max:r", "ACCESS is exactly three characters, 'r' has 1; write pid_max:r--", (8, 9)),
    (
        "*:rw-",
        "'*' by itself names no variable, only '*:---' in the tracing directory; write a variable's name",
        (0, 1),
    ),
    ("pid_max:---\n if new", "clearing takes no condition; write pid_max:---", (13, 19)),
]


@pytest.mark.parametrize(("text", "root", "steps"), GOOD, ids=[text for text, _, _ in GOOD])
@pytest.mark.parametrize("access", ["", ":rw-", ":-w-", ":r--", ":--x"])
def test_good(text: str, root: Root, steps: tuple[Step, ...], access: str) -> None:
    request = parse_request(text.rstrip() + access)
    assert (request.target.root, request.target.path, request.target.cpu) == (root, steps, None)
    assert request.target.text == text.strip()
    assert str(request.mode) == (access[1:] or "rw-")
    assert parse_request(str(request)) == request


@pytest.mark.parametrize(
    "text", ["runqueues.nr_running@cpu1", "(*(struct rq *)&runqueues).x@cpu1", "a[1] @ cpu01"]
)
def test_cpu(text: str) -> None:
    assert parse_request(text).target.cpu == 1
    assert parse_request(text + ":-w-").target.text == text


@pytest.mark.parametrize(("text", "reason", "span"), BAD, ids=[text[:40] for text, _, _ in BAD])
def test_bad(text: str, reason: str, span: tuple[int, int]) -> None:
    refused(text, reason, span, seed=False)


@pytest.mark.parametrize(("text", "reason", "span"), SEED_BAD, ids=[text for text, _, _ in SEED_BAD])
def test_bad_in_the_tracing_directory(text: str, reason: str, span: tuple[int, int]) -> None:
    refused(text, reason, span, seed=True)


def refused(text: str, reason: str, span: tuple[int, int], *, seed: bool) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(text, seed=seed)
    error = caught.value
    what = " ".join(text.split()) if len(text) <= 60 else text[:57] + "..."
    assert error.line() == f"cannot read request '{what}': {reason}"
    assert error.place is not None
    assert (error.place.span.start, error.place.span.end) == span
    assert len(error.place.text) == len(text)
    assert error.status == 2


def test_every_refusal_has_its_own_message() -> None:
    """The four malformed requests of the seed that can be told from the text alone."""
    messages = []
    for text in ("a:b:c:rw-", "pid_max", "pid_max:rwz", "pid_max:wr-"):
        with pytest.raises(RequestError) as caught:
            parse_request(text, seed=True)
        messages.append(caught.value.why)
    assert len(set(messages)) == 4


def test_caret() -> None:
    with pytest.raises(RequestError) as caught:
        parse_request("pid_max:wr-")
    assert caught.value.place is not None
    assert caught.value.place.caret() == "  pid_max:wr-\n          ^"


def test_a_refusal_is_one_line_even_of_many() -> None:
    with pytest.raises(RequestError) as caught:
        parse_request("pid\nmax\x1b[31m")
    assert caught.value.line().isprintable()
    assert caught.value.place is not None
    assert caught.value.place.text.isprintable()


def test_spans_point_at_what_they_name() -> None:
    text = "  task(12).signal->rlim[7].rlim_cur:-w- if new > 3 && pid == 4"
    request = parse_request(text)
    shown = request.text
    steps = [shown[step.span.start : step.span.end] for step in request.target.path]
    assert shown[request.target.root.span.start : request.target.root.span.end] == "task(12)"
    assert steps == [".signal", "->rlim", "[7]", ".rlim_cur"]
    assert request.place(request.target.path[0].span).caret().splitlines()[1] == " " * 10 + "^" * 7
    assert str(request) == "task(12).signal->rlim[7].rlim_cur:-w- if new > 3 && pid == 4"


# The tracing directory.


@pytest.mark.parametrize("text", ["", "\n", "0", "0\n", "*:---", "*:---\n"])
def test_clearing_everything(text: str) -> None:
    request = parse_request(text, seed=True)
    assert request.clears_all
    assert request.mode is Mode.CLEAR
    assert request.target.root == symbol("*")
    assert str(request) == "*:---"


@pytest.mark.parametrize("text", ["pid_max:---", "ext4:count:---\n", "./prog:x:---", "0x10/4:---"])
def test_clearing_one(text: str) -> None:
    request = parse_request(text, seed=True)
    assert request.mode is Mode.CLEAR
    assert not request.clears_all
    assert str(request) == text.strip()


# Whatever is typed.


@given(st.text(max_size=60), st.booleans())
def test_arbitrary_text_is_read_or_refused(text: str, seed: bool) -> None:
    read_or_refused(text, seed=seed)


PIECES = "pid_max : :: rw- -w- x --- . -> [ ] ( ) * & @ cpu1 0 12 0x1f / struct u32 task self if ./p .so"
PIECES += " new comm in R && == < 3 - ! ~ ' \" \\"


@given(st.lists(st.sampled_from([*PIECES.split(), " ", "\n"]), max_size=14).map("".join), st.booleans())
def test_almost_requests_are_read_or_refused(text: str, seed: bool) -> None:
    read_or_refused(text, seed=seed)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000,
        "(" * 5000 + "x" + ")" * 5000,
        "*" * 5000,
        "*" + "(" * 5000 + ")" * 5000,
        "a" + "[0]" * 5000,
        "a" + ".b" * 5000,
        "a" + ".0" * 5000,
        ":" * 5001,
        "x if " + "!" * 5000 + "new",
        "x if " + "(" * 5000 + "new" + ")" * 5000,
        "x if new" + " + new" * 5000,
        "\udc80:rw-",
        "\0",
    ],
    ids=range(13),
)
def test_monsters_are_read_or_refused(text: str) -> None:
    read_or_refused(text, seed=False)


def read_or_refused(text: str, *, seed: bool) -> None:
    refusal = None
    try:
        request = parse_request(text, seed=seed)
    except RequestError as error:
        refusal = error
    if refusal is None:
        assert parse_request(str(request), seed=seed) == request
    else:
        assert refusal.line().startswith("cannot read request ")
        assert refusal.why
        assert refusal.todo
        assert refusal.place is not None
        assert 0 <= refusal.place.span.start <= refusal.place.span.end <= len(refusal.place.text) + 1
        assert "\n" not in refusal.place.text


# Round trips.

WORDS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True).filter(
    lambda word: word not in ("if", "task", "cold") and not word.lower().startswith("ffff")
)
NAMES = st.builds(
    lambda word, suffix: word + suffix, WORDS, st.sampled_from(["", ".0", ".12", ".isra.0", ".part.3.cold"])
)
SYMBOLS = st.builds(symbol, NAMES, st.none() | WORDS)
ADDRESSES = st.builds(address, st.integers(0, 2**64 - 1))
LENGTHS = st.builds(address, st.integers(0, 2**64 - 64), st.integers(1, 64))
TYPES = st.builds(
    lambda kind, name, stars: kind + name + (" " + stars if stars else ""),
    st.sampled_from(["", "struct ", "union ", "enum "]),
    WORDS.filter(lambda word: word not in ("const", "void", "struct", "union", "enum")),
    st.sampled_from(["", "*", "**"]),
)
CASTS = st.builds(cast, TYPES, ADDRESSES) | st.builds(
    lambda name, operand, by_value: cast(name, operand, by_value=by_value), TYPES, SYMBOLS, st.booleans()
)
TASKS = st.builds(TaskRoot, st.none() | st.integers(1, 2**22), st.just(NO))
USERS = st.builds(
    user,
    st.sampled_from(["./p", "/usr/bin/my prog", "libc.so.6", "a/b-c"]),
    st.lists(NAMES, min_size=1, max_size=1).flatmap(
        lambda last: st.lists(WORDS, max_size=2).map(lambda spaces: "::".join([*spaces, *last]))
    ),
)
STEPS = st.lists(
    st.builds(Member, WORDS, st.just(NO)) | st.builds(Index, st.integers(0, 2**32 - 1), st.just(NO)),
    max_size=4,
)
MODES = st.sampled_from([Mode.READ, Mode.WRITE, Mode.READ_WRITE, Mode.EXECUTE])


def spell(root: Root, steps: list[Step], arrows: bool) -> str:
    dot = "->" if arrows else "."
    tail = "".join(dot + step.name if isinstance(step, Member) else f"[{step.number}]" for step in steps)
    match root:
        case Symbol(scope=scope, name=name):
            return (f"{scope}:" if scope else "") + name + tail
        case UserSymbol(object=program, name=name):
            return f"{program}:{name}{tail}"
        case TaskRoot(pid=pid):
            return f"task({pid or 'self'}){tail}"
        case Address(value=value, length=length):
            return f"{value:#x}" + (f"/{length}" if length else "")
        case Cast(type_name=name, operand=operand, by_value=by_value):
            ampersand = "&" if isinstance(operand, Symbol) and not by_value else ""
            star = "*" if name.endswith("*") else " *"
            inner = f"({name}{star}){ampersand}{spell(operand, [], False)}"
            return f"(*{inner}){tail}" if tail else f"*{inner}"


@given(
    SYMBOLS | ADDRESSES | LENGTHS | CASTS | TASKS | USERS,
    STEPS,
    st.booleans(),
    st.none() | st.integers(0, 8191),
    MODES,
)
def test_round_trip(root: Root, steps: list[Step], arrows: bool, cpu: int | None, mode: Mode) -> None:
    if isinstance(root, Address):
        steps = []
    if isinstance(root, UserSymbol):
        cpu = None
    # "name.cold.x" is the member x of a member; the generated name ends in what only then is a suffix.
    if isinstance(root, Symbol | UserSymbol) and root.name.endswith(".cold") and steps:
        return
    text = spell(root, steps, arrows) + (f"@cpu{cpu}" if cpu is not None else "")
    request = parse_request(f"{text}:{mode}")
    assert request == Request(Target(root, tuple(steps), cpu, text), mode, None, "")
    assert str(request) == f"{text}:{mode}"
    assert parse_request(str(request)) == request


# The set.


def requests_of(*texts: str) -> RequestSet:
    requests = RequestSet()
    for text in texts:
        requests.add(parse_request(text))
    return requests


def test_set_keeps_order() -> None:
    requests = requests_of("b", "a:-w-", "c")
    assert [str(request) for request in requests] == ["b:rw-", "a:-w-", "c:rw-"]
    assert len(requests) == 3
    assert parse_request("a:rw-") in requests
    assert parse_request("d") not in requests


@pytest.mark.parametrize("text", ["pid_max", "pid_max:rw-", " pid_max :rw-"])
def test_set_refuses_duplicates(text: str) -> None:
    requests = requests_of("pid_max:rw-")
    with pytest.raises(RequestError) as caught:
        requests.add(parse_request(text))
    reason = "'pid_max' is watched as rw- already; leave it out, or ask for another ACCESS"
    assert caught.value.line() == f"cannot add request '{text.strip()}': {reason}"
    assert caught.value.place is not None
    assert caught.value.place.span == Span(0, 7)
    assert len(requests) == 1


def test_set_takes_another_spelling_for_the_same_target() -> None:
    with pytest.raises(RequestError):
        requests_of("task(1).signal->rlim[7]", "task( 1 )->signal.rlim[0x7]")
    assert len(requests_of("x@cpu0", "x@cpu1", "x", "x.y", "./p:x")) == 5


@pytest.mark.parametrize("text", ["a:-w-", "a:rw- if new > 3"])
def test_set_changes_in_place(text: str) -> None:
    requests = requests_of("a", "b")
    assert requests.add(parse_request("c")) is None
    assert requests.add(parse_request(text)) == parse_request("a:rw-")
    assert [str(request) for request in requests] == [text, "b:rw-", "c:rw-"]


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("a", "a", "both requests are 'a:rw-'; keep one of them"),
        ("a", " a :-w-", "it is asked for as 'a:rw-' and as 'a:-w-'; keep one of them"),
        ("a if new > 3", "a", "it is asked for as 'a:rw- if new > 3' and as 'a:rw-'; keep one of them"),
        (
            "a if new > 3",
            "a if new < 1",
            "it is asked for as 'a:rw- if new > 3' and as 'a:rw- if new < 1'; "
            "keep one of them, or join their conditions with ||",
        ),
    ],
)
def test_a_run_names_a_target_once(first: str, second: str, reason: str) -> None:
    requests = requests_of(first, "b")
    with pytest.raises(RequestError) as caught:
        requests.add_new(parse_request(second))
    assert caught.value.line() == f"cannot watch a twice: {reason}"
    requests.add_new(parse_request("c"))
    assert [str(request) for request in requests] == [str(parse_request(first)), "b:rw-", "c:rw-"]


def test_set_clears() -> None:
    requests = requests_of("a", "b:-w-", "c")
    assert requests.clear(parse_request("b:---", seed=True)) == parse_request("b:-w-")
    with pytest.raises(RequestError) as caught:
        requests.clear(parse_request("b:---", seed=True))
    assert caught.value.line() == "cannot clear request 'b:---': 'b' is not watched; clear one of a, c"
    assert requests.clear_all() == (parse_request("a"), parse_request("c"))
    with pytest.raises(RequestError, match="there is nothing to clear"):
        requests.clear(parse_request("a:---", seed=True))
    assert requests.clear_all() == ()


def test_set_may_change_while_it_is_walked() -> None:
    requests = requests_of("a", "b")
    for request in requests:
        requests.clear(request)
    assert not len(requests)


# The package and its pages.


@pytest.mark.skipif(sys.flags.optimize > 1, reason="python -OO drops docstrings")
@pytest.mark.parametrize("module", ["", ".parser", ".condition", ".request_set"])
def test_examples_in_docstrings(module: str) -> None:
    examples = importlib.import_module(f"ksym.language{module}")
    names = {name: getattr(ksym.language, name) for name in ksym.language.__all__}
    result = doctest.testmod(examples, extraglobs=names)
    assert result.attempted
    assert not result.failed


PAGE = (Path(__file__).parents[2] / "docs/language.md").read_text()


def test_targets_in_the_page() -> None:
    table = PAGE.partition("| write |")[2].partition("\n\n")[0]
    targets = [part for row in table.splitlines()[2:] for part in row.split("|")[1].split("`")[1::2]]
    assert len(targets) > 15
    for target in targets:
        assert parse_request(target).target.text == target


def test_conditions_in_the_page() -> None:
    table = PAGE.partition("| `ip` |")[2].partition("\n- ")[0]
    conditions = [line.strip() for line in table.splitlines() if line.startswith("    ")]
    assert len(conditions) == 5
    for condition in conditions:
        assert parse_request(f"x if {condition}").condition is not None


def test_refusals_in_the_page() -> None:
    refusals = PAGE.partition("```console\n")[2].partition("\n```")[0].split("\n\n")
    assert len(refusals) == 8
    for refusal in refusals:
        command, message, *caret = refusal.splitlines()
        with pytest.raises(RequestError) as caught:
            parse_request(command.removeprefix("$ ksym trace '").removesuffix("'"))
        assert f"ksym: {caught.value}" == message
        assert caught.value.place is not None
        assert caught.value.place.caret().splitlines() == caret


def test_exports() -> None:
    for name in ksym.language.__all__:
        assert getattr(ksym.language, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'parse'"):
        ksym.language.parse  # noqa: B018


def test_a_plain_request_needs_few_modules() -> None:
    """Start-up: conditions are read by modules of their own, and nothing slow comes along."""
    code = (
        "import sys; from ksym.errors import Span; before = set(sys.modules); import ksym.language as l;"
        "l.parse_request('a.b:rw-'); print(*sorted(set(sys.modules) - before))"
    )
    source = str(Path(ksym.language.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": source}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    others = [name for name in run.stdout.split() if not name.startswith("ksym.")]
    assert not [name for name in run.stdout.split() if "condition" in name or "typecheck" in name]
    assert set(others) <= {"_typing", "typing", "typing.io", "typing.re"}
