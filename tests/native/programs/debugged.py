# SPDX-License-Identifier: BSD-2-Clause
"""A program under gdb, which runs with gdb's watchpoints on some of its variables."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from synthetic.compile import build, need

TARGET = r"""
#include <stdio.h>
volatile long a, b, c, d, e;
#define ADD_ONE(what) __asm__ volatile("incq %0" : "+m"(what))
__attribute__((noinline)) void touch(void) { ADD_ONE(a); ADD_ONE(b); ADD_ONE(c); ADD_ONE(d); ADD_ONE(e); }
__attribute__((noinline)) void ready(void) { __asm__ volatile(""); }
int main(void) {
    char line[64];
    setvbuf(stdout, 0, _IOLBF, 0);
    ready();
    printf("waiting\n");
    while (fgets(line, sizeof line, stdin)) {
        touch();
        printf("touched\n");
    }
    return 0;
}
"""
"""Adds one to each of its variables for each line of its stdin."""


def build_target(folder: Path) -> Path:
    """``target``, with symbols."""
    return build(folder, "target", TARGET, "-g", "-O1", "-no-pie")


class Debugged:
    """The program waits for its first line, unless gdb could not plant its watchpoints, which ends both.

    Args:
        target: The program.
        variables: Names of those that gdb watches; it tells of each change and lets the program go on.
    """

    def __init__(self, target: Path, variables: Sequence[str]) -> None:
        need("gdb")
        script = ["set pagination off", "set confirm off", "break ready", "run"]
        for name in variables:
            tell = f'printf "gdb {name} %ld\\n", {name}'
            script += [f"watch {name}", "commands", "silent", tell, "continue", "end"]
        script += ["python print(f'inferior {gdb.selected_inferior().pid}', flush=True)", "continue"]
        file = target.parent / "script.gdb"
        file.write_text("\n".join([*script, ""]))
        self._process = subprocess.Popen(
            ["gdb", "-q", "-nx", "-batch", "-x", str(file), str(target)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
        )  # fmt: skip
        self.gdb_pid = self._process.pid
        self.pid = 0
        """The program's."""
        self.touched = 0
        self._said: list[str] = []
        self._until("waiting")

    def _until(self, word: str) -> None:
        """Read what gdb and the program say, up to this line or the end."""
        assert self._process.stdout is not None
        while True:
            assert select.select([self._process.stdout], [], [], 60)[0], self._said
            line = self._process.stdout.readline().decode()
            self._said.append(line)
            if line.startswith("inferior "):
                self.pid = int(line.split()[1])
            if line in ("", f"{word}\n"):
                return

    def touch(self) -> None:
        """Have it touch its variables once."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self.touched += 1
        self._until("touched")

    def changes(self) -> list[str]:
        """What gdb has told of: name and value."""
        return [line.removeprefix("gdb ").rstrip("\n") for line in self._said if line.startswith("gdb ")]

    def end(self) -> str:
        """Let it end; all that was said."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._until("")
        self._process.wait(60)
        return "".join(self._said)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.end()
