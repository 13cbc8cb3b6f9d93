# SPDX-License-Identifier: BSD-2-Clause
"""Watch a real kernel variable of this machine while a shell reads it and writes the same value back.

Takes nothing, changes nothing, and ends by itself.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import closing

from ksym.capture.access import Access
from ksym.commands import trace
from ksym.commands.parser import parse
from ksym.commands.run_options import asked
from ksym.commands.samples import PARAMETERS, SYSCTLS, find_sample
from ksym.errors import KsymError
from ksym.program.wants import Sink, Wants
from ksym.runs.planting import Planting
from ksym.runs.session import open_session
from ksym.views.output import Output
from ksym.views.table import Table
from ksym.views.text import printable
from ksym.watch.arm import Options


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """There are no options."""


class _Remember(Table):
    """The live table, which also keeps who touched the variable."""

    seen: Counter[tuple[str, str, str, str]]

    def row(self, access: Access) -> str:
        """See Rows."""
        instruction = access.site.instruction.text if access.site.instruction else ""
        self.seen[access.comm, access.access, str(access.site.named), instruction] += 1
        return super().row(access)


def run(args: argparse.Namespace) -> int:
    """Run the demonstration."""
    sample = find_sample((*SYSCTLS, *PARAMETERS))
    script = f"{{ {sample.script}; cat {sample.file}; }} > /dev/null"
    print(f"ksym watches {sample.request}, a variable of this machine's kernel, while a shell runs:")
    print(
        f"  $ cat {sample.file}; echo {sample.file.read_text().strip()} > {sample.file}; cat {sample.file}\n"
    )
    sys.stdout.flush()
    options = parse("trace", trace, [sample.request, "--", "sh", "-c", script])
    with (
        open_session(asked(options), Planting(Options(), Wants(Sink.RECORD))) as session,
        closing(Output(None)) as output,
    ):
        variable = session.plan.watches[0].variable
        table = _Remember(session.plan.watches)
        table.seen = Counter()
        live = trace.Trace(session, output, table)
        with closing(live):
            live.follow(table.header())
            tally = live.tally(live.remarks())
        session.status()
        if live.failure:
            raise live.failure
    print(f"\nwho touched {sample.request} ({variable.length} bytes at {variable.address:#x}):\n")
    print(f"{'TIMES':>7}  {'TYPE':<5} {'TASK':<15} FUNCTION")
    for (comm, access, function, instruction), count in table.seen.most_common():
        shown = f"{function}  {{{instruction}}}" if instruction else function
        print(f"{count:7}  {access:<5} {printable(comm):<15} {printable(shown)}")
    print(f"\ntry:  ksym trace {sample.request} -g     ksym stat {sample.request} -I 1000     ksym doctor")
    sys.stdout.flush()
    print("\n".join(tally.lines()), file=sys.stderr)
    if not table.seen:
        raise KsymError(
            "the demonstration saw nothing",
            "the hardware did not trap",
            "ask `ksym doctor` and `ksym selftest`",
        )
    return 0
