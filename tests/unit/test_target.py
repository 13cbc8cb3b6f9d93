# SPDX-License-Identifier: BSD-2-Clause
"""Where outputs go: one rule for trace -o, script -o, export -o and report --html."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ksym.errors import KsymError, UsageError
from ksym.views.output import Output
from ksym.views.target import created


def whole(name: str, *, force: bool) -> None:
    with created(name, force=force) as file:
        file.write(b"new\n")


def growing(name: str, *, force: bool) -> None:
    with closing(Output(name, force=force)) as output:
        output.write("new\n")


Write = Callable[..., None]
pytestmark = pytest.mark.parametrize("write", [whole, growing])


def test_a_new_file_is_for_its_owner_alone(write: Write, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(str(tmp_path / "x"), force=False)
    finally:
        os.umask(before)
    assert (tmp_path / "x").read_text() == "new\n"
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600


def test_a_file_that_is_there_is_replaced_when_asked_alone(write: Write, tmp_path: Path) -> None:
    path, other = tmp_path / "x", tmp_path / "other"
    path.write_text("mine")
    path.chmod(0o644)
    os.link(path, other)
    with pytest.raises(KsymError) as raised:
        write(str(path), force=False)
    assert str(raised.value) == (
        f"cannot write {path}: it is there already; overwrite it with --force, or name another with -o"
    )
    assert path.read_text() == "mine"
    write(str(path), force=True)
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert other.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [other, path]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("leads_to", ["file", "nowhere"])
def test_a_symbolic_link_is_not_followed(write: Write, tmp_path: Path, force: bool, leads_to: str) -> None:
    (tmp_path / "file").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(leads_to)
    with pytest.raises(KsymError, match=r"it is a symbolic link; name the file itself with -o"):
        write(str(link), force=force)
    assert link.is_symlink()
    assert not (tmp_path / "nowhere").exists()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_stays(write: Write, tmp_path: Path, force: bool) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(KsymError, match="it is a folder"):
        write(str(tmp_path / "folder"), force=force)
    os.mknod(tmp_path / "socket", stat.S_IFSOCK | 0o600)
    with pytest.raises(KsymError, match="it is not a regular file"):
        write(str(tmp_path / "socket"), force=force)
    assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("linked", [False, True])
def test_a_stream_takes_it_as_it_comes(write: Write, tmp_path: Path, force: bool, linked: bool) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    if linked:
        (tmp_path / "link").symlink_to("fifo")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
    reader.start()
    write(str(tmp_path / "link" if linked else fifo), force=force)
    reader.join()
    assert got == ["new\n"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_minus_is_stdout(
    write: Write, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write("-", force=False)
    assert capfdbinary.readouterr().out == b"new\n"
    write("./-", force=False)
    assert (tmp_path / "-").read_text() == "new\n"


def test_a_name_that_is_none_is_refused(write: Write) -> None:
    with pytest.raises(UsageError, match="its name is empty; name a file with -o, - for stdout"):
        write("", force=True)
    for name, why in (("a\0b", "its name has a NUL"), ("no/such/folder", "No such file or directory")):
        with pytest.raises(KsymError) as raised:
            write(name, force=False)
        assert why in str(raised.value)
