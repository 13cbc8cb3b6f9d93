# SPDX-License-Identifier: BSD-2-Clause
"""The options that trace, stat and record share."""

from __future__ import annotations

import argparse

from ksym.commands.parser import add_vmlinux, cpu_list, percent, pid_list, seconds
from ksym.linux.files import find_program
from ksym.runs.planting import TWINS
from ksym.runs.session import Asked
from ksym.views.target import check_apart


def add_run_options(
    parser: argparse.ArgumentParser, *, verbose: str, lacks: str = "no values, no conditions on them"
) -> None:
    """The options that trace, stat and record share.

    Args:
        parser: The command's.
        verbose: What ``-v`` does.
        lacks: What there is not with ``--no-bpf``.
    """
    parser.add_argument("requests", nargs="+", metavar="REQUEST", help="TARGET[:ACCESS], e.g. pid_max:rw-")
    parser.add_argument(
        "-p", "--pid", dest="pids", type=pid_list, action="extend", default=[], metavar="PID[,PID]",
        help="these processes: all their threads, and those to come; may be given several times",
    )  # fmt: skip
    parser.add_argument("-C", "--cpus", type=cpu_list, metavar="CPUS", help="these CPUs only, e.g. 0-3,8")
    parser.add_argument(
        "--if",
        dest="condition",
        metavar="CONDITION",
        help="keep accesses for which this holds, e.g. 'new > 100 && comm == \"sshd\"'; for every request",
    )
    parser.add_argument(
        "--kernel-accesses", action="store_true",
        help="count a user variable's accesses made by the kernel, too (read(2) into it)",
    )  # fmt: skip
    parser.add_argument("--duration", type=seconds, metavar="SECONDS", help="end after so long")
    parser.add_argument(
        "--twin", choices=TWINS, default="auto",
        help="a second register for each piece of rw- tells reads from writes (default: where they are free)",
    )  # fmt: skip
    parser.add_argument("--no-bpf", action="store_true", help=f"plain perf events only: {lacks}")
    parser.add_argument(
        "--guard", type=percent, metavar="PERCENT|off",
        help="disarm a watch whose hits take more of a CPU's time (default: 25, for kernel variables without -p)",
    )  # fmt: skip
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="no header, and no remarks but the summary"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help=verbose)
    add_vmlinux(parser)


def asked(args: argparse.Namespace) -> Asked:
    """What they ask to watch."""
    return Asked(
        args.requests,
        args.condition,
        tuple(dict.fromkeys(args.pids)),
        args.cpus,
        args.command,
        args.kernel_accesses,
        args.duration,
        args.vmlinux,
    )


def check_output(args: argparse.Namespace) -> None:
    """Refuse an output file that is also read or run.

    Raises:
        KsymError: ``-o`` names COMMAND's program, the program of a request or the file of --vmlinux.
    """
    if args.output is None:
        return
    programs = [request.partition(":")[0] for request in args.requests if "/" in request]
    command = find_program(args.command[0]) if args.command else None
    for path in (command, args.vmlinux, *programs):
        if path:
            check_apart(path, args.output)
