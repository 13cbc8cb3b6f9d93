# SPDX-License-Identifier: BSD-2-Clause
"""Show what ksym knows about a name, and how it knows it: address, size, type, section, pieces, registers.

Nothing is planted and COMMAND does not exist here: a user variable needs -p PID.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

from ksym.commands.parser import add_vmlinux, positive
from ksym.language.request import Request
from ksym.linux.mounted import check_mounted
from ksym.linux.process_status import check_process
from ksym.program.engine import programs
from ksym.program.wants import Sink, Wants
from ksym.runs.engines import bind_conditions, wants_for
from ksym.runs.session import parse_requests, resolve_all
from ksym.symbols.functions import Functions
from ksym.symbols.resolver import Resolver
from ksym.symbols.types import describe
from ksym.symbols.variable import Variable
from ksym.views.text import as_json, printable
from ksym.watch.plan import Plan, Watch, make_plan
from ksym.watch.registers import both_fire, free_registers


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "requests", nargs="+", metavar="TARGET", help="as trace takes it; ACCESS may be left out"
    )
    parser.add_argument("-p", "--pid", type=positive, help="the process in which user variables lie")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="an object a line")
    shape.add_argument(
        "--program", action="store_true",
        help="show the BPF programs that trace would run at each hit, ACCESS and condition included",
    )  # fmt: skip
    add_vmlinux(parser)


def run(args: argparse.Namespace) -> int:
    """Resolve and print."""
    check_mounted()
    requests = parse_requests(args.requests)
    if args.pid is not None:
        check_process(args.pid)
    with closing(Resolver(vmlinux=args.vmlinux, pid=args.pid, can_start=False)) as resolver:
        found = resolve_all(requests, resolver, pid=args.pid, texts=args.requests)
        conditions = bind_conditions(found, Functions(resolver.kernel, resolver.pid))
        plan, twins = (make_plan(found, twin=twin, conditions=conditions) for twin in (False, True))
        free = _free(args.pid)
        if args.program:
            print(_programs(twins if _takes(twins, free, args.pid) else plan, resolver), end="")
            return 0
        for watch, twin in zip(plan.watches, twins.watches, strict=True):
            if args.json:
                print(as_json(_object(watch, twin, free)))
            else:
                print(("\n" if watch.index else "") + _text(watch, twin, free), end="")
        if not args.json and len(plan.watches) > 1:
            print(f"\nregisters for all: {_registers(plan.registers, twins.registers, free)}")
    return 0


def _takes(twins: Plan, free: int | None, pid: int | None) -> bool:
    """Whether trace would take the registers of twins now."""
    return (free is None or twins.registers <= free) and both_fire(system_wide=pid is None)


def _programs(plan: Plan, resolver: Resolver) -> str:
    """Listings of a plan's programs, in the order in which their registers are taken."""
    wants = wants_for(plan, Wants(Sink.RECORD, kernel_accesses=False), resolver.kernel)
    # What is watched in a process alone is not guarded.
    guarded = (resolver.pid is None,) * len(plan.watches)
    parts = []
    by_memory = wants.tasks is not None
    for index, piece, role, program in programs(plan, wants._replace(guarded=guarded), by_memory=by_memory):
        watch = plan.watches[index]
        where = watch.pieces[piece]
        place = f"{role.value}, {where.length} bytes at +{where.offset}"
        title = f"{printable(str(watch.request))}  {program.name}, {place}"
        parts.append("\n".join([title, *program.listing()]) + "\n")
    return "\n".join(parts)


def _free(pid: int | None) -> int | None:
    """Free registers of CPU 0, or of the process where the whole machine may not be watched."""
    for thread, cpu in ((-1, 0), (pid or 0, -1)):
        try:
            return free_registers(pid=thread, cpu=cpu)
        except OSError:
            continue
    return None


def _registers(needed: int, with_twins: int, free: int | None) -> str:
    too_many = free is not None and needed > free
    twins = with_twins > needed and not too_many
    text = f"needs {needed}" + (f", {with_twins} with twins" if twins else "")
    if free is not None:
        text += f"{';' if twins else ','} {free} {'is' if free == 1 else 'are'} free"
    return text + (": too many" if too_many else "")


def _pieces(watch: Watch) -> list[str]:
    if watch.variable.per_cpu:
        return [f"+{piece.offset}/{piece.length}" for piece in watch.pieces]
    return [f"{watch.variable.address + piece.offset:#x}/{piece.length}" for piece in watch.pieces]


def _text(watch: Watch, twin: Watch, free: int | None) -> str:
    variable = watch.variable
    rows = [row for what in ("address", "size", "type", "section") for row in _known(variable, what)]
    if variable.bits:
        rows.append(("bits", f"{variable.bits[1]} from bit {variable.bits[0]}", "a bit field of these bytes"))
    if variable.per_cpu:
        rows += [(f"on CPU {cpu}", f"{address:#x}", "") for cpu, address in _few(variable.per_cpu)]
    shown = _pieces(watch)
    more = f" ... {len(shown)} in all" if len(shown) > 6 else ""
    each = " of each CPU's copy" if variable.per_cpu else ""
    pieces = " ".join(shown[:6]) + more + each
    rows.append(("registers", _registers(watch.registers, twin.registers, free), ""))
    width = max(len(value) for _, value, _ in rows)
    lines = [f"{printable(watch.name)}  ({variable.space.value})"]
    lines += [
        f"  {what:<10} {printable(value):<{width}}  {printable(source)}".rstrip()
        for what, value, source in rows
    ]
    lines.append(f"  pieces     {pieces}")
    if variable.remark:
        lines.append(f"  mind       {printable(variable.remark)}")
    return "\n".join(lines) + "\n"


def _known(variable: Variable, what: str) -> list[tuple[str, str, str]]:
    """The last fact of its kind, and where those before it came from."""
    facts = [fact for fact in variable.facts if fact.what == what]
    if not facts:
        return [(what, describe(variable.type), "")] if what == "type" and variable.type else []
    last = facts[-1]
    source = last.source
    if len(facts) > 1 and what == "address":
        source += " from " + ", ".join(f"{fact.value} ({fact.source})" for fact in facts[:-1])
    value = describe(variable.type) if what == "type" and variable.type else last.value
    return [(what, value, source)]


def _few(copies: dict[int, int]) -> list[tuple[int, int]]:
    return list(copies.items())[:8]


def _object(watch: Watch, twin: Watch, free: int | None) -> dict[str, Any]:
    variable: Variable = watch.variable
    request: Request = watch.request
    return {
        "symbol": watch.name,
        "access": str(request.mode),
        "space": variable.space.value,
        "address": hex(variable.address),
        "length": variable.length,
        "type": variable.type.name if variable.type else None,
        "section": variable.section,
        "bits": list(variable.bits) if variable.bits else None,
        "per_cpu": {str(cpu): hex(address) for cpu, address in variable.per_cpu.items()}
        if variable.per_cpu
        else None,
        "pieces": [{"offset": piece.offset, "length": piece.length} for piece in watch.pieces],
        "registers": watch.registers,
        "registers_with_twins": twin.registers,
        "free_registers": free,
        "facts": [{"what": f.what, "value": f.value, "source": f.source} for f in variable.facts],
    }
