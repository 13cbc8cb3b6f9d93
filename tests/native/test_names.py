# SPDX-License-Identifier: BSD-2-Clause
"""Names by scope, in quotes and with a length, perf's ACCESS, paths with colons: the rows that each of them gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.program import ksym
from synthetic.compile import build, need

MAIN = """
static int level = 10; short pair[2]; extern void rise(void);
static void fill(void) { static int turns; turns += 3; }
static void drain(void) { static int turns; turns -= 1; }
int main(void) { level++; rise(); rise(); fill(); drain(); drain(); pair[0] = 7; pair[1] = 9; return 0; }
"""
RISE = "static int level = 20; void rise(void) { level += 5; }"


@pytest.fixture(scope="module")
def tank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("gcc")
    folder = tmp_path_factory.mktemp("to:day")
    (folder / "rise.c").write_text(RISE)
    return build(folder, "tank", MAIN, "-g", "-O0", "rise.c")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("rise.c::level:w", [(20, 25), (25, 30)]),
        ("'tank.c'::level:-w-", [(10, 11)]),
        ("fill::turns:w", [(0, 3)]),
        ("tank.c::drain::turns:w", [(0, -1), (-1, -2)]),
        ("pair/2:w", [(0, 7)]),
    ],
)
def test_rows_of_a_name(tank: Path, name: str, changes: list[tuple[int, int]]) -> None:
    quoted = f"'{tank}':{name}"
    for request in (quoted, f"{tank}:{name}"):
        result = ksym("trace", "--format", "json", request, "--", str(tank))
        rows = result.rows()
        assert [(row["old"], row["new"]) for row in rows] == changes, result
        assert {row["access"] for row in rows} <= {"W", "RW"}
        assert {row["symbol"] for row in rows} == {quoted.rpartition(":")[0]}
