# SPDX-License-Identifier: BSD-2-Clause
"""The language: ``TARGET[:ACCESS][ if CONDITION]`` from text to data.

A user names what to watch in C's own notation, and this stage turns the words into a ``Request``. It
knows no kernel, no program and no hardware: whether ``pid_max`` exists is the symbol stage's question,
whether it fits a register the watch stage's. So a request can be read, and refused, anywhere.

    >>> request = parse_request("init_net.ipv4.ip_id_key:-w- if new != 0")
    >>> request.target.root.name, [step.name for step in request.target.path]
    ('init_net', ['ipv4', 'ip_id_key'])
    >>> str(request.condition)
    'new != 0'

Reading takes four steps, a module each: ``parser`` cuts the text at ``if`` and at the colons,
``access`` reads the three characters, ``target`` the C notation, ``condition_parser`` the expression,
the last two over the tokens of ``tokens``. What they make is in ``request`` and ``condition``: frozen
data with spans. ``typecheck`` looks whether a condition makes sense; ``RequestSet`` whether a request
does beside the others of its run.

A request that cannot be read raises ``RequestError``, and nothing else ever comes out. Its message
names the cause and the cure, and its place gives the caret:

    >>> try:
    ...     parse_request("pid_max:wr-")
    ... except RequestError as error:
    ...     print(error)
    ...     print(error.place.caret())
    cannot read request 'pid_max:wr-': 'w' is out of place in ACCESS, the order is r, w, x; write pid_max:rw-
      pid_max:wr-
              ^

``str()`` of a request, and of a condition, is text that reads back as an equal one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ksym.errors import RequestError
from ksym.language.parser import parse_request
from ksym.language.request import (
    Address,
    Cast,
    Index,
    Member,
    Mode,
    Request,
    Root,
    Step,
    Symbol,
    Target,
    TaskRoot,
    UserSymbol,
)
from ksym.language.request_set import RequestSet

if TYPE_CHECKING:
    from ksym.language.condition import Condition, evaluate
    from ksym.language.condition_parser import parse_condition
    from ksym.language.typecheck import Kind, check

__all__ = [
    "Address",
    "Cast",
    "Condition",
    "Index",
    "Kind",
    "Member",
    "Mode",
    "Request",
    "RequestError",
    "RequestSet",
    "Root",
    "Step",
    "Symbol",
    "Target",
    "TaskRoot",
    "UserSymbol",
    "check",
    "evaluate",
    "parse_condition",
    "parse_request",
]

# Most runs have no condition, and start without the modules that read one.
_LATE = {
    "Condition": "condition",
    "evaluate": "condition",
    "parse_condition": "condition_parser",
    "Kind": "typecheck",
    "check": "typecheck",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    globals()[name] = value
    return value
