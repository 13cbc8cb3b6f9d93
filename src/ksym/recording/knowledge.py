# SPDX-License-Identifier: BSD-2-Clause
"""What only ksym knows of a recording, as the notes in it: plain data, that JSON can carry there and back.

start    ksym's version, the machine, its clocks, the watches with their types, what each identifier stands for
events   what further identifiers stand for: a CPU came
sites    code that made hits: names, decoded instructions, code bytes; more of them whenever there are new ones
names    code that call chains lead through
pointers what values point to
counts   hits counted, lost, rejected and suppressed so far
end      the same at the end, and the summary's notes; missing in a file that was cut
"""

from __future__ import annotations

from typing import Any

from ksym.capture.instructions import READ, READ_WRITE, WRITE, Instruction, X86Decoder, available
from ksym.capture.sites import Named, Site
from ksym.language.parser import parse_request
from ksym.symbols.readable import readable
from ksym.symbols.types import (
    Array,
    Encoding,
    Enum,
    Field,
    Float,
    Function,
    Integer,
    Pointer,
    Struct,
    Type,
    Typedef,
    resolve,
)
from ksym.symbols.variable import Space, Variable
from ksym.watch.plan import Piece, Watch

_DEEPEST = 12
"""Types inside of types; what lies deeper is of no known type."""
_MOST_FIELDS = 512
_ADDRESSES = range(1 << 64)
_BYTES = Integer("unsigned char", 1, signed=False)


def type_data(kind: Type, depth: int = 0) -> Any:
    """A type as JSON; a pointer keeps its name alone, as values do not follow it."""
    if depth > _DEEPEST:
        return {"kind": "none", "name": kind.name, "size": kind.size}
    data: dict[str, Any] = {"name": kind.name, "size": kind.size}
    match kind:
        case Integer():
            return data | {"kind": "integer", "signed": kind.signed, "encoding": kind.encoding.value}
        case Float():
            return data | {"kind": "float"}
        case Enum():
            return data | {
                "kind": "enum",
                "signed": kind.signed,
                "constants": list(map(list, kind.enumerators)),
            }
        case Pointer():
            return data | {"kind": "pointer"}
        case Array():
            return data | {
                "kind": "array",
                "element": type_data(kind.element, depth + 1),
                "count": kind.count,
            }
        case Struct():
            fields = [
                [each.name, type_data(each.type, depth + 1), each.offset, each.bits]
                for each in kind.fields[:_MOST_FIELDS]
            ]
            return data | {"kind": "struct", "union": kind.union, "fields": fields}
        case Typedef():
            return data | {"kind": "typedef", "target": type_data(kind.target, depth)}
    return data | {"kind": "none"}


def holds_pointers(kind: Type, depth: int = 0) -> bool:
    """Whether there are pointers among the values of a type."""
    kind = resolve(kind)
    if depth > _DEEPEST:
        return False
    if isinstance(kind, Array):
        return holds_pointers(kind.element, depth + 1)
    if isinstance(kind, Struct):
        return any(holds_pointers(each.type, depth + 1) for each in kind.fields[:_MOST_FIELDS])
    return isinstance(kind, Pointer)


def type_from(data: Any) -> Type:
    """The type that `type_data` described.

    Raises:
        (KeyError, TypeError, ValueError): it is no such description.
    """
    name, size = str(data["name"]), int(data["size"])
    match data["kind"]:
        case "integer":
            return Integer(name, size, bool(data["signed"]), Encoding(data["encoding"]))
        case "float":
            return Float(name, size)
        case "enum":
            constants = tuple((str(word), int(number)) for word, number in data["constants"])
            return Enum(name, size, bool(data["signed"]), constants)
        case "pointer":
            return Pointer(name, size, lambda: Function("void", 0))
        case "array":
            return Array(name, size, type_from(data["element"]), int(data["count"]))
        case "struct":
            fields = tuple(
                Field(str(word), type_from(kind), int(offset), (int(bits[0]), int(bits[1])) if bits else None)
                for word, kind, offset, bits in data["fields"]
            )
            return Struct(name, size, bool(data["union"]), lambda: fields)
        case "typedef":
            return Typedef(name, size, type_from(data["target"]))
    return Type(name, size)


def watch_data(watch: Watch) -> dict[str, Any]:
    """A watch as JSON."""
    variable = watch.variable
    return {
        "request": str(watch.request),
        "name": watch.name,
        "address": variable.address,
        "length": variable.length,
        "space": variable.space.value,
        "type": type_data(variable.type) if variable.type else None,
        "bits": variable.bits,
        "per_cpu": {str(cpu): address for cpu, address in variable.per_cpu.items()}
        if variable.per_cpu
        else None,
        "section": variable.section,
        "module": variable.module,
        "executable": variable.executable,
        "pieces": [[piece.offset, piece.length] for piece in watch.pieces],
        "twin": watch.twin,
    }


