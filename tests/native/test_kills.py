# SPDX-License-Identifier: BSD-2-Clause
"""ksym is killed at random moments: a few of the many kills of ``make kills`` (docs/faults.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.cases import cases
from faults.kills import Kit, campaign
from native.running import sample

pytestmark = pytest.mark.native

SEED, KILLS = 3, 20


def test_what_a_killed_run_leaves(tmp_path: Path) -> None:
    kills = list(campaign(Kit(tmp_path, sample()), cases(), KILLS, SEED))
    wrong = [f"{kill.case} killed {kill.moment}: {kill.problems}" for kill in kills if kill.problems]
    assert not wrong, "\n".join(wrong)
    assert sum(kill.hit for kill in kills) == KILLS
