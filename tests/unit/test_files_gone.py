# SPDX-License-Identifier: BSD-2-Clause
"""Files that are removed, replaced, renamed or cut while they are written: told, and kept as far as they can be."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksym.errors import KsymError
from ksym.linux.named import NamedFile
from ksym.recording.files import Files
from ksym.recording.reader import open_recording
from ksym.recording.writer import FileCut
from ksym.views.output import Output
from support.recordings import COUNTS, TOTAL, FakeArmed, Recorded
from synthetic import perf


def removed(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    path.unlink()
    path.write_text("somebody's")


def replaced_by_a_rename(path: Path) -> None:
    other = path.with_name("new")
    other.write_text("somebody's")
    other.replace(path)


def replaced_by_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere")


def linked_elsewhere(path: Path) -> None:
    os.link(path, path.with_name("other"))
    path.unlink()


KEPT = [removed, replaced, replaced_by_a_rename, replaced_by_a_link, linked_elsewhere]


@pytest.mark.parametrize("what", KEPT)
def test_a_file_that_lost_its_name_gets_another(what: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "x"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    (tmp_path / "x.kept").write_text("of another time")
    file = NamedFile(fd, str(path))
    assert file.settle() is None
    os.write(fd, b"all")
    what(path)
    lost = file.settle()
    assert lost
    assert lost.why == (
        f"{'another file was put in its place' if os.path.lexists(path) else 'it was removed'} while it was written"
    )
    assert lost.where == f"{path}.kept.1"
    assert Path(lost.where).read_bytes() == b"all"
    assert stat.S_IMODE(os.stat(lost.where).st_mode) == 0o600
    assert (tmp_path / "x.kept").read_text() == "of another time"
    assert not path.exists() or path.read_text() == "somebody's"
    file.close()
    os.close(fd)


def test_a_file_that_was_renamed_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    file = NamedFile(fd, str(path))
    path.rename(tmp_path / "y")
    lost = file.settle()
    assert lost
    assert (lost.why, lost.todo) == ("it was renamed", f"all of it is in {tmp_path}/y")
    assert list(tmp_path.iterdir()) == [tmp_path / "y"]
    os.close(fd)
    file.close()


def test_a_folder_that_is_gone_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "tmp"
    folder.mkdir()
    elsewhere.mkdir()
    fd = os.open(folder / "x", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, b"all")
    file = NamedFile(fd, str(folder / "x"))
    (folder / "x").unlink()
    folder.rmdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    lost = file.settle()
    assert lost
    assert lost.where == str(elsewhere / "x.kept")
    assert Path(lost.where).read_bytes() == b"all"
    elsewhere.joinpath("x.kept").unlink()
    elsewhere.rmdir()
    lost = file.settle()
    assert lost
    assert (lost.where, lost.todo) == (None, "nothing of it could be kept (No such file or directory)")
    os.close(fd)
    file.close()


# -- recordings ----------------------------------------------------------------------------------------


def test_files_of_a_recording_are_looked_after_through_its_turns(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files = Files(str(path), force=False, rotates=True)
    descriptors = [files.open()]
    os.write(descriptors[0], b"first")
    path.unlink()
    descriptors.append(files.open())  # turns: the first is not there to be renamed, and is kept
    os.write(descriptors[1], b"second")
    error = files.settle()
    assert error
    assert error.line() == (
        f"cannot leave the recording in {path}: it was removed while it was written; all of it is in {path}.kept"
    )
    assert (path.read_bytes(), Path(f"{path}.kept").read_bytes()) == (b"second", b"first")
    files.close()
    for fd in descriptors:
        os.close(fd)


def test_a_file_that_somebody_put_there_is_not_renamed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    files = Files(str(path), force=False, rotates=True)
    fd = files.open()
    replaced(path)
    with pytest.raises(FileExistsError):
        files.open()
    assert path.read_text() == "somebody's"
    assert not Path(f"{path}.1").exists()
    files.close()
    os.close(fd)


@pytest.mark.parametrize("force", [False, True])
def test_a_file_in_which_nothing_can_be_read_is_not_left(force: bool, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if not force:
        path.write_text("an earlier one")
    files = Files(str(path), force=force, rotates=False)
    os.close(files.open())
    files.discard()
    if force:
        assert list(tmp_path.iterdir()) == []
    else:
        assert list(tmp_path.iterdir()) == [path]
        assert path.read_text() == "an earlier one"


def written(path: Path, rounds: int, *, at: int, share: int) -> tuple[Recorded, FileCut | None]:
    """Record a hit a round; before round ``at`` the file is cut to so many thousandths."""
    armed = FakeArmed([TOTAL], values=False, cpus=1)
    recorded = Recorded(path, armed, flush_seconds=0)
    event = armed.event(TOTAL, 0, 0, TOTAL.roles[0])
    try:
        for number in range(rounds):
            if number == at:
                os.truncate(path, path.stat().st_size * share // 1000)
            armed.rings[0].put(perf.sample(1000 + number, cpu=0, event=event, ip=0x401000))
            recorded.round()
        recorded.finish()
    except FileCut as error:
        return recorded, error
    return recorded, None


@settings(max_examples=30, deadline=None)
@given(share=st.integers(0, 999), at=st.integers(1, 7))
def test_what_is_left_of_a_recording_that_was_cut_is_what_is_said(
    tmp_path_factory: pytest.TempPathFactory, share: int, at: int
) -> None:
    """However much is cut, and whenever: the rounds in front of it are read, and the rest is counted."""
    path = tmp_path_factory.mktemp("cut") / "x.data"
    recorded, error = written(path, 8, at=at, share=share)
    assert error
    assert str(error.strerror).startswith(f"it was cut to {path.stat().st_size} byte")
    recorder = recorded.recorder
    said = recorder.stop(COUNTS | {"hits": [8]}, str(error.strerror))
    recorder.close()
    assert said["recorded"] + said["unwritten"] == 8
    if recorder.readable:
        accesses = open_recording(str(path)).accesses()
        assert (accesses.time_ns - accesses.time_ns[:1]).tolist() == list(range(said["recorded"]))
    else:
        assert said["recorded"] == 0


def test_a_cut_behind_the_last_hit_is_noticed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.data"
    armed = FakeArmed([TOTAL], values=False, cpus=1)
    recorded = Recorded(path, armed)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(FileCut):
        recorded.finish()


# -- rows -----------------------------------------------------------------------------------------------


def test_rows_that_grow(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    output = Output(str(path))
    output.write("a\n")
    assert output.settle() is None
    path.unlink()
    output.write("b\n")
    lost = output.settle()
    assert lost
    assert lost.line() == (
        f"cannot leave the rows in {path}: it was removed while it was written; all of it is in {path}.kept"
    )
    assert Path(f"{path}.kept").read_text() == "a\nb\n"
    output.close()


def test_rows_that_are_cut_leave_no_hole(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    output = Output(str(path))
    output.write("one\n")
    os.truncate(path, 0)
    output.write("a longer one\n")
    lost = output.settle()
    assert lost
    assert "somebody cut it while it was written" in lost.line()
    assert path.read_text() == "a longer one\n"
    output.close()


def test_a_full_disk_leaves_whole_rows_or_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, room = os.write, 0

    def write(fd: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(28, "No space left on device")
        done = real(fd, bytes(data)[:room])
        room -= done
        return done

    monkeypatch.setattr(os, "write", write)
    for room_at_first, left in ((0, None), (3, None), (4, "one\n"), (9, "one\n"), (10, "one\ntwo 2\n")):
        path = tmp_path / f"rows{room_at_first}"
        room = room_at_first
        output = Output(str(path))
        told = ""
        for text in ("one\n", "two 2\n", "three\n"):
            try:
                output.write(text)
            except KsymError as error:
                told = error.line()
                break
        assert "No space left on device; the run was ended there; make room" in told
        output.close()
        assert (path.read_text() if path.exists() else None) == left
