# SPDX-License-Identifier: BSD-2-Clause
"""The runs that are killed: every command, in each of its ways that holds something or writes something."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

LINES = r"""
trace -o rows KERNEL ./busy:counter -- BUSY
trace -g --format json -o rows ./busy:counter -- sh -c 'echo > sh.started; BUSY'
trace --twin on KERNEL ./busy:counter -- BUSY
trace --twin on --format csv -p PID KERNEL ./busy:counter
trace --no-bpf --limit 300 ./busy:counter -- BUSY
trace --on-hit stop --limit 3 ./busy:counter:-w- -- BUSY
trace --on-hit 'exec cat > /dev/null' ./busy:counter:-w- -- BUSY
stat KERNEL ./busy:counter -- BUSY
stat --by function,task ./busy:counter -- sh -c 'echo > sh.started; BUSY'
stat -I 20 -p PID ./busy:counter KERNEL
stat --limit 900 --if 'new > 5' ./busy:counter:-w- -- BUSY
record -o x.data ./busy:counter KERNEL -- BUSY
record -g -o x.data ./busy:counter -- sh -c 'echo > sh.started; BUSY'
record -z --flush-ms 5 -o x.data KERNEL ./busy:counter -- BUSY
record -f --no-bpf --twin off -p PID -o x.data ./busy:counter
record --max-size 1M --flush-ms 5 -o x.data ./busy:counter -- FAST
record -f --max-size 1M -z --flush-ms 5 -o x.data ./busy:counter -- FAST
record --limit 500 -o x.data ./busy:counter -- BUSY
report DATA
report --json DATA
report --html out DATA
script -o out DATA
script -f --format json -o out DATA
export --to parquet -o out DATA
export --to perfetto -f -o out DATA
export --to folded -o out DATA
export --to speedscope -o out DATA
export --to csv -f -o out DATA
export --to jsonl -o out DATA
resolve KERNEL ./busy:counter -p PID
doctor
selftest
demo
mount at
mount --daemon at
mount --no-bpf at
"""
PLACES = {"BUSY": "./busy 1500 100 KERNEL_FILE", "FAST": "./busy 20000 0 KERNEL_FILE"}


@dataclass(frozen=True)
class Case:
    """One run.

    Args:
        words: ksym's arguments; KERNEL, KERNEL_FILE, PID and DATA in them stand for what the run is given.
    """

    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)

    @property
    def verb(self) -> str:
        """The command of ksym's."""
        return self.words[0]

    @property
    def beside(self) -> bool:
        """Whether the watched program runs beside ksym, started by somebody else."""
        return "PID" in self.words

    @property
    def has_command(self) -> bool:
        """Whether ksym starts the watched program."""
        return "--" in self.words

    @property
    def stops(self) -> bool:
        """Whether hits stop the program, which is then for somebody to let go on."""
        return "stop" in self.words

    @property
    def daemon(self) -> bool:
        """Whether it goes into the background."""
        return "--daemon" in self.words

    @property
    def forced(self) -> bool:
        """Whether it may overwrite what is there."""
        return "-f" in self.words

    @property
    def rotates(self) -> bool:
        """Whether a recording has two files."""
        return "--max-size" in self.words

    @property
    def makes_file(self) -> bool:
        """Whether it writes ``out``, whole or not at all."""
        return "out" in self.words

    def arguments(self, values: dict[str, str]) -> list[str]:
        """The words, with ``values`` in the place of their names."""
        found = []
        for word in self.words:
            for name, value in values.items():
                word = word.replace(name, value)
            found.append(word)
        return found


def cases() -> list[Case]:
    """All of them."""
    found = []
    for line in LINES.strip().splitlines():
        for name, words in PLACES.items():
            line = line.replace(name, words)
        found.append(Case(tuple(shlex.split(line))))
    return found
