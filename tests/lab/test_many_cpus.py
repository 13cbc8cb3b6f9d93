# SPDX-License-Identifier: BSD-2-Clause
"""A user without privileges on a machine of eight CPUs: what little memory may be locked is shared by all rings."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from lab.conftest import ImageOf
from lab.kernel import boot
from lab.kernel.fetch import TREE
from lab.kernel.initramfs import Job
from lab.kernel.kernels import chosen
from synthetic.compile import build

pytestmark = pytest.mark.lab

CPUS = 8
PROGRAM = """
volatile int level;
int main(void) { for (int i = 0; i < 200; i++) level = i; return 0; }
"""
USER = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all"
SCRIPT = """
cp {program} /tmp/levels; cp -a {sources} /tmp/sources; chmod -R go+rX /tmp/levels /tmp/sources
mkdir -m 777 /tmp/here; cd /tmp/here
sysctl -q -w kernel.perf_event_paranoid=2
run() {{
    ( ulimit -l $1; shift; exec {user} /usr/bin/python3 -m ksym "$@" -- /tmp/levels ) 2>&1 >/dev/null; echo status $?
}}
for kb in 64 8192; do
    for verb in "trace" "record -f -o x.data"; do echo "== $verb $kb"; run $kb $verb /tmp/levels:level:-w-; done
done
sysctl -q -w kernel.perf_event_mlock_kb=8
echo "== tiny rings"; run 64 trace /tmp/levels:level:-w-
sysctl -q -w kernel.perf_event_mlock_kb=0
echo "== no room"; run 0 trace /tmp/levels:level:-w-; said=$(run 0 trace /tmp/levels:level:-w-)
eval "$(echo "$said" | sed -n 's/^.*sudo \\(sysctl.*\\)$/\\1/p')" >/dev/null
echo "== cured"; run 0 trace /tmp/levels:level:-w-
"""


@pytest.fixture(scope="module")
def said(image_of: ImageOf, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The messages of each run, and its status."""
    folder = tmp_path_factory.mktemp("levels")
    program = build(folder, "levels", PROGRAM, "-g", "-O1")
    script = SCRIPT.format(program=program, sources=TREE / "src", user=USER)
    out, err = io.BytesIO(), io.BytesIO()
    environment = {"PYTHONPATH": "/tmp/sources", "PYTHONDONTWRITEBYTECODE": "1"}
    job = Job(
        ["sh", "-c", script], cwd=Path("/"), environment=environment, readable=[folder, TREE], limit=300
    )
    outcome = boot.run(image_of(chosen("")[0]), job, out, err, cpus=CPUS)
    assert outcome.end is boot.End.EXITED, outcome.tail
    parts = re.split(r"^== (.*)\n", out.getvalue().decode(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(
    "name", ["trace 64", "trace 8192", "record -f -o x.data 64", "record -f -o x.data 8192", "cured"]
)
def test_every_access_is_seen(name: str, said: dict[str, str]) -> None:
    assert re.search(r"^ksym: .*200 hits\)?, 0 lost, 0 disarmed; ", said[name], re.MULTILINE), said[name]
    assert said[name].endswith("status 0\n")


def test_with_rings_of_two_pages_what_finds_no_room_is_counted(said: dict[str, str]) -> None:
    found = re.search(r"^ksym: .*?(\d+) hits\)?, (\d+) lost, 0 disarmed; ", said["tiny rings"], re.MULTILINE)
    assert found, said["tiny rings"]
    assert int(found[1]) + int(found[2]) == 200
    assert said["tiny rings"].endswith("status 0\n")


def test_no_room_at_all_is_refused_in_one_line(said: dict[str, str]) -> None:
    line, status = said["no room"].splitlines()[-2:]
    assert line == (
        "ksym: cannot map 8 ring buffers: this user's perf events have used up kernel.perf_event_mlock_kb and "
        "RLIMIT_MEMLOCK, and 64 kB are needed; end other perf runs, or: sudo sysctl kernel.perf_event_mlock_kb=516"
    )
    assert status == "status 125"
