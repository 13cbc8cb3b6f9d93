# SPDX-License-Identifier: BSD-2-Clause
"""What to say when no source knows a name: why that may be, and what the user may have meant."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ksym.errors import KsymError, NoSuchVariable, NotPermitted, NotWatchable
from ksym.language.request import Symbol
from ksym.symbols import known
from ksym.symbols.ctext import parse_type
from ksym.symbols.kallsyms import TEXT_KINDS, Kallsyms
from ksym.symbols.kernel import Kernel
from ksym.symbols.nearest import did_you_mean, nearest
from ksym.symbols.params import Parameter
from ksym.symbols.types import Struct

_NONE_OF_THAT_NAME = "the kernel has no variable of that name"
_NO_DATA = "/proc/kallsyms has no variables (CONFIG_KALLSYMS_ALL is off)"


def missing_function(kernel: Kernel, symbol: Symbol) -> KsymError:
    """The error for a function that is not there."""
    close = nearest(symbol.name, kernel.kallsyms.names(text_only=True))
    todo = did_you_mean([f"{name}:--x" for name in close]) or "search /proc/kallsyms for it"
    where = f"module {symbol.scope}" if symbol.scope else "the kernel"
    return NoSuchVariable(f"cannot watch {symbol.name}:--x", f"{where} has no function of that name", todo)


def missing_variable(kernel: Kernel, symbol: Symbol) -> KsymError:
    """The error for a variable that is not there."""
    written = f"{symbol.scope}:{symbol.name}" if symbol.scope else symbol.name
    what = f"cannot watch {written}"
    parameters = list(kernel.parameters.all()) if kernel.parameters else None
    if symbol.scope is not None:
        return _missing_in_scope(kernel, symbol, symbol.scope, what, parameters)
    same = [str(each) for each in parameters or () if each.name == symbol.name]
    if same:
        return NoSuchVariable(
            what, "it is a module parameter, not a variable's own name", f"write {' or '.join(same)}"
        )
    other = _other_notation(symbol.name, parameters or ())
    if other:
        return NoSuchVariable(what, *other)
    members = _members_of_well_known(kernel, symbol.name)
    if members:
        return NoSuchVariable(what, _NONE_OF_THAT_NAME, did_you_mean(members))
    table = kernel.kallsyms
    if table.has_data:
        todo = did_you_mean(nearest(symbol.name, table.names())) or "search /proc/kallsyms for it"
        return NoSuchVariable(what, _NONE_OF_THAT_NAME, todo)
    names = [name for each in parameters or () for name in (str(each), each.name)]
    per_cpu = kernel.btf.variable_names() if kernel.btf else ()
    hint = did_you_mean(nearest(symbol.name, [*names, *per_cpu, *known.REACHABLE]))
    return NoSuchVariable(
        what,
        f"this kernel's {_NO_DATA}" + ("" if kernel.btf else ", and it has no BTF"),
        f"{hint + ' otherwise ' if hint else ''}give --vmlinux FILE (a vmlinux or System.map), a module parameter "
        "(MODULE:NAME), a per-CPU variable, task(PID)->..., or *(TYPE *)ADDRESS",
    )


def _other_notation(name: str, parameters: Iterable[Parameter]) -> tuple[str, str] | None:
    """Why a name from the kernel's command line, from sysctl(8) or from its sources is none, and what is meant."""
    if name in ("current", "self"):
        return "a task is named by its PID", "write task(PID)->MEMBER, or task(self)->MEMBER"
    if any(each.scope == name for each in parameters):
        return "it is a module, and those have a ':' behind them", f"write {name}:NAME"
    if name.isidentifier() and os.path.isdir(f"/proc/sys/{name}"):
        why = "the kernel has no variable of that name, sysctls alone are called so"
        return why, f"write the name of the variable, often that behind '{name}.'"
    return None


def _members_of_well_known(kernel: Kernel, name: str) -> list[str]:
    """Well-known structs with a member of that name: ``pid_max`` moved into ``init_pid_ns`` in 6.14."""
    found = []
    for variable in ("init_pid_ns", "init_uts_ns", "init_task", "init_net"):
        kind = parse_type(known.TYPES[variable], kernel.btf) if kernel.btf else None
        if isinstance(kind, Struct) and name.lower() in {each.name for each in kind.fields}:
            found.append(f"{variable}.{name.lower()}")
    return found


def _missing_in_scope(
    kernel: Kernel, symbol: Symbol, scope: str, what: str, parameters: list[Parameter] | None
) -> KsymError:
    table = kernel.kallsyms
    if parameters is None:
        try:
            _ = kernel.memory
        except NotPermitted as refusal:
            why = f"parameters of modules are found by reading kernel memory: {refusal.why}"
            return NotPermitted(what, why, refusal.todo)
    modules = table.modules()
    own = [each.name for each in parameters or () if each.scope.replace("-", "_") == scope]
    if scope in modules or own:
        close = nearest(symbol.name, [*own, *_variables_of_module(table, scope)])
        why = f"module {scope} has no variable and no parameter of that name"
        if not table.has_data and scope not in modules:
            why = f"no parameter of {scope} has that name, and {_NO_DATA}"
        todo = did_you_mean([f"{scope}:{name}" for name in close])
        return NoSuchVariable(what, why, todo or f"see /sys/module/{scope}/parameters")
    if table.find(symbol.name):
        return NotWatchable(
            what, f"{scope} is no module, but {symbol.name} is a symbol", f"write {symbol.name}"
        )
    if symbols := table.find(scope):
        mode = "--x" if all(each.is_text for each in symbols) else "rw-"
        return NotWatchable(
            what, f"{scope} is no module but a symbol, and {symbol.name} no ACCESS", f"write {scope}:{mode}"
        )
    close = nearest(scope, modules | {each.scope for each in parameters or () if each.scope})
    todo = did_you_mean([f"{name}:{symbol.name}" for name in close])
    return NoSuchVariable(
        what, f"there is no module {scope} (not loaded, or without parameters)",
        todo or f"modprobe {scope}, write {symbol.name} alone, or for a program ./{scope}:{symbol.name}",
    )  # fmt: skip


def _variables_of_module(table: Kallsyms, module: str) -> list[str]:
    mark = f"\t[{module}]".encode()
    return [
        line.split()[2].decode(errors="replace")
        for line in table.data.splitlines()
        if line.endswith(mark) and line[17:18] not in TEXT_KINDS
    ]
