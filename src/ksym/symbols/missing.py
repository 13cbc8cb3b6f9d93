# SPDX-License-Identifier: BSD-2-Clause
"""What to say when no source knows a name: why that may be, and what the user may have meant."""

from __future__ import annotations

import os
from collections.abc import Collection

from ksym.errors import KsymError, NoSuchVariable, NotPermitted, NotWatchable
from ksym.language.request import Symbol
from ksym.linux.files import read_text
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
    if parameters is None and (refused := _cannot_look(kernel, symbol, what)) is not None:
        return refused
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
    # A parameter that resembles the name by itself is written with its module.
    names = {name: str(each) for each in parameters or () for name in (each.name, str(each))}
    per_cpu = kernel.btf.variable_names() if kernel.btf else ()
    others = {*per_cpu, *known.REACHABLE} - {symbol.name}
    close = nearest(symbol.name, [*names, *others])
    hint = did_you_mean(list(dict.fromkeys(names.get(each, each) for each in close)))
    return NoSuchVariable(
        what,
        f"this kernel's {_NO_DATA}" + ("" if kernel.btf else ", and it has no BTF"),
        f"{hint + ' otherwise ' if hint else ''}give --vmlinux FILE (a vmlinux or System.map), or name a module "
        "parameter (MODULE:NAME), a per-CPU variable, task(PID)->MEMBER or *(TYPE *)0xADDRESS",
    )


def _cannot_look(kernel: Kernel, symbol: Symbol, what: str) -> KsymError | None:
    """Explain that a name was not looked up everywhere, as kernel memory may not be read; None if that is no matter."""
    table = kernel.kallsyms
    if symbol.scope in table.modules() if symbol.scope else table.has_data:
        return None
    try:
        _ = kernel.memory
    except NotPermitted as refusal:
        missed = "module parameters are" if symbol.scope else f"{_NO_DATA}, and the others are"
        return NotPermitted(what, f"{missed} found by reading kernel memory: {refusal.why}", refusal.todo)
    return None


def _other_notation(name: str, parameters: Collection[Parameter]) -> tuple[str, str] | None:
    """Why a name from the kernel's command line, from sysctl(8) or from its sources is none, and what is meant."""
    if name in ("current", "self"):
        return "a task is named by its PID", "write task(self)->MEMBER, or task(PID)->MEMBER"
    if any(each.scope == name for each in parameters):
        example = next(each.name for each in parameters if each.scope == name)
        return "it is a module, not a variable", f"name one of its parameters, as in {name}:{example}"
    if name.isidentifier() and os.path.isdir(f"/proc/sys/{name}"):
        why = "the kernel has no variable of that name, only a group of sysctls"
        return why, f"write the variable's own name, often the last part of the sysctl's ({name}.NAME)"
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
    modules = table.modules()
    own = [each.name for each in parameters or () if each.scope.replace("-", "_") == scope]
    if scope in modules or own:
        close = nearest(symbol.name, [*own, *_variables_of_module(table, scope)])
        why = f"module {scope} has no variable and no parameter of that name"
        if not table.has_data and scope not in modules:
            why = f"no parameter of {scope} has that name, and {_NO_DATA}"
        todo = did_you_mean([f"{scope}:{name}" for name in close])
        return NoSuchVariable(what, why, todo or f"see /sys/module/{scope}/parameters")
    if symbols := table.find(symbol.name):
        end = ":--x" if all(each.is_text for each in symbols) else ""
        why = f"there is no module {scope}, but {symbol.name} is a symbol"
        return NotWatchable(what, why, f"write {symbol.name}{end}")
    if symbols := table.find(scope):
        mode = "--x" if all(each.is_text for each in symbols) else "rw-"
        return NotWatchable(
            what,
            f"{scope} is a symbol, not a module, and {symbol.name} is not an ACCESS",
            f"write {scope}:{mode}",
        )
    close = nearest(scope, modules | {each.scope for each in parameters or () if each.scope})
    todo = did_you_mean([f"{name}:{symbol.name}" for name in close])
    return NoSuchVariable(
        what, f"there is no module {scope} (not loaded, or without parameters)", todo or _load(scope),
    )  # fmt: skip


def _load(module: str) -> str:
    """Return how to load a module; where none of that name is installed, which there are."""
    try:
        files = read_text(f"/lib/modules/{os.uname().release}/modules.dep")
    except OSError:
        files = ""
    names = {os.path.basename(line.partition(".ko")[0]).replace("-", "_") for line in files.splitlines()}
    if module in names:
        return f"load it with `modprobe {module}`"
    return (
        "`lsmod` lists the modules that are loaded; a program is named by its path, as in ./PROGRAM:VARIABLE"
    )


def _variables_of_module(table: Kallsyms, module: str) -> list[str]:
    mark = f"\t[{module}]".encode()
    return [
        line.split()[2].decode(errors="replace")
        for line in table.data.splitlines()
        if line.endswith(mark) and line[17:18] not in TEXT_KINDS
    ]
