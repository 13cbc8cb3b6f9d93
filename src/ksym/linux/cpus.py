# SPDX-License-Identifier: BSD-2-Clause
"""Which CPUs there are, and word of those that come and go."""

from __future__ import annotations

import socket

from ksym.linux.files import read_text

_SYS = "/sys/devices/system/cpu"
_NETLINK_KOBJECT_UEVENT = 15  # linux/netlink.h


def parse_cpus(text: str) -> list[int]:
    """Parse the kernel's list format, ``0-3,8``.

    Raises:
        ValueError: the text is not such a list.
    """
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        if not dash:
            last = first
        if not (first + last).isascii() or not first.isdigit() or not last.isdigit():
            raise ValueError(f"no CPU list: {text.strip()!r}")
        low, high = int(first), int(last)
        if high < low or high > 1 << 16:
            raise ValueError(f"no CPU list: {text.strip()!r}")
        cpus.update(range(low, high + 1))
    return sorted(cpus)


def online_cpus() -> list[int]:
    """The CPUs that run now."""
    return parse_cpus(read_text(f"{_SYS}/online"))


def possible_cpus() -> list[int]:
    """The CPUs that could ever run: those with a copy of each per-CPU variable."""
    return parse_cpus(read_text(f"{_SYS}/possible"))


class CpuEvents:
    """The kernel's uevents about CPUs, as a pollable socket; it wakes for those of modules and devices, too.

    ``online@/devices/system/cpu/cpu1`` and ``offline@...`` are sent by drivers/base/core.c to the
    multicast group 1 of NETLINK_KOBJECT_UEVENT.

    Raises:
        OSError: no such socket may be opened here.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            _NETLINK_KOBJECT_UEVENT,
        )
        try:
            self._socket.bind((0, 1))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._socket.fileno()

    def take(self) -> list[tuple[str, int]]:
        """Consume what has arrived: (``online`` or ``offline``, CPU) in order.

        Where messages were dropped (ENOBUFS), what is online now stands for them.
        """
        found: list[tuple[str, int]] = []
        while True:
            try:
                message = self._socket.recv(8192)
            except BlockingIOError:
                return found
            except OSError:
                now = set(online_cpus())
                found += [("online" if cpu in now else "offline", cpu) for cpu in possible_cpus()]
                continue
            action, _, path = message.partition(b"\0")[0].partition(b"@/devices/system/cpu/cpu")
            if action in (b"online", b"offline") and path.isdigit():
                found.append((action.decode(), int(path)))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
