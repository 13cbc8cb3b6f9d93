# SPDX-License-Identifier: BSD-2-Clause
"""Tell what this machine can and cannot do, each refusal with its cause and its cure.

Every line is tried, not guessed: registers are taken and given back, memory is read, files are opened.
The exit status is 1 where something that should work does not.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ksym.commands import checks
from ksym.commands.findings import BROKEN, LIMITED, OK, Finding
from ksym.commands.parser import add_vmlinux
from ksym.symbols.kernel import Kernel
from ksym.views.text import as_json, printable

_MARKS = {OK: "ok", LIMITED: "limited", BROKEN: "NO"}


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="an object a line")
    add_vmlinux(parser)


def run(args: argparse.Namespace) -> int:
    """Try everything and print it."""
    findings = checks.examine(Kernel(args.vmlinux))
    if args.json:
        for finding in findings:
            print(as_json(asdict(finding)))
    else:
        print(checks.machine())
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            print(f"{_MARKS[finding.state]:<8} {finding.what:<{width}}  {printable(finding.found)}")
            if finding.cure:
                print(f"{'':<8} {'':<{width}}  -> {printable(finding.cure)}")
        print(_verdict(findings))
    return 1 if any(finding.state == BROKEN for finding in findings) else 0


def _verdict(findings: list[Finding]) -> str:
    broken = [finding.what for finding in findings if finding.state == BROKEN]
    if broken:
        return f"does not work here: {', '.join(broken)}"
    limited = sum(finding.state == LIMITED for finding in findings)
    if limited:
        return f"everything that must work here does; {limited} limit{'' if limited == 1 else 's'}"
    return "everything works here"