def watch_from(index: int, data: Any) -> Watch:
    """The watch that `watch_data` described; without its condition, which has been judged.

    Raises:
        (KeyError, TypeError, ValueError, KsymError): it is no such description.
    """
    copies, bits = data["per_cpu"], data["bits"]
    variable = Variable(
        readable(str(data["name"])), int(data["address"]), int(data["length"]), Space(data["space"]),
        type_from(data["type"]) if data["type"] else None,
        (int(bits[0]), int(bits[1])) if bits else None,
        {int(cpu): int(address) for cpu, address in copies.items()} if copies else None,
        data["section"], None, data["module"], bool(data["executable"]),
    )  # fmt: skip
    pieces = tuple(Piece(int(offset), int(length)) for offset, length in data["pieces"])
    return Watch(index, parse_request(readable(str(data["request"]))), variable, pieces, bool(data["twin"]))


def named_data(named: Named) -> list[Any]:
    """A name as JSON; one of a place that no symbol holds has a fifth element."""
    data = [named.function, named.offset, named.size, named.owner]
    return [*data, True] if named.in_file else data


def named_from(data: Any) -> Named:
    """The name that `named_data` described."""
    function, offset, size, owner, *in_file = data
    return Named(
        None if function is None else readable(str(function)),
        int(offset),
        int(size),
        None if owner is None else readable(str(owner)),
        in_file == [True],
    )


def site_data(pid: int, site: Site, code: tuple[int, bytes]) -> dict[str, Any]:
    """A site as JSON.

    Args:
        pid: 0 for the kernel's code.
        site: The site.
        code: Bytes that lead to it, and where they start.
    """
    instruction = site.instruction
    return {
        "pid": pid,
        "ip": site.ip,
        "address": site.address,
        "named": named_data(site.named),
        "size": site.size,
        "repeats": site.repeats,
        "bits": site.bits,
        "instruction": None
        if instruction is None
        else [
            instruction.address,
            instruction.text,
            sorted(instruction.accesses),
            instruction.size,
            instruction.repeats,
        ],
        "decoded": available(),
        "code": [code[0], code[1].hex()],
    }


def site_from(data: Any, *, traps_after: bool) -> tuple[int, Site]:
    """What `site_data` described: pid and site.

    Where the recorder had nothing to decode instructions with, that is made up for.

    Args:
        data: The description.
        traps_after: The hit was reported behind the access.
    """
    parts = data["instruction"]
    named = named_from(data["named"])
    ip, address, size, repeats = (
        int(data["ip"]),
        int(data["address"]),
        int(data["size"]),
        bool(data["repeats"]),
    )
    bits = data.get("bits", 64)  # older recordings took all code for 64-bit code
    if bits not in (32, 64):
        raise ValueError(bits)
    instruction = None
    if parts:
        start, text, accesses, width, again = parts
        instruction = Instruction(
            int(start), str(text), frozenset(map(str, accesses)), int(width), bool(again)
        )
        if not instruction.accesses <= {READ, WRITE, READ_WRITE}:
            raise ValueError(accesses)
    elif traps_after and not data["decoded"] and available():
        instruction = _decoded(ip, named, data["code"], bits)
        if instruction is not None:
            address, size, repeats = instruction.address, instruction.size, instruction.repeats
    if not (ip in _ADDRESSES and address in _ADDRESSES and 0 <= size < 1 << 32):
        raise ValueError(ip)
    return int(data["pid"]), Site(ip, address, named, instruction, size, repeats, bits)


def decoded_again(site: Site, code: Any, bits: int) -> Site:
    """Return the site as it is if its code has other bits than the recorder took it for.

    Args:
        site: As it was recorded.
        code: Start and bytes of the code that leads to it, as recorded.
        bits: 64 or 32.
    """
    instruction = _decoded(site.ip, site.named, code, bits) if available() else None
    if instruction is None:
        return Site(site.ip, site.ip, site.named, None, 0, bits=bits)
    return Site(
        site.ip, instruction.address, site.named, instruction, instruction.size, instruction.repeats, bits
    )


def _decoded(ip: int, named: Named, code: Any, bits: int) -> Instruction | None:
    start, content = int(code[0]), bytes.fromhex(code[1])

    def read(address: int, length: int) -> bytes:
        return content[max(0, address - start) :][:length] if address >= start else b""

    return X86Decoder(read, bits).find(ip, ip - named.offset if named.function else None)
