# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's monotonic times as people's."""

from __future__ import annotations

import time


class WallClock:
    """CLOCK_MONOTONIC nanoseconds as local time of day, ``10:22:31.2034``."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()
        self._second, self._text = -1, ""

    def text(self, time_ns: int) -> str:
        """Hours, minutes, seconds and four decimals."""
        second, rest = divmod(time_ns + self._offset, 1_000_000_000)
        if second != self._second:
            self._second, self._text = second, clock_text(second)
        return f"{self._text}.{rest // 100_000:04d}"


def clock_text(second: int) -> str:
    """Seconds since the epoch as local time of day, ``10:22:31``."""
    return time.strftime("%H:%M:%S", time.localtime(second))
