# SPDX-License-Identifier: BSD-2-Clause
"""The keeper: the process that holds others for `watch.holding.Holder` and answers for them.

It has two ways. With privileges, programs in the kernel hold (`watch.hold_probes`): nobody is traced for longer than
a hold, so COMMAND may trace, and setuid programs keep their privileges. Without, the keeper traces COMMAND and all
that it starts (`watch.hold_tracing`).

Messages to ksym: ``waiting`` with the descriptor of a map (see `watch.hold_release`), ``ready`` or
``tracing WHY; WHAT TO DO`` or ``refused WHY; WHAT TO DO``, then ``held PID``, ``gone PID``, ``note TEXT``,
``warning TEXT``, ``tracer PATH`` and ``unmapped PID NUMBER`` (of the wanted file). From ksym: ``release PID``; the
end of the connection ends the keeper, and everything goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from collections.abc import Sequence
from typing import NoReturn

from ksym.errors import SHORT_OF
from ksym.symbols.wanted import Wanted
from ksym.watch.hold_way import LONGEST, Refused, Voice, Way

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGPIPE)
"""A terminal sends some to the whole foreground: the keeper ends with ksym, not before it."""


def keep(connection: socket.socket, wanted: Wanted, pids: Sequence[int], *, tree: bool) -> NoReturn:
    """Be the keeper, in a process forked for it.

    Args:
        connection: To ksym.
        wanted: See Holder.
        pids: See Holder.
        tree: See Holder.
    """
    voice = Voice(connection)
    try:
        _leave_the_rest(connection)
        way = _choose(wanted, pids, voice, tree=tree)
        try:
            _serve(connection, way)
        finally:
            way.close()
    except Refused as refused:
        voice.say(f"refused {refused.why}; {refused.todo}")
    except BaseException as error:  # the keeper must never return into ksym's code
        voice.say(f"refused {'; '.join(_explained(error))}")
        if os.environ.get("KSYM_DEBUG"):
            import traceback

            traceback.print_exc()
    finally:
        os._exit(0)


def _explained(error: BaseException) -> tuple[str, str]:
    """Return why the keeper failed, and what to do, if ksym knows."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    return SHORT_OF.get(number or 0, (f"{type(error).__name__}: {error}", ""))


def _leave_the_rest(connection: socket.socket) -> None:
    """Keep nothing of ksym's open: its pipes end with it, and its registers come back."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1) if os.environ.get("KSYM_DEBUG") else (0, 1, 2):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != connection.fileno():
            with contextlib.suppress(OSError):
                os.close(int(name))


def _choose(wanted: Wanted, pids: Sequence[int], voice: Voice, *, tree: bool) -> Way:
    from ksym.watch.hold_probes import Probes

    try:
        probes = Probes(wanted, pids, voice, tree=tree)
    except Refused as refused:
        if not tree:
            raise
        why = f"{refused.why}; {refused.todo}"
    else:
        voice.say("ready")
        return probes
    from ksym.watch.hold_tracing import Tracing

    tracing = Tracing(wanted, pids[0], voice)
    voice.say(f"tracing {why}")
    return tracing


def _serve(connection: socket.socket, way: Way) -> None:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.register(way, select.POLLIN)
    # The connection ends with ksym, unless a process that another thread of it has just forked holds a copy of its end.
    ksym = -1
    with contextlib.suppress(OSError):  # pidfd_open(2) came in 5.3; the parent may be gone already
        ksym = os.pidfd_open(os.getppid())
        poll.register(ksym, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if ksym in ready:
            return
        if way.fileno() in ready:
            way.turn()
        if connection.fileno() in ready:
            message = connection.recv(LONGEST).decode()
            if not message:
                return
            way.release(int(message.partition(" ")[2]))
