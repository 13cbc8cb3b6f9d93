# SPDX-License-Identifier: BSD-2-Clause
"""Arming, as far as it needs no registers."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ksym.watch.arm import ArmedEvent, ArmedWatch, Options
from ksym.watch.plan import Place, Scope

PLACES = (Place(7, (7,)),)


class FakeEvent:
    """Counts how often it is enabled."""

    enabled = 0

    def enable(self) -> None:
        self.enabled += 1


@pytest.mark.parametrize(
    ("scope", "reached_again"),
    [(Scope((0,), PLACES, only_threads=True), True), (Scope((0,), PLACES), False), (Scope((0,)), False)],
)
def test_threads_that_start_while_a_process_is_armed_are_reached_again(
    scope: Scope, reached_again: bool
) -> None:
    armed, event = object.__new__(ArmedWatch), FakeEvent()
    armed.options, armed.engine = Options(), None
    armed.before_enabling = armed.after_enabling = lambda: None
    armed.scope, armed.events = scope, [ArmedEvent(cast(Any, None), cast(Any, event), cast(Any, None))]
    armed.enable()
    assert (event.enabled > 1) == reached_again
