# SPDX-License-Identifier: BSD-2-Clause
"""What is written into the page of ``ksym report --html``; tests/browser has what it makes of that."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import stat
import zlib
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from browser.pages import many, page
from ksym.capture.sites import Named
from ksym.commands import report as command
from ksym.commands.parser import parse
from ksym.errors import KsymError, UsageError
from ksym.recording import reader
from ksym.recording.accesses import KINDS, Accesses
from ksym.recording.header import Machine
from ksym.reports import embed
from ksym.reports.about import About
from ksym.reports.embed import FLAGS
from support.accesses import START, Row, make_accesses, make_site, make_watch

WATCHES = (
    make_watch(),
    make_watch("./prog:other", "long", index=1),
    make_watch("./prog:real", "double", index=2),
)
SITES = (make_site("reader", 0x10), make_site("writer", 0x20), make_site(None, 0x30, ip=0x30))
STACKS = ((Named("reader", 1), Named("main", 2)), (Named("writer", 1), Named("main", 3)), ())


class Unpacked:
    """What the page is given, taken apart in the plainest way."""

    def __init__(self, html: bytes) -> None:
        match = re.search(rb'id="data">([^<]*)<', html)
        assert match
        data = zlib.decompress(base64.b64decode(match[1]))
        head = int.from_bytes(data[:4], "little")
        self.about: dict[str, Any] = json.loads(data[4 : 4 + head])
        self._rest = data[4 + head :]
        assert len(self._rest) == sum(length * width for _, length, width in self.about["columns"].values())

    def column(self, name: str) -> list[int]:
        start, length, width = self.about["columns"][name]
        planes = [self._rest[start + k * length : start + (k + 1) * length] for k in range(width)]
        return [int.from_bytes(bytes(plane[i] for plane in planes), "little") for i in range(length)]

    def times(self) -> list[int]:
        return list(accumulate(self.column("time"), initial=int(self.about["origin_ns"])))[1:]

    def values(self, watch: int) -> list[tuple[str, str]]:
        """Of each access to a variable the texts of the value before and after."""
        now, found = 0, []
        about = self.about["values"][watch]
        for columns in zip(self.column(f"old{watch}"), self.column(f"new{watch}"), strict=True):
            texts = []
            for difference in columns:
                now = (now + ((difference >> 1) ^ -(difference & 1))) % 2**64
                number = now - 2**64 if about.get("signed") and now >> 63 else now
                texts.append(about["texts"][now] if "texts" in about else str(number))
            found.append((texts[0], texts[1]))
        return found


def test_a_page_has_its_parts() -> None:
    html = page(many(10)).decode()
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for tag, place in (("script", 0), ("style", 1)):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert re.findall("'sha256-([^']*)'", policy)[place] == digest
        assert f"</{tag}" not in text
        assert "\r" not in text  # a browser would hash another text
    assert "Permission is hereby granted" in html  # uPlot's licence goes where it goes
    assert re.findall(r"https?://[^\s\"']*", html) == ["https://github.com/leeoniya/uPlot"]
    assert "@" not in re.sub("@media|@license", "", re.sub("<script.*", "", html, flags=re.DOTALL))


@st.composite
def recordings(draw: st.DrawFn) -> Accesses:
    """Accesses to three variables: natural numbers, any numbers, and bytes that are doubles."""
    now, rows = 0, []
    for _ in range(draw(st.integers(0, 30))):
        now += draw(st.sampled_from((0, 1, 255, 256, 70_000, 2**33, 2**50)))
        watch = draw(st.integers(0, 2))
        value: st.SearchStrategy[int | bytes] = (
            st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1), st.binary(min_size=8, max_size=8),
        )[watch]  # fmt: skip
        old, new = draw(st.none() | value), draw(st.none() | value)
        rows.append(
            Row(
                now, draw(st.sampled_from(KINDS)), draw(st.integers(0, 300)), draw(st.integers(1, 9)),
                draw(st.sampled_from(("a", "b"))), new, old, draw(st.integers(0, 2)), watch,
                draw(st.integers(1, 70_000)), 1, draw(st.integers(-1, 2)),
            )
        )  # fmt: skip
    return make_accesses(rows, watches=WATCHES, sites=SITES, stacks=STACKS)


@settings(deadline=None)
@given(recordings())
def test_accesses_come_out_as_they_went_in(accesses: Accesses) -> None:
    found = Unpacked(page(accesses))
    about = found.about
    assert found.times() == accesses.time_ns.tolist()
    assert [about["cpus"][code] for code in found.column("cpu")] == accesses.cpu.tolist()
    assert found.column("kind") == accesses.kind.tolist()
    assert found.column("watch") == accesses.watch.tolist()
    assert found.column("hits") == accesses.hits.tolist()
    tasks = [f"{accesses.comms[comm]}-{tid}" for comm, tid in zip(accesses.comm, accesses.tid, strict=True)]
    assert [about["tasks"][code] for code in found.column("task")] == tasks
    sites = [accesses.sites[number] for number in accesses.site]
    rows = [about["instructions"][code] for code in found.column("instruction")]
    assert [row[0] for row in rows] == [str(site.named) for site in sites]
    assert [about["functions"][row[3]] for row in rows] == [
        f"{site.named.function} [prog]" if site.named.function else hex(site.ip) for site in sites
    ]
    flags = np.array(found.column("flags"), np.uint8)
    for name in ("old_known", "new_known"):
        assert ((flags >> FLAGS.index(name) & 1) != 0).tolist() == getattr(accesses, name).tolist()


@settings(deadline=None)
@given(recordings())
def test_values_come_out_as_they_went_in(accesses: Accesses) -> None:
    found = Unpacked(page(accesses))
    for index, decode in enumerate(accesses.decoders()):
        some = accesses.select(accesses.watch == index)
        if found.about["values"][index] is None:
            assert not (some.old_known | some.new_known).any()
            continue
        for number, (old, new) in enumerate(found.values(index)):
            if some.old_known[number]:
                assert old == decode.of(some.old[number].tobytes()).text
            if some.new_known[number]:
                assert new == decode.of(some.new[number].tobytes()).text


@settings(deadline=None)
@given(recordings())
def test_call_chains_come_out_as_they_went_in(accesses: Accesses) -> None:
    found = Unpacked(page(accesses))
    frames = iter(found.column("chain"))
    chains = [()] + [
        tuple(found.about["frames"][next(frames)][0] for _ in range(depth)) for depth in found.column("depth")
    ]
    assert [chains[code] for code in found.column("stack")] == [
        () if number < 0 else tuple(map(str, accesses.stacks[number])) for number in accesses.stack
    ]


def test_of_very_many_call_chains_the_rarest_have_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "MOST_STACKS", 2)
    stacks = [(Named(f"f{number}", 1),) for number in range(4)]
    rows = [Row(at, stack=stack) for at, stack in enumerate((3, 0, 3, 1, 2, -1, 1))]
    found = Unpacked(page(make_accesses(rows, stacks=stacks)))
    frames = [found.about["frames"][frame][0] for frame in found.column("chain")]
    assert frames == ["f1+0x1", "f3+0x1", "(other call chains)"]
    assert found.column("stack") == [2, 3, 2, 1, 3, 0, 1]


def test_nothing_recorded_is_html() -> None:
    name = "</script><img src=x onerror=alert(1)>"
    accesses = make_accesses(
        [Row(0, "W", 0, 1, name, new=name.encode()[:16])], sites=(make_site(name, 1, owner=name, text=name),),
        watches=(make_watch(f"./prog:{'x' * 3}", None, length=16),), stacks=((Named(name, 1, 2, name),),),
    )  # fmt: skip
    html = page(accesses, About(name, machine={"hostname": name}, made_by=name, cut=name, notes=(name,)))
    assert b"alert(1)" not in html
    assert json.dumps(Unpacked(html).about).count("alert(1)") >= 8


def test_what_is_packed_is_printable() -> None:
    name = "a\x1b[31m\u202eb\udcff"
    accesses = make_accesses(
        [Row(0, comm=name, stack=0)], sites=(make_site(name, 1, owner=name, text=name),),
        stacks=((Named(name, 1, 2, name),),),
    )  # fmt: skip
    about = Unpacked(page(accesses, About(name, machine={"hostname": name}, notes=(name,)))).about
    assert json.dumps(about, ensure_ascii=False).isprintable()


def test_small_and_large_pages() -> None:
    """What does not change from access to access takes next to nothing."""
    nothing, some, more = (len(page(many(count))) for count in (0, 1000, 100_000))
    assert nothing < 200_000
    assert some - nothing < 10_000
    assert more - nothing < 100_000


# -- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A recording of four accesses can be read; where the page may go."""
    rows = [Row(at * 10**9, "RWRW"[at], new=at) for at in range(4)]
    accesses = make_accesses(rows)
    recording = SimpleNamespace(
        path="x.data", machine=Machine("vm", "6.1", "x86_64", 2), counts={}, cut=None, sampled=None, unopened=None,
        following=None,
        by_ksym=True,
        start=SimpleNamespace(version="0.1"), accesses=lambda: accesses,
    )  # fmt: skip
    monkeypatch.setattr(reader, "open_recording", lambda path, progress: recording)
    return tmp_path / "page.html"


