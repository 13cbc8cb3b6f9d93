# SPDX-License-Identifier: BSD-2-Clause
"""The two file systems without which little can be known of a machine: /proc and /sys."""

from __future__ import annotations

import os

from ksym.errors import NotPermitted

_NEEDED = (
    ("/proc", "/proc/self/stat", "mount -t proc proc /proc"),
    ("/sys", "/sys/devices/system/cpu", "mount -t sysfs sysfs /sys"),
)
"""Each with a file that it always has, and how it is mounted."""


def check_mounted() -> None:
    """Refuse to go on where /proc or /sys is not mounted, as in a bare chroot or mount namespace.

    Raises:
        NotPermitted: One of them is missing.
    """
    for folder, file, cure in _NEEDED:
        if not os.path.exists(file):
            raise NotPermitted("cannot look into this machine", f"{folder} is not mounted", cure)
