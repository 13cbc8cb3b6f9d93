# SPDX-License-Identifier: BSD-2-Clause
"""Processes whose memory is gone."""

from __future__ import annotations

import os
import sys

import pytest

from ksym.errors import KsymError
from ksym.symbols.loaded import Process


@pytest.mark.parametrize("spec", ["./prog", sys.executable, "libc.so.6"])
def test_a_process_that_ended_and_was_not_waited_for_has_nothing_mapped(spec: str) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        with Process(pid) as process:
            assert not process.biases(spec)
            with pytest.raises(
                KsymError, match=f"it has ended and waits for its parent, process {os.getpid()}"
            ):
                process.find_object(spec)
    finally:
        os.waitpid(pid, 0)
