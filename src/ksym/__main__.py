# SPDX-License-Identifier: BSD-2-Clause
"""The program: picks the command, and is the one place that turns errors into words and statuses."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal imports enum: Ctrl-C would meanwhile end in a traceback
import sys


def _end_silently() -> None:
    """Until a command handles it, let Ctrl-C end the program without a word, also while it is still being imported."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # else it is ignored, as by nohup
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


# Other programs may import main(), and keep their handler.
if __name__ == "__main__" or (sys.argv[:1] and sys.argv[0].endswith("/ksym")):
    _end_silently()

import errno
import gc
import os
from collections.abc import Sequence
from typing import NoReturn

from ksym import __version__
from ksym.errors import SHORT_OF, KsymError, UsageError
from ksym.linux import streams
from ksym.linux.files import read_ahead
from ksym.linux.limits import LEAST_FILES, allow_files

# Only the chosen command's module is imported: the time from Enter to armed counts.
COMMANDS = {
    "trace": "live table, a row an access",
    "stat": "counts only, at the hardware's own cost",
    "record": "lossless recording that perf opens, too",
    "report": "who touches it: reads, writes, tasks, values, stacks",
    "script": "a recording's rows, in any of trace's formats",
    "export": "a recording for DuckDB, Spark, Perfetto, flame graphs",
    "mount": "the tracing directory: echo pid_max:rw- > ksym_trace_filter",
    "resolve": "what ksym knows about a name; plants nothing",
    "doctor": "what this machine can and cannot do, and why",
    "selftest": "plants watches, touches them, checks the exact counts",
    "demo": "a kernel variable, read and written while it is watched",
}

# The kernel takes as long to write its symbols out as Python does to load what these need.
_PLANTING = ("trace", "stat", "record")


def usage() -> str:
    """What ``ksym --help`` prints."""
    rows = "\n".join(f"  ksym {name:<9} {what}" for name, what in COMMANDS.items())
    return (
        "usage: ksym COMMAND ...\n\n"
        "Who reads or writes this variable?\n"
        "Hardware watchpoints on kernel and user variables, by name.\n\n"
        f"commands (ksym COMMAND --help tells more):\n{rows}\n\n"
        "examples:\n"
        "  ksym trace panic_timeout                every access to a kernel variable\n"
        "  ksym trace jiffies_64:-w- --limit 10    the next ten writes\n"
        "  ksym stat printk:time -I 1000           a module's parameter: hits a second\n"
        "  ksym trace 'task(1).comm' -g            a member of a task, with stacks\n"
        "  ksym trace ./prog:counter -- ./prog     a program's variable, from its start\n\n"
        "ksym --version says which this is.\n"
    )


def run() -> NoReturn:
    """The program's entry: `main`, then out at once.

    Everything that ksym holds is given back by then, so the interpreter's own clean-up would only cost time
    (a tenth of a short run); and so does its collector of cycles before there are many objects.
    """
    _end_silently()
    gc.set_threshold(200_000, 20, 20)
    stderr = streams.install()
    words = sys.argv[1:]
    if words and words[0] in _PLANTING and not any(map(_needs_no_symbols, words[1:])):
        read_ahead("/proc/kallsyms")
    status = main(words)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        status = status or KsymError.status
    sys.stderr.flush()
    # COMMAND's status is its own, also where only ksym's words about it were lost.
    if stderr.lost and not _runs_command(words):
        status = status or KsymError.status
    os._exit(status)


def _runs_command(words: Sequence[str]) -> bool:
    return "--" in words[:-1] and words[0] in _PLANTING


def main(argv: list[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        try:
            status = _dispatch(arguments)
        except SystemExit as end:  # argparse has printed the help
            status = int(end.code or 0)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        _drop_stdout()  # the reader has seen enough
        return 0
    except KsymError as error:
        return _failed(error)
    except OSError as error:
        # What ksym does to the machine explains its own refusals; what is left is writing to stdout.
        why = error.strerror or "it fails"
        if error.errno in SHORT_OF:
            return _failed(KsymError("cannot go on", *SHORT_OF[error.errno]))
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EBADF):
            return _failed(
                KsymError("ksym has failed", why, "this is a bug: report it with what KSYM_DEBUG=1 shows")
            )
        _drop_stdout()
        return _failed(KsymError("cannot write the output", why, "make room or send it elsewhere"))
    except MemoryError:
        return _failed(KsymError("cannot go on", *SHORT_OF[errno.ENOMEM]))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        return _failed(
            KsymError("ksym has failed", what, "this is a bug: report it with what KSYM_DEBUG=1 shows")
        )


def _drop_stdout() -> None:
    """Python would complain again when it flushes stdout at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _failed(error: KsymError) -> int:
    if os.environ.get("KSYM_DEBUG") == "1":
        import traceback

        traceback.print_exc()
    else:
        _tell(error)
    return error.status


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        print(usage(), end="", file=sys.stderr)
        return UsageError.status
    if arguments[0] == "help":
        arguments = [*arguments[1:2], "--help"]
    if arguments[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"ksym {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name.startswith("-"):
        raise _before_the_command(arguments)
    if name not in COMMANDS:
        from ksym.symbols.nearest import suggestion

        hint = suggestion(name, COMMANDS) or "see ksym --help"
        raise UsageError("cannot read the command line", f"there is no command {name!r}", hint)
    from importlib import import_module

    from ksym.commands.parser import parse

    module = import_module(f"ksym.commands.{name}")
    args = parse(name, module, rest)
    allow_files(LEAST_FILES)
    return int(module.run(args))


def _before_the_command(arguments: list[str]) -> UsageError:
    """Return the error for options before the command, as git and perf take them."""
    at = next((at for at, each in enumerate(arguments) if each in COMMANDS), None)
    if at is None:
        why, todo = f"unknown option {arguments[0]}", "see ksym --help"
    else:
        import shlex

        why = f"option {arguments[0]} stands before the command {arguments[at]}"
        todo = f"run `ksym {shlex.join([arguments[at], *arguments[:at], *arguments[at + 1 :]])}`"
    return UsageError("cannot read the command line", why, todo)


def _needs_no_symbols(word: str) -> bool:
    """Whether a word of the command line has the kernel's symbols not looked up: a guess, for speed alone.

    It is a variable of user space (PATH:VARIABLE, or -p), an address, or a call for help.
    """
    return ("/" in word and ":" in word) or word.startswith(("-p", "--pid", "0x", "-h", "--h"))


def _tell(error: KsymError) -> None:
    """One line; on a terminal also the request, with a caret under the place."""
    from ksym.views.text import printable

    print(f"ksym: {printable(error.line())}", file=sys.stderr)
    if error.place is not None and sys.stderr.isatty():
        print("\n".join(map(printable, error.place.caret().split("\n"))), file=sys.stderr)


if __name__ == "__main__":
    run()
