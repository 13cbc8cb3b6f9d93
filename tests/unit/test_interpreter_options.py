# SPDX-License-Identifier: BSD-2-Clause
"""ksym under python -OO, which executes no assert and keeps no docstring, and under -W error -X dev.

What plants watchpoints is tried in tests/native; `make test` runs some of the unit tests under -OO, too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.__main__ import COMMANDS
from support.program import SOURCES, Result, ksym

STRICT = ("-W", "error", "-X", "dev")
TREES = {path: ast.parse(path.read_text()) for path in sorted(SOURCES.rglob("*.py"))}
_HARMLESS = {"isinstance", "callable", "len"}


def decorated(tree: ast.AST, decorator: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = {each.id for each in node.decorator_list if isinstance(each, ast.Name)}
            if decorator in names:
                yield node.name


def works(tree: ast.AST, properties: set[str]) -> Iterator[str]:
    """Each thing in an assert that may do work: a call, an assignment, a property."""
    for statement in ast.walk(tree):
        if not isinstance(statement, ast.Assert):
            continue
        for node in ast.walk(statement.test):
            if isinstance(node, ast.Call) and not (
                isinstance(node.func, ast.Name) and node.func.id in _HARMLESS
            ):
                yield f"{statement.lineno}: calls {ast.unparse(node.func)}"
            elif isinstance(node, (ast.NamedExpr, ast.Await, ast.Yield)):
                yield f"{statement.lineno}: {ast.unparse(node)}"
            elif isinstance(node, ast.Attribute) and node.attr in properties:
                yield f"{statement.lineno}: .{node.attr} is a property somewhere"


def test_no_assert_does_work() -> None:
    properties = {name for tree in TREES.values() for name in decorated(tree, "property")}
    assert "end_id" in properties
    found = [f"{path}:{work}" for path, tree in TREES.items() for work in works(tree, properties)]
    assert found == []


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("assert self.end_id", 1),
        ("assert next(it)", 1),
        ("assert (x := 3)", 1),
        ("assert x is None or isinstance(x, int)", 0),
    ],
)
def test_that_rule_sees(code: str, count: int) -> None:
    assert len(list(works(ast.parse(code), {"end_id"}))) == count


def test_docstrings_are_used_in_one_place() -> None:
    """Where -OO is thought of."""
    users = [
        path.relative_to(SOURCES).as_posix()
        for path, tree in TREES.items()
        if any(isinstance(node, ast.Attribute) and node.attr == "__doc__" for node in ast.walk(tree))
    ]
    assert users == ["ksym/commands/parser.py"]


def same(*arguments: str, options: tuple[str, ...]) -> Result:
    """Run ksym with options of the interpreter and without; both must say the same, without a warning."""
    plain, result = ksym(*arguments), ksym(*arguments, python=options)
    assert result.err == plain.err
    assert _settled(result.out) == _settled(plain.out)
    assert result.status == plain.status
    return result


def _settled(text: str) -> str:
    """Without how many registers are free: others on this machine take and leave them."""
    return re.sub(r'"free_registers": \d+|\d+ (is|are) free', "free", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_without_docstrings(command: str) -> None:
    assert same(command, "--help", options=("-OO",)).out.count("\n") > 5


@pytest.mark.parametrize("options", [("-OO",), STRICT], ids=" ".join)
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["no-such-command"],
        ["resolve", "runqueues.nr_running", "task(1).comm", "printk:time"],
        ["resolve", "--json", "runqueues.nr_running"],
        ["resolve", "nosuch_variable_of_the_kernel"],
        ["resolve", "task(1).comm if new >"],
        ["report", "/etc/passwd"],
        ["trace", "printk:time", "--", "/no/such/program"],
    ],
    ids=" ".join,
)
def test_the_same_with_and_without(options: tuple[str, ...], arguments: list[str]) -> None:
    same(*arguments, options=options)


@pytest.mark.parametrize("options", [("-OO",), STRICT], ids=" ".join)
def test_doctor(options: tuple[str, ...]) -> None:
    """Registers that others hold come and go; what else it says stays."""

    def lines(result: Result) -> list[str]:
        return [line for line in result.out.splitlines() if "registers" not in line and "hit" not in line]

    plain, result = ksym("doctor"), ksym("doctor", python=options)
    assert lines(result) == lines(plain)
    assert (result.err, result.status) == (plain.err, plain.status)
    assert len(lines(plain)) > 5


def test_the_whole_help_comes_from_the_archive(tmp_path: Path) -> None:
    """In ksym.pyz a module's source is no file."""
    import subprocess
    import sys

    archive = tmp_path / "ksym.pyz"
    build = SOURCES.parent / "scripts" / "build-pyz"
    subprocess.run([sys.executable, str(build), str(archive)], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-OO", str(archive), "stat", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout == ksym("stat", "--help").out
