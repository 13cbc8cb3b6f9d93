# SPDX-License-Identifier: BSD-2-Clause
"""Lockdown: what the kernel keeps even from root (man 7 kernel_lockdown)."""

from __future__ import annotations

from ksym.linux.files import read_text

_FILE = "/sys/kernel/security/lockdown"
"""The modes, with the one that holds in brackets; it is there where securityfs is mounted."""

CONFIDENTIAL = "kernel lockdown is in confidentiality mode"
CONFIDENTIAL_CURE = "boot without lockdown=confidentiality"


def is_confidential() -> bool:
    """Whether nobody may read kernel memory, programs in the kernel included."""
    try:
        return "[confidentiality]" in read_text(_FILE)
    except OSError:
        return False
