# SPDX-License-Identifier: BSD-2-Clause
"""Lists of CPUs, as the kernel and users write them."""

from __future__ import annotations

import pytest

from ksym.linux.cpus import parse_cpus


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", [0]), ("0-3,8\n", [0, 1, 2, 3, 8]), ("8,1-2,2", [1, 2, 8]), ("", []), ("3-3", [3])],
)
def test_lists(text: str, cpus: list[int]) -> None:
    assert parse_cpus(text) == cpus


@pytest.mark.parametrize(
    "text", ["0-", "-1", "-", "1-0", "a", "0 1", "0_1", "+1", "1-2-3", "٣", "²", "0-99999999999"]
)
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(ValueError, match="no CPU list"):
        parse_cpus(text)
