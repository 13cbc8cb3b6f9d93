# SPDX-License-Identifier: BSD-2-Clause
"""Command lines: argparse, with errors in ksym's own form and COMMAND behind ``--`` kept apart."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from ksym.errors import UsageError
from ksym.linux.cpus import parse_cpus

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

_MOST_DIGITS = 18
_FOREIGN_OPTIONS = {
    **dict.fromkeys(("-e", "--event"), "leave it out, REQUEST stands by itself"),
    **dict.fromkeys(("-a", "--all-cpus"), "leave it out, all CPUs are watched without -C"),
    **dict.fromkeys(("-t", "--tid"), "write --if 'tid == TID'"),
    **dict.fromkeys(("-u", "--uid", "--filter"), "write --if CONDITION, as in --if 'pid == 1'"),
    **dict.fromkeys(("-c", "-n", "--count"), "to end after N accesses write --limit N"),
    "--call-graph": "write -g",
    **dict.fromkeys(("-i", "--input"), "leave it out, FILE stands by itself"),
}
"""Options of perf, trace-cmd and BCC's tools that ksym's commands lack, and what to do instead."""


class _Formatter(argparse.HelpFormatter):
    """As wide as the terminal, up to 100 columns; 80 where there is none.

    Left to itself argparse imports shutil to ask for the width, whether help is wanted or not.
    """

    def __init__(self, prog: str) -> None:
        try:
            columns = os.get_terminal_size(1).columns
        except OSError:
            columns = 80
        super().__init__(prog, width=max(60, min(columns, 100)) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """A description: its paragraphs fill the lines, but for examples, which are indented."""
        return "\n\n".join(
            paragraph
            if paragraph.startswith(" ")
            else super(_Formatter, self)._fill_text(paragraph, width, indent)
            for paragraph in text.split("\n\n")
        )


class Parser(argparse.ArgumentParser):
    """Raises instead of printing and leaving."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """See argparse, which passes over what cannot be written."""
        if message:
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        """See argparse.

        Raises:
            UsageError: always.
        """
        word = message.removeprefix("unrecognized arguments: ").partition(" ")[0]
        if word != message.partition(" ")[0] and word in _FOREIGN_OPTIONS:
            message, todo = f"unknown option {word}", _FOREIGN_OPTIONS[word]
        elif word != message.partition(" ")[0] and not word.strip("rwx-"):
            message, todo = f"{word} stands apart", "put ACCESS right after the variable, as in pid_max:-w-"
        else:
            todo = f"see {self.prog} --help"
        raise UsageError("cannot read the command line", message, todo)


def parse(name: str, module: ModuleType, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the words behind ``ksym NAME``; those behind ``--`` become ``args.command``.

    Raises:
        UsageError: they make no sense.
    """
    words = list(arguments)
    command: list[str] = []
    takes_command = getattr(module, "TAKES_COMMAND", False)
    if takes_command and "--" in words:
        at = words.index("--")
        words, command = words[:at], words[at + 1 :]
        if not command:
            raise UsageError("cannot read the command line", "nothing follows --", "name a COMMAND after it")
        if command[0].startswith("-"):
            why = f"{command[0]} after -- is taken for COMMAND"
            raise UsageError("cannot read the command line", why, "put options before --")
    parser = make_parser(name, module)
    try:
        args = parser.parse_intermixed_args(words)
    except UsageError:
        if takes_command and not command:
            from ksym.runs.slips import missing_dashes

            if (error := missing_dashes([word for word in words if "/" in word])) is not None:
                raise error from None
        raise
    args.command = command
    return args


def make_parser(name: str, module: ModuleType) -> Parser:
    """The parser of one command; its help text is the module's docstring."""
    description = _docstring(module).strip()
    parser = Parser(
        prog=f"ksym {name}",
        description=description,
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser._positionals.title = "arguments"
    parser.add_argument("-h", "--help", action="help", help="show this and leave")
    if getattr(module, "TAKES_COMMAND", False):
        parser.usage = f"ksym {name} [OPTION...] REQUEST... [-- COMMAND [ARGUMENT...]]"
    module.prepare_parser(parser)
    return parser


def _docstring(module: ModuleType) -> str:
    """The module's docstring, from its source where python -OO has dropped it."""
    if module.__doc__ is not None:
        return module.__doc__
    import ast
    import linecache

    # Which asks the module's loader, as the source may lie in ksym.pyz.
    lines = linecache.getlines(module.__file__ or "", vars(module))
    return ast.get_docstring(ast.parse("".join(lines)), clean=False) or ""


def add_vmlinux(parser: argparse.ArgumentParser) -> None:
    """``--vmlinux``: names and types that kallsyms and BTF lack."""
    parser.add_argument(
        "--vmlinux",
        metavar="FILE",
        help="vmlinux or System.map of this kernel, for names, sizes, types",
    )


def add_no_fold(parser: argparse.ArgumentParser) -> None:
    """``--no-fold``: a row of the table for each access."""
    parser.add_argument(
        "--no-fold", action="store_true",
        help="in the table, do not show consecutive rows that are equal in everything but TIME as one (x8)",
    )  # fmt: skip


def positive(text: str) -> int:
    """A whole number from 1 on; not more than the kernel can count up to, and a float can hold."""
    if not text.isascii() or not text.isdigit() or not text.strip("0"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    if len(text) > _MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"'{text}' is too large; at most {_MOST_DIGITS} digits are taken")
    return int(text)


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds above 0")
    return value


def percent(text: str) -> float:
    """A share above 0 and up to 100; 0 for ``off``."""
    try:
        value = 0.0 if text == "off" else float(text.removesuffix("%"))
    except ValueError:
        value = -1
    if text != "off" and not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a percentage up to 100 nor off")
    return value


def pid_list(text: str) -> tuple[int, ...]:
    """A list of PIDs like ``4711,4712``."""
    try:
        return tuple(positive(each.strip()) for each in text.split(","))
    except argparse.ArgumentTypeError as error:
        if "," not in text:
            raise
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of PIDs like 4711,4712") from error


def cpu_list(text: str) -> tuple[int, ...]:
    """A list of CPUs like ``0-3,8``."""
    try:
        cpus = tuple(parse_cpus(text))
    except ValueError:
        cpus = ()
    if not cpus:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of CPUs like 0-3,8")
    return cpus
