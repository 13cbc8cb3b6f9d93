# SPDX-License-Identifier: BSD-2-Clause
"""Runs ksym again and again with less and less of something, each time in a forked child: no start-up in between.

Arguments: what (NOFILE, AS, MEMLOCK), the limits as JSON (for AS: bytes more than what is there), and the words of a
run. Prints a line of JSON for each limit: [limit, status, stderr].
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile

from ksym.__main__ import main


def run(words: list[str], what: str, limit: int) -> tuple[int, str]:
    """Status and stderr of one run."""
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if pid == 0:
            os.dup2(said.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.closerange(3, 64)
            resource.setrlimit(getattr(resource, f"RLIMIT_{what}"), (limit, limit))
            status = main(words)
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        return status, said.read().decode()


def size() -> int:
    """Bytes of address space that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    what, limits, words = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
    # What a run imports, the children have.
    shown, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    main(words)
    os.dup2(shown, 1)
    os.close(shown)
    os.close(null)
    base = size() if what == "AS" else 0
    for limit in limits:
        print(json.dumps([limit, *run(words, what, base + limit)]), flush=True)
