# SPDX-License-Identifier: BSD-2-Clause
"""The docs against the program: command lines parse, links lead somewhere, no option is left out."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ksym.__main__ import COMMANDS, main
from ksym.commands.parser import make_parser, parse
from ksym.errors import KsymError
from ksym.language import parse_request
from ksym.language.request_set import RequestSet

TREE = Path(__file__).resolve().parents[2]
PAGES = [TREE / "README.md", TREE / "CHANGELOG.md", *sorted((TREE / "docs").glob("*.md"))]
COMMAND_LINE = re.compile(r"^\s*(?P<prompt>\$ )?(?:sudo )?(?:\S*/)?ksym (?P<words>[a-z]+(?: .*)?)$")
# What a run says of a command line or request that it cannot read.
REFUSAL = re.compile(r"^ksym: (cannot read |cannot add request )")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


def blocks(text: str) -> list[list[str]]:
    """The lines of each code block: fenced, or indented by four behind an empty line."""
    found: list[list[str]] = []
    fence: list[str] | None = None
    before = ""
    for line in text.splitlines():
        if line.startswith("```"):
            if fence is None:
                fence = []
            else:
                found.append(fence)
                fence = None
        elif fence is not None:
            fence.append(line)
        elif line.startswith("    ") and (not before or before.startswith("    ")):
            if not before:
                found.append([])
            found[-1].append(line[4:])
        before = line
    return found


def shown(page: Path) -> list[tuple[str, str | None]]:
    """Each command line of a page, and the refusal that is shown under it."""
    found = []
    for lines in blocks(page.read_text()):
        session = any(line.startswith("$ ") for line in lines)
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            match = COMMAND_LINE.match(line)
            # A synopsis is no command line, nor is output that begins with the program's name.
            if match and (match["prompt"] or not session) and "..." not in match["words"]:
                found.append((match["words"], following if REFUSAL.match(following) else None))
    return found


def words_of(line: str) -> list[str]:
    """The words of a shell's command line, up to a comment, a pipe, a redirection or the next command."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            break
        words.append(word)
    return words


def read(words: list[str]) -> None:
    """Read a command line as the program does, short of looking anything up."""
    name, *rest = words
    assert name in COMMANDS
    args = parse(name, importlib.import_module(f"ksym.commands.{name}"), rest)
    requests = RequestSet()
    for text in getattr(args, "requests", ()):
        requests.add(parse_request(text))


LINES = [
    pytest.param(line, refusal, id=f"{page.name}: {line}") for page in PAGES for line, refusal in shown(page)
]


def test_command_lines_are_found() -> None:
    assert len(LINES) > 30


@pytest.mark.parametrize(("line", "refusal"), LINES)
def test_command_line(line: str, refusal: str | None) -> None:
    words = words_of(line)
    if refusal is None:
        read(words)
        return
    with pytest.raises(KsymError) as raised:
        read(words)
    assert f"ksym: {raised.value.line()}" == refusal


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for match in LINK.finditer(page.read_text()):
        target, _, anchor = match["target"].partition("#")
        if "://" in target:
            continue
        there = page.parent / target if target else page
        assert there.exists(), f"{page.name}: {match['target']}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {match['target']}"


def options(name: str) -> list[argparse.Action]:
    module = importlib.import_module(f"ksym.commands.{name}")
    return [action for action in make_parser(name, module)._actions if action.dest != "help"]


def mentioned(text: str) -> set[str]:
    """The options that a text names in backquotes, as ``-p PID``."""
    return {
        word for code in re.findall(r"`([^`\n]+)`", text) for word in code.split() if word.startswith("-")
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_page_of_a_command(name: str) -> None:
    """It has a page, which the index, the README and the man page know; all options are in it and no others."""
    page = TREE / "docs" / f"{name}.md"
    text = page.read_text()
    assert f"]({name}.md)" in (TREE / "docs/index.md").read_text()
    assert re.search(rf"\bksym {name}\b", text)
    known = {option for action in options(name) for option in action.option_strings}
    missing = known - mentioned(text)
    assert not missing, f"docs/{name}.md lacks {missing}"
    table = "\n".join(line.split("|")[1] for line in text.splitlines() if re.match(r"\| `--?[a-zA-Z]", line))
    assert mentioned(table) <= known, f"docs/{name}.md: there are no {mentioned(table) - known}"
    for action in options(name):
        if not action.option_strings:
            assert str(action.metavar) in text


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_fits_a_narrow_terminal(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main([*words, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: ksym {' '.join(words)}")
    assert max(map(len, shown.splitlines())) <= 80
    with contextlib.suppress(SystemExit):
        main(["help", *words])
    assert capsys.readouterr().out == shown


def test_man_page(tmp_path: Path) -> None:
    target = tmp_path / "ksym.1"
    subprocess.run(
        [sys.executable, TREE / "scripts/build-man", target], check=True, stdout=subprocess.DEVNULL
    )
    text = target.read_text().replace("\\-", "-")
    for name in COMMANDS:
        assert f".SS ksym {name}\n" in text
        for action in options(name):
            assert all(option in text for option in action.option_strings)
    # A line that began with a dot or quote of the text would be a request to roff.
    assert all(
        re.match(r"\.(TH|SH|SS|TP|PP|BR?|RI|I|br|nf|fi)\b", line)
        for line in text.splitlines()
        if line[:1] in ".'"
    )
