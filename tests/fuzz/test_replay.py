# SPDX-License-Identifier: BSD-2-Clause
"""Every seed, and every input that once broke a target, without atheris."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import targets
from fuzz.contract import fault_of

pytest.importorskip("numpy")
_SECONDS = 60
"""Of processor time; an input that never ends is what this is for."""


def _cases() -> list[tuple[str, Path]]:
    return [(name, path) for name in targets.NAMES for path in (*targets.seeds(name), *targets.found(name))]


@pytest.mark.parametrize(
    ("name", "path"), [pytest.param(name, path, id=f"{name}-{path.name}") for name, path in _cases()]
)
def test_contract(name: str, path: Path) -> None:
    if name == "dwarf":
        pytest.importorskip("elftools")
    data = path.read_bytes()
    target = targets.load(name)
    if (fault := fault_of(target.replay, data, seconds=_SECONDS)) is not None:
        target.replay(data)  # so that the error itself is shown
        pytest.fail(fault)


@pytest.mark.parametrize("name", targets.NAMES)
def test_every_target_has_seeds(name: str) -> None:
    assert targets.seeds(name)


def test_check_sums_are_made_right() -> None:
    """Else what damages them reaches no further than they do."""
    from fuzz.perf_records import sealed

    whole = [path for path in targets.seeds("perf_data") if not path.name.startswith("kept-")]
    assert whole
    for path in whole:
        data = path.read_bytes()
        assert sealed(data) == data
