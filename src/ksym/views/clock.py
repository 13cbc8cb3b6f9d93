# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's monotonic times as people's."""

from __future__ import annotations

import time

from ksym.linux.clock import wall_offset

_SECOND_TICKS = 10_000
_TICK_NS = 1_000_000_000 // _SECOND_TICKS


class WallClock:
    """CLOCK_MONOTONIC nanoseconds as local time of day, ``10:22:31.2034``."""

    def __init__(self) -> None:
        self._offset = wall_offset()
        self._second, self._text = -1, ""
        self._tick, self._shown = -1, ""

    def text(self, time_ns: int) -> str:
        """Hours, minutes, seconds and four decimals."""
        tick = (time_ns + self._offset) // _TICK_NS
        if tick != self._tick:  # when it matters that this is quick, many rows have the same
            second, rest = divmod(tick, _SECOND_TICKS)
            if second != self._second:
                self._second, self._text = second, clock_text(second)
            self._tick, self._shown = tick, f"{self._text}.{rest:04d}"
        return self._shown


def clock_text(second: int) -> str:
    """Seconds since the epoch as local time of day, ``10:22:31``."""
    return time.strftime("%H:%M:%S", time.localtime(second))
