# SPDX-License-Identifier: BSD-2-Clause
"""What the files of a tracing directory are for: its ``README`` and its man page."""

from __future__ import annotations

import textwrap

TITLE = "Who reads or writes this variable? ksym's tracing directory, after ftrace's ksym_tracer of 2.6.33 to 2.6.35."

EXAMPLES = (
    ("echo pid_max:rw- > ksym_trace_filter", "watch a kernel variable"),
    ("cat trace", "see who touched it"),
    ("echo pid_max:-w- > ksym_trace_filter", "only writes, from now on"),
    ("echo pid_max:--- > ksym_trace_filter", "watch it no more"),
)

FILES = {
    "ksym_trace_filter": "one request a line, NAME:ACCESS [if CONDITION]; ACCESS is rw-, -w-, r--, --x, or --- to "
    "clear; 0, *:--- or an empty write clears all; read back newest first",
    "ksym_profile": "hits of each, as counted by the hardware's own counters",
    "trace": "what was caught and not consumed; writing to it empties it",
    "trace_pipe": "the same as it comes; what is read is consumed",
    "tracing_on": "0 or 1",
    "available_tracers": "what current_tracer can be",
    "current_tracer": "ksym_tracer, or nop: nothing is recorded, the filters stay",
    "buffer_size_kb": "for each CPU; the oldest entries make room for new ones",
    "trace_options": "an option a line; no in front turns one off",
    "trace_marker": "what is written stands in the trace among the accesses",
    "error_log": "why a write failed, with a caret under the place",
    "per_cpu/cpuN/trace": "one CPU's part",
    "instances/": "mkdir makes another set of filters with a buffer of its own, rmdir removes it",
    "README": "what the files are for",
}

OPTIONS = {
    "values": "rows of 2.6.35's table end in what the variable held and holds",
    "stacktrace": "call chains behind each row",
    "twin": "a second register tells reads from writes, where one is free; on at first",
    "ksym-format": "2.6.35's table, byte for byte; off: that of ksym trace; on at first",
}

ERRORS = {
    "EINVAL": "the request, the number or the name is wrong, is there already, or is not there to be cleared",
    "ENOSPC": "not enough registers are free",
    "EPERM": "privileges, lockdown or the kernel's configuration are in the way",
    "EBUSY": "trace_pipe has a reader already; an instance whose files are open cannot be removed",
    "ENOMEM": "a buffer that would not fit into half of the memory that is free",
    "ENODEV": "the instance was removed",
    "EBADF": "trace_marker while tracing_on is 0",
    "EACCES": "the file cannot be read, or cannot be written; or the user is not root",
}


def _table(rows: dict[str, str]) -> str:
    width = max(map(len, rows)) + 2
    return "".join(
        textwrap.fill(text, 118, initial_indent=f"{name:<{width}}", subsequent_indent=" " * width) + "\n"
        for name, text in rows.items()
    )


def _readme() -> str:
    width = max(len(line) for line, _ in EXAMPLES) + 4
    examples = "".join(f"  # {line:<{width}}{what}\n" for line, what in EXAMPLES)
    return "\n".join(
        (
            f"{TITLE}\n",
            examples,
            _table(FILES),
            f"trace_options:\n{_table(OPTIONS)}",
            f"What a failed write gives:\n{_table(ERRORS)}",
        )
    )


README = _readme()