def run(*words: str) -> int:
    return command.run(parse("report", command, ["x.data", *words]))


def test_the_command_writes_a_page(recorded: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--html", str(recorded)) == 0
    assert capfd.readouterr() == ("", f"ksym: {recorded}: 4 accesses\n")
    assert stat.S_IMODE(recorded.stat().st_mode) == 0o600
    assert Unpacked(recorded.read_bytes()).about["file"] == "x.data"


def test_a_page_of_what_is_selected(recorded: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("--html", str(recorded), "--since", "1", "--only", "W")
    found = Unpacked(recorded.read_bytes())
    assert found.times() == [START + 10**9, START + 3 * 10**9]
    assert found.about["origin_ns"] == str(START)  # what --since counts from
    assert ["selected", "--only W --since 1: of 4 accesses"] in found.about["facts"]
    assert "2 accesses" in capfd.readouterr().err


def test_no_page_is_overwritten_unasked(recorded: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recorded.write_text("mine")
    with pytest.raises(KsymError, match="it is there already"):
        run("--html", str(recorded))
    assert recorded.read_text() == "mine"
    run("--html", str(recorded), "--force")
    assert Unpacked(recorded.read_bytes())
    assert "4 accesses" in capfd.readouterr().err


def test_a_page_on_stdout(recorded: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("--html", "-") == 0
    out, error = capfdbinary.readouterr()
    assert Unpacked(out).about["file"] == "x.data"
    assert error == b""
    with pytest.raises(UsageError, match="its name is empty; name a file with --html"):
        run("--html", "")


def test_no_page_where_there_is_no_room(recorded: Path) -> None:
    with pytest.raises(KsymError, match="choose another file with --html"):
        run("--html", str(recorded.parent / "nowhere" / "page.html"))


def test_one_output_alone() -> None:
    with pytest.raises(UsageError):
        parse("report", command, ["x.data", "--html", "x.html", "--json"])
