# SPDX-License-Identifier: BSD-2-Clause
"""Advice is accepted: each message that tells what to type is produced here, and what it tells is fed back into ksym.

A new message needs a case that produces it, or a reason in ``EXEMPT``: `test_no_advice_is_left_out` reads all of them
in the sources.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import resource
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from ksym.__main__ import _before_the_command
from ksym.commands import trace
from ksym.commands.parser import _FOREIGN_OPTIONS, make_parser, parse
from ksym.errors import KsymError
from ksym.language.condition_parser import parse_condition
from ksym.language.parser import parse_request
from ksym.language.request import Mode, Request
from ksym.linux import mounted, privileges
from ksym.runs import slips
from ksym.runs.session import parse_requests, resolve_all
from ksym.symbols import missing
from ksym.symbols.kallsyms import Kallsyms
from ksym.symbols.kernel_names import KernelNames
from ksym.symbols.params import Parameter
from ksym.symbols.resolver import Resolver
from ksym.symbols.variable import Space, Variable
from ksym.tracing.filters import _made_sure
from ksym.watch import refusals
from ksym.watch.plan import PlannedEvent, make_plan
from ksym.watch.registers import Holder
from support import advice
from synthetic.compile import build, need, running
from synthetic.kernel import FakeMemory, kallsyms
from unit.test_bind import BAD as BAD_BOUND
from unit.test_condition import BAD as BAD_CONDITIONS
from unit.test_language import BAD, SEED_BAD

PROGRAM = r"""
#include <stdio.h>
#include <stddef.h>
struct pair { int first, second; } pair = {1, 2}; struct pair *unset;
static long seen = 3; int table[4]; int pixels[100]; struct { int n; int items[]; } flex; __thread int mine = 5;
__asm__(".data\n.globl unsized\nunsized: .quad 1\n.text\n");
int step(int by) { static int tally; int *p = &by; tally += by; *p += tally; return *p; }
int other(void) { static int tally; return ++tally; }
extern int away(void);
int main(void) { seen += step(1) + other() + away(); puts("ready"); fflush(stdout); return getchar() == 'x' + mine; }
"""
AWAY = "static long seen = 4; int away(void) { return (int)++seen; }"

_OPTION = "an option of the command that refuses is left out"
_PATHS = "a path of the user's choice"
EXEMPT = {
    "watch execution (--x)": "the name of one of doctor's questions",
    "start it without ksym and use -p PID, or run ksym as root": "its own command; tests/native/test_waiting.py",
    "run ksym outside of the PID namespace": "another place; tests/native/test_pid_namespace.py",
    'name one, as in ksym.trace("pid_max:-w-")': "Python; tests/unit/test_api.py calls it so",
    'write it as in ksym.trace("pid_max:-w-")': "Python; tests/unit/test_api.py calls it so",
    "give numbers, as in [0, 1]": "Python",
    "give a whole number from 1 on, or several, as in [4711, 4712]": "Python",
    'give a list: ["sh", "-c", "..."]': "Python",
    'give strings: ["sh", "-c", "..."]': "Python",
    **dict.fromkeys(
        (
            "give a whole number from \0 on",
            "give a number from \0 to \0",
            "give a number above \0",
            "give \0 or less",
        ),
        "a number",
    ),
    "give the vmlinux of \0": "a release of the kernel",
    **dict.fromkeys(
        (
            "ask for -w- where writes are enough, or give --no-bpf",
            "leave --twin off out",
            "leave --no-bpf out",
            "leave --by out, or run it as root with BPF",
            "leave out @cpu\0",
            "leave out @cpu",
            "leave out -p, and give --if 'pid == PID'",
        ),
        _OPTION,
    ),
    "use a real processor; --twin on and r-- take an instruction that reads and writes for a read here": _OPTION,
    "write access != R, or use ksym trace": "a condition; tests/native/test_stat.py counts by it",
    "name one yourself: ksym trace VARIABLE": "what `ksym trace --help` says",
    "ask `ksym doctor` and `ksym selftest`": "commands without arguments",
    "name a member: \0.comm": "task(PID), which needs a kernel's list of tasks; task(1).comm is read by many tests",
    "watch 0xADDRESS/LENGTH instead": "an address, where nothing is known of a program's layout",
    "clear one of \0": "targets that are watched, as they were written",
    "use it, or umount \0": _PATHS,
    "see \0 --help": "each command has it",
    "see ksym --help": "it is there always",
    "name a file with \0, - for stdout": _PATHS,
    "name the file itself with \0": _PATHS,
    "name another with \0": _PATHS,
    "give types and addresses explicitly, as in *(TYPE *)0xADDRESS": "a cast; tests/unit/test_language.py reads such",
    "write it as in u32, unsigned long, struct net or struct page *": "types; tests/unit/test_ctext.py reads each",
    **dict.fromkeys(
        (
            "start it with -- COMMAND",
            "start it again with -- COMMAND",
            "check the spelling of COMMAND",
            "check the PID with ps",
            "name a COMMAND after it",
        ),
        "what the user knows",
    ),
}
"""Advice that no case produces, and why its form needs none."""
BASE, MODULES = 0xFFFFFFFF81000000, 0xFFFFFFFFC0000000


class Said(NamedTuple):
    """A piece of advice and how to try it.

    Args:
        advice: The last part of a message.
        accepts: Takes a form that is advised; raises KsymError where ksym refuses it.
    """

    advice: str
    accepts: Callable[[str], object]


def first_accepted(texts: list[str], read: Callable[[str], object]) -> object:
    refusal = KsymError("cannot try", "there is nothing to try")
    for text in texts:
        try:
            return read(text)
        except KsymError as error:
            refusal = error
    raise refusal


def instead(text: str, start: int, end: int, form: str) -> list[str]:
    """What a form may mean: the whole, what is marked by the caret, or what is missing there."""
    bare = form.strip("'")
    parts = [form[1:-1]] if form.startswith("(") else []
    return [
        form,
        *(text[:start] + each + text[end:] for each in (form, *parts)),
        text[:start] + form,
        text + form,
        f"{text[:start]}{bare} {text[start:]}",
    ]


def of_language() -> Iterator[Said]:
    for (text, message, (start, end)), seed in [(bad, False) for bad in BAD] + [
        (bad, True) for bad in SEED_BAD
    ]:

        def accepts(
            form: str, text: str = text, start: int = start, end: int = end, seed: bool = seed
        ) -> object:
            if form in ("rw-", "-w-", "r--", "--x"):
                return Mode
            return first_accepted(
                instead(text, start, end, form), lambda each: parse_request(each, seed=seed and ":" in each)
            )

        yield Said(message.partition("; ")[2], accepts)
    for text, message, (start, end) in BAD_CONDITIONS:

        def means(form: str, text: str = text, start: int = start, end: int = end) -> object:
            if form in ("R", "W", "RW", "X", "||") or form[0] == "\\":  # parts of a condition
                return form
            return first_accepted(instead(text, start, end, form), parse_condition)

        yield Said(message.partition("; ")[2], means)


def of_types_and_directories() -> Iterator[Said]:
    for text in ("*(u32 * foo)0x10", "*(u32[2])0x10", "*(u32 *)task(1).x"):
        yield Said(said(partial(parse_request, text)), partial(_in_a_cast, text))
    for text, writer in (("./prog:pair:rw-", 1), ("task(self).comm:rw-", 0)):
        yield Said(said(partial(_made_sure, parse_request(text), writer)), parse_request)


def _in_a_cast(text: str, form: str) -> object:
    cast = text[: text.index("(")] + form + text[text.index(")") + 1 :]
    return first_accepted([form, cast], parse_request)


def said(action: Callable[[], object]) -> str:
    with pytest.raises(KsymError) as caught:
        action()
    return caught.value.todo


def resolver_of(path: Path, stack: ExitStack) -> Callable[[str], Variable]:
    """Start a program; returns what resolves a request in it."""
    pid, _ = stack.enter_context(running(path))
    resolver = stack.enter_context(closing(Resolver(pid=pid)))
    return lambda text: resolver.resolve(parse_request(text))


def of_a_program(path: Path, stack: ExitStack) -> Iterator[Said]:
    resolve = resolver_of(path, stack)

    def accepts(form: str) -> object:
        return parse_request(form) if form.startswith(("0x", "*(")) else resolve(form)

    for text in (
        "seen", "tally", "pear", "step", "step:-w-", "pair:--x", "unsized", "mine", "by", "pair.thrid", "pair[0]",
        "table.x", "flex.items", "table[9]", "unset->first", "pair/64", "seen.x", "nothing_like_it",
    ):  # fmt: skip

        def in_place(form: str, text: str = text) -> object:
            return first_accepted([form, f"{path}:{text.rpartition('.')[0]}.{form}"], accepts)

        yield Said(said(partial(resolve, f"{path}:{text}")), in_place)
    yield Said(said(lambda: resolve(f"{path.parent}/pro:pair")), lambda form: resolve(f"{form}:pair"))
    yield Said(said(lambda: resolve("0x1000")), accepts)
    yield Said(said(lambda: resolve("*(int *)0x1001")), accepts)
    with closing(Resolver()) as nowhere:
        for text in ("0x1000/4", "0x700000001000/4", f"{path}:pair"):
            yield Said(said(partial(nowhere.resolve, parse_request(text))), accepts)


def of_bare_programs(stack: ExitStack, *paths: Path) -> Iterator[Said]:
    for path in paths:
        resolve = resolver_of(path, stack)
        yield Said(said(partial(resolve, f"{path}:pair.second")), resolve)


KERNEL = kallsyms(
    [
        (BASE, "T", "_stext"),
        (BASE + 0x10, "t", "twice"),
        (BASE + 0x50, "t", "twice"),
        (BASE + 0x80, "t", "run_it"),
        (BASE + 0x100, "T", "_etext"),
        (BASE + 0x1000, "D", "counter"),
        (BASE + 0x1008, "d", "same"),
        (BASE + 0x1010, "d", "same"),
        (BASE + 0x1018, "B", "ticks"),
        (BASE + 0x1020, "B", "large"),
        (BASE + 0x9000, "B", "last"),
        (BASE + 0x9008, "b", "end"),
        (MODULES, "t", "entry", "one_mod"),
        (MODULES + 0x1000, "d", "shared", "one_mod"),
        (MODULES + 0x1008, "d", "own", "one_mod"),
        (MODULES + 0x2000, "d", "shared", "two_mod"),
        (MODULES + 0x2008, "d", "ours", "two_mod"),
        (MODULES + 0x2010, "d", "theirs", "two_mod"),
    ]
)


class Parameters(list[Parameter]):
    """Parameters of modules, found by nothing but what is listed."""

    def all(self) -> list[Parameter]:
        return self

    def find(self, scope: str, name: str) -> None:
        return None


def kernel(table: Kallsyms = KERNEL, **more: object) -> SimpleNamespace:
    """A kernel without types, and with as little else as is needed."""
    parameters = Parameters([Parameter("one_mod", "limit", BASE, "int", 4)])
    memory = FakeMemory()
    found = SimpleNamespace(
        kallsyms=table, check_given=lambda: None, parameters=parameters, btf=None, image=None, system_map=None,
        memory_or_none=memory, memory=memory, module_btf=lambda scope: None,
    )  # fmt: skip
    vars(found).update(more)
    return found


def of_a_kernel() -> Iterator[Said]:
    several = SimpleNamespace(find=lambda name: [SimpleNamespace(value=8), SimpleNamespace(value=16)])
    functions_only = kallsyms(
        [(BASE, "T", "_stext"), (BASE + 0x10, "t", "run_it"), (BASE + 0x100, "T", "_etext")]
    )
    for of, texts in (
        (
            kernel(),
            (
                "same", "twice:--x", "shared", "run_it", "counter:--x", "large", "ticks.low", "ticks[3]", "ticks@cpu0",
                "current", "vm", "one_mod", "one_mod:limi", "two_mod:our", "three_mod:x", "tun:abc", "nomod:counter",
                "counter:ticks", "tikcs", "limit", "run_ti:--x", "nothing_like_it", "two_mod:nothing_like_it",
            ),
        ),
        (kernel(image=SimpleNamespace(path="/vmlinux", slide=0, elf=several)), ("elsewhere",)),
        (kernel(functions_only), ("elsewhere", "limi")),
    ):  # fmt: skip
        resolver = Resolver()
        resolver.kernel = of  # type: ignore[assignment]
        resolver._names = KernelNames(of)  # type: ignore[arg-type]

        def resolve(text: str, resolver: Resolver = resolver) -> Variable:
            return resolver.resolve(parse_request(text))

        def accepts(form: str, resolve: Callable[[str], Variable] = resolve) -> object:
            # A parameter's accessors and a type's members are not in this kernel.
            return parse_request(form) if "(" in form or "->" in form or ":limit" in form else resolve(form)

        for text in texts:
            yield Said(said(partial(resolve, text)), accepts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(missing, "read_text", lambda path: "kernel/drivers/net/tun.ko.xz: kernel/other.ko\n")
        yield Said(missing._load("tun"), parse_request)


def of_conditions() -> Iterator[Said]:
    def accepts(form: str) -> object:
        if "0x" in form:
            return parse_request(form)
        # A member's name by itself, and a field that is compared.
        return first_accepted([form, f"new.{form}", f"{form} == 1"], parse_condition)

    for _, _, message, _ in BAD_BOUND:
        yield Said(message.partition("; ")[2], accepts)


def of_slips(path: Path) -> Iterator[Said]:
    def accepts(form: str) -> object:
        head, dashes, command = form.partition(" -- ")
        requests = parse_requests([head], command=["true"])
        return parse("trace", trace, [head, "--", *command.split()]) if dashes else requests

    (path.parent / "prog.c").touch()
    (path.parent / "wrapper").write_text(f"#!/bin/sh\nexec {path}\n")
    command = [str(path)]
    for texts in ([f"{path}", "pair.second:-w-"], [f"{path}:pair", f"{path}"]):
        yield Said(said(partial(parse_requests, texts, command=())), accepts)
    for name in ("prog.c", "wrapper"):
        requests = [parse_request(f"{path.parent / name}:pair.second:-w-")]
        yield Said(said(partial(slips.check_programs, requests, command)), accepts)
        yield Said(said(partial(slips.check_programs, requests, ())), accepts)
    for texts, _after in (
        (["pair.second:-w-"], command),
        (["watch", f"{path}:pair"], command),
        (["0x10/4"], command),
    ):
        resolver = Resolver()
        requests = [parse_request(text) for text in texts]

        def found(
            requests: list[Request] = requests, resolver: Resolver = resolver, texts: list[str] = texts
        ) -> object:
            return resolve_all(requests, resolver, pid=None, texts=texts, command=command)

        yield Said(said(found), accepts)
        resolver.close()
    yield Said(
        slips.never_mapped([f"{path.parent}/porg"], command).todo, lambda form: parse_request(f"{form}:pair")
    )
    yield Said(slips.never_mapped(["libz.so.9"], command).todo, lambda form: parse_request(f"{form}:pair"))


def of_refusals() -> Iterator[Said]:
    def plan(*requests: str, length: int = 4, space: Space = Space.KERNEL) -> object:
        parsed = [parse_request(each) for each in requests]
        return make_plan(
            (each, Variable(each.target.text, 0xFFFF888000000000, length, space)) for each in parsed
        )

    numbers = (
        errno.ENOSPC,
        errno.EACCES,
        errno.ENOENT,
        errno.ESRCH,
        errno.ENODEV,
        errno.EMFILE,
        errno.EINVAL,
        errno.ENOMEM,
    )
    plans = [
        plan("v"),
        plan("v/64", length=64),
        plan("v:r--"),
        plan("v:--x"),
        plan("./p:v", length=40, space=Space.USER),
    ]
    for number, of, kernel in itertools.product(numbers, plans, (True, False)):
        planned = PlannedEvent(of.watches[0], of.watches[0].pieces[0], 5, 1)  # type: ignore[attr-defined]
        error = refusals.explain(OSError(number, "x"), planned, of, kernel_accesses=kernel)  # type: ignore[arg-type]
        yield Said(error.todo, parse_request)
    planned = PlannedEvent(plans[0].watches[0], plans[0].watches[0].pieces[0], 5, 1)  # type: ignore[attr-defined]
    for limit in (1 << 25, resource.RLIM_INFINITY):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
            error = refusals.explain(OSError(errno.ENOMEM, "x"), planned, plans[0])  # type: ignore[arg-type]
            yield Said(error.todo, parse_request)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refusals, "holders", lambda: [Holder(7, "gdb", "debugs pid 8")])
        of = plans[1]
        planned = PlannedEvent(of.watches[0], of.watches[0].pieces[0], 5, 1)  # type: ignore[attr-defined]
        yield Said(refusals.explain(OSError(errno.ENOSPC, "x"), planned, of).todo, parse_request)  # type: ignore[arg-type]
        yield Said(refusals.explain(OSError(errno.EIO, "x"), planned, of).todo, parse_request)  # type: ignore[arg-type]


def of_privileges(patch: pytest.MonkeyPatch) -> Iterator[Said]:
    """Refusals to an ordinary user, to root without capabilities, and under a seccomp filter."""
    everything, nothing = "CapEff:\tffffffffffffffff\nSeccomp:\t0\n", "CapEff:\t0\nSeccomp:\t0\n"
    for user, status, filtered in itertools.product((0, 1000), (everything, nothing), (True, False)):
        for level, options in itertools.product(
            (2, 3), ({"kernel": True}, {"system_wide": True}, {"kernel_accesses": True}, {})
        ):
            with pytest.MonkeyPatch.context() as here:
                here.setattr(os, "geteuid", lambda user=user: user)
                here.setattr(privileges, "read_text", lambda path, status=status: status)
                here.setattr(privileges, "is_filtered", lambda name, filtered=filtered: filtered)
                here.setattr(refusals, "paranoid", lambda level=level: level)
                yield Said(refusals.no_privilege(**options)[1], parse_request)
    for _, _, cure in mounted._NEEDED:
        yield Said(cure, parse_request)


def of_commands() -> Iterator[Said]:
    for words in (["pid_max", "--nothing"], ["pid_max", "-w-"], ["pid_max", "--"], ["pid_max", "--", "-g"]):
        yield Said(said(partial(parse, "trace", trace, words)), parse_request)
    for option in _FOREIGN_OPTIONS:
        yield Said(said(partial(parse, "trace", trace, ["pid_max", option])), _option_of_trace)
    yield Said(_before_the_command(["-p", "1", "trace", "pid_max"]).todo, parse_request)


def _option_of_trace(form: str) -> object:
    condition = shlex.split(form)
    return parse_condition(condition[-1]) if len(condition) == 1 else parse("trace", trace, condition)


@pytest.fixture(scope="module")
def produced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Said]]:
    """All advice that the cases produce."""
    need("gcc")
    folder = tmp_path_factory.mktemp("advice")
    (folder / "away.c").write_text(AWAY)
    path = build(folder, "prog", PROGRAM, "-g", "-O0", "away.c")
    bare = build(folder, "bare", PROGRAM, "-O0", "away.c")
    split = build(folder, "split", PROGRAM, "-g", "-gsplit-dwarf", "-O0", "away.c")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(refusals, "free_registers", lambda **where: 3)
        patch.setattr(refusals, "holders", list)
        found = [
            *of_language(),
            *of_types_and_directories(), *of_conditions(), *of_a_program(path, stack),
            *of_bare_programs(stack, bare, split),
            *of_a_kernel(), *of_slips(path), *of_refusals(), *of_privileges(patch), *of_commands(),
        ]  # fmt: skip
        yield [each for each in found if each.advice]


def test_advice_is_accepted(produced: list[Said]) -> None:
    refused, options = [], {"--", *make_parser("trace", trace)._option_string_actions}
    for each in produced:
        for form in advice.forms(each.advice):
            if form.split()[0] in options or os.path.exists(form):
                continue
            try:
                each.accepts(form)
            except KsymError as error:
                refused.append(f"{each.advice!r} advises {form!r}, but: {error}")
    assert not refused, "\n".join(dict.fromkeys(refused))


def test_advised_commands_are_there(produced: list[Said]) -> None:
    for each in produced:
        for command in advice.commands(each.advice):
            assert_runs(command)


def assert_runs(command: str) -> None:
    """Check that a command can be run: ksym understands its own, and a program is installed."""
    word, *words = command.split()
    if word == "ksym":
        from importlib import import_module

        module = import_module(f"ksym.commands.{words[0]}")
        if len(words) > 1:  # else the command itself is meant
            parse(words[0], module, [each.strip("'") for each in words[1:]])
    elif word == "sysctl":
        assert words[0].partition("=")[0].startswith("kernel.")
    elif word != "ulimit":  # the shell's own
        assert shutil.which(word), command


def test_advised_sysctls_are_there() -> None:
    found = {name for template in advice.templates() for name in re.findall(r"\bsysctl ([\w.]+)=", template)}
    assert "kernel.kptr_restrict" in found
    missing = [name for name in found if not Path("/proc/sys", *name.split(".")).exists()]
    if not Path("/proc/sys/kernel/perf_event_paranoid").exists():
        pytest.skip("this kernel has no perf events, whose sysctls are advised")
    assert not missing


def test_no_advice_is_left_out(produced: list[Said]) -> None:
    texts = {each.advice for each in produced}
    missing = {
        template.replace("\0", "{}"): place
        for template, place in advice.templates().items()
        if template not in EXEMPT
        and not advice.SHELL.search(template)
        and not any(advice.matches(template, text) for text in texts)
    }
    assert not missing, "\n".join(f"{place}: {text}" for text, place in missing.items())
    stale = EXEMPT.keys() - advice.templates().keys()
    assert not stale, "exempt, but no longer advised"
