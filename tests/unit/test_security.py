# SPDX-License-Identifier: BSD-2-Clause
"""docs/security.md, as far as it needs no kernel: files that somebody else has made, and what is opened."""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ksym.capture.records import MmapRecord
from ksym.errors import KsymError
from ksym.linux import mounts, regular_file
from ksym.linux.bpf_asm import Helper
from ksym.linux.regular_file import MOST_OPEN, RegularFile
from ksym.recording.files import Files
from ksym.recording.foreign import ForeignCode
from ksym.recording.header import KERNEL, Machine, open_file, read_head
from ksym.recording.noted import ALWAYS
from ksym.recording.sideband import Change
from ksym.symbols.debugfile import find_debug_file
from ksym.symbols.elf import ElfError, ElfFile
from ksym.views.output import Output
from ksym.views.target import created
from support.descriptors import collector_off
from support.program import SOURCES
from support.recordings import ksym
from synthetic.elf import Image, Sec, Sym

STRANGER = 12345
"""A user whom no machine has."""
TREE = SOURCES.parent
SEED = TREE / "tests/fuzz/seeds/perf_data/perf-plain"


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What open(2) is asked for, and with which flags."""
    real, found = os.open, []

    def note(path: str, flags: int, mode: int = 0o777, **more: int) -> int:
        found.append((str(path), flags))
        return real(path, flags, mode, **more)

    monkeypatch.setattr(os, "open", note)
    return found


# -- the page ------------------------------------------------------------------------------------------


def test_every_claim_names_a_test_that_there_is() -> None:
    """The last column of each table, ``FILE: TEST``; the file is one of tests/."""
    named = 0
    for row in re.findall(r"^\| .* \|$", (TREE / "docs/security.md").read_text(), re.MULTILINE):
        proof = row.rstrip(" |").rpartition("|")[2].strip()
        if proof in ("test", "") or set(proof) <= {"-"}:
            continue
        for file, names in re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", proof):
            text = (TREE / "tests" / file).read_text()
            for name in re.findall(r"`(\w+)`", names):
                assert f"def {name}(" in text, f"{file} has no {name}"
                named += 1
        assert re.fullmatch(r"(`[\w/]+\.py`: (`\w+`(, )?)+;? ?)+", proof), proof
    assert named > 25


# -- files of others are opened ------------------------------------------------------------------------


def special(folder: Path, kind: str) -> Path:
    """A path that leads to no regular file with content."""
    place = folder / kind
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "empty":
        place.touch()
    elif kind == "folder":
        place.mkdir()
    elif kind == "nowhere":
        place.symlink_to(folder / "no such file")
    else:
        place.symlink_to(
            {"device": "/dev/zero", "proc": "/proc/kallsyms", "sys": "/sys/kernel/profiling"}[kind]
        )
    return place


@pytest.mark.parametrize("kind", ["fifo", "empty", "folder", "nowhere", "device", "proc", "sys"])
def test_what_is_no_regular_file_is_looked_at_but_not_opened(
    tmp_path: Path, opens: list[tuple[str, int]], kind: str
) -> None:
    """Where a path comes from a program, or from the section of a file that names another one."""
    place = special(tmp_path, kind)
    opens.clear()
    with pytest.raises(ElfError):
        ElfFile(place)
    assert [(path, flags & os.O_PATH) for path, flags in opens] == [(str(place), os.O_PATH)]


def test_a_file_that_is_exchanged_for_a_fifo_is_opened_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, real = tmp_path / "x", os.fstat
    place.write_bytes(b"what was looked at")

    def exchange(fd: int) -> os.stat_result:
        place.unlink()
        os.mkfifo(place)
        return real(fd)

    monkeypatch.setattr(os, "fstat", exchange)
    file = RegularFile(place)
    assert file.read(0, 100) == b"what was looked at"
    assert stat.S_ISFIFO(place.stat().st_mode)
    file.close()


@pytest.mark.parametrize("left", [0, 100, 5000])
def test_a_file_that_its_owner_cuts_meanwhile_is_an_error(tmp_path: Path, left: int) -> None:
    """Mapped, it would be SIGBUS."""
    place = tmp_path / "lib.so"
    place.write_bytes(Image(symbols=[Sym("f", 0x1000, 16, 2)], sections=[Sec("pad", 1, bytes(9000))]).write())
    with ElfFile(place) as whole:
        assert whole.symbol_at(0x1004)
    with ElfFile(place) as elf:
        os.truncate(place, left)
        with pytest.raises(ElfError, match="it has become shorter meanwhile"):
            elf.symbol_at(0x1004)


def test_no_more_files_are_opened_than_there_are_descriptors_for(tmp_path: Path) -> None:
    place = tmp_path / "lib.so"
    place.write_bytes(Image().write())
    with collector_off():  # it would close what other tests have left to it
        before = regular_file.RegularFile._open
        opened = [ElfFile(place) for _ in range(MOST_OPEN - before)]
        with pytest.raises(ElfError, match="Too many open files"):
            ElfFile(place)
        opened.pop().close()
        ElfFile(place).close()
        for elf in opened:
            elf.close()
        assert regular_file.RegularFile._open == before


# -- what files claim ----------------------------------------------------------------------------------

SPARSE = 1 << 40


def patched(data: bytes, number: int, size: int, offset: int = 0) -> bytes:
    """An image whose section has another offset and size."""
    table = struct.unpack_from("<Q", data, 40)[0]
    changed = bytearray(data)
    struct.pack_into("<QQ", changed, table + 64 * number + 24, offset, size)
    return bytes(changed)


def many_sections(data: bytes) -> bytes:
    """An image that has as many sections as a file of SPARSE bytes holds."""
    changed = bytearray(data)
    table = struct.unpack_from("<Q", data, 40)[0]
    struct.pack_into("<H", changed, 60, 0)
    struct.pack_into("<Q", changed, table + 32, SPARSE // 128)
    return bytes(changed)


def many_segments(data: bytes) -> bytes:
    """The same for program headers."""
    changed = bytearray(data)
    table = struct.unpack_from("<Q", data, 40)[0]
    struct.pack_into("<Q", changed, 32, 64)
    struct.pack_into("<H", changed, 56, 0xFFFF)
    struct.pack_into("<I", changed, table + 44, 1 << 24)
    return bytes(changed)


SYMBOLS = Image(symbols=[Sym("f", 0x1000, 16, 2)], build_id=bytes(range(20)))
# Sections: 4 .symtab, 5 .strtab, 6 the build id, 7 the names.
CLAIMS: dict[str, tuple[bytes, Callable[[ElfFile], object]]] = {
    "symbols": (patched(SYMBOLS.write(), 4, SPARSE // 2), lambda elf: elf.symbol_at(0x1000)),
    "strings": (patched(SYMBOLS.write(), 5, SPARSE // 2), lambda elf: elf.symbol_at(0x1000)),
    "names": (patched(SYMBOLS.write(), 7, SPARSE // 2), lambda elf: elf.sections),
    "sections": (many_sections(SYMBOLS.write()), lambda elf: elf.sections),
    "segments": (many_segments(SYMBOLS.write()), lambda elf: elf.segments),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_sparse_file_of_a_terabyte_takes_no_memory(tmp_path: Path, claim: str) -> None:
    data, look = CLAIMS[claim]
    place = tmp_path / "prog"
    place.write_bytes(data)
    os.truncate(place, SPARSE)
    with ElfFile(place) as elf, pytest.raises(ElfError):
        look(elf)


def test_a_build_id_is_not_looked_for_in_notes_of_a_terabyte(tmp_path: Path) -> None:
    place = tmp_path / "prog"
    place.write_bytes(patched(SYMBOLS.write(), 6, SPARSE // 2))
    os.truncate(place, SPARSE)
    with ElfFile(place) as elf:
        assert elf.build_id is None


def compressed(size: int) -> bytes:
    return struct.pack("<IIQQ", 1, 0, size, 1) + zlib.compress(bytes(size), 1)


@pytest.mark.parametrize("flags", [0, 0x800])
def test_millions_of_symbols_are_not_taken_in(tmp_path: Path, flags: int) -> None:
    size = 24 * ((1 << 22) + 1)
    data = compressed(size) if flags else bytes(size)
    place = tmp_path / "prog"
    place.write_bytes(Image(sections=[Sec(".symtab", 2, data, flags=flags)]).write())
    with ElfFile(place) as elf, pytest.raises(ElfError, match="more than any program has"):
        elf.symbol_at(0)


def test_a_name_without_end_is_none() -> None:
    image = Image(symbols=[Sym("f" * (1 << 14), 0x1000, 16, 2), Sym("g" * 16000, 0x1100, 16, 2)]).write()
    with ElfFile("x", data=image) as elf:
        with pytest.raises(ElfError):
            elf.symbol_at(0x1000)
        found = elf.symbol_at(0x1104)
    assert found
    assert found[0].name == "g" * 16000


def test_two_symbol_tables_of_one_kind_are_one() -> None:
    table = Sec(".symtab", 2, bytes(48))
    with ElfFile("x", data=Image(sections=[table] * 9).write()) as elf:
        assert [each.count for each in elf.tables] == [2]


def test_no_check_sum_is_made_of_a_sparse_debug_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums: list[int] = []

    def summed(data: bytes, before: int = 0) -> int:
        sums.append(len(data))
        return 0

    monkeypatch.setattr(zlib, "crc32", summed)
    link = Sec(".gnu_debuglink", 1, b"x.debug\0" + bytes(4))
    (tmp_path / "prog").write_bytes(Image(sections=[link]).write())
    debug = tmp_path / "x.debug"
    debug.write_bytes(Image().write())
    with ElfFile(tmp_path / "prog") as elf:
        small = find_debug_file(elf, debug_root=str(tmp_path / "none"))
        assert small
        small.close()
        assert len(sums) == 1
        os.truncate(debug, 5 << 30)
        assert find_debug_file(elf, debug_root=str(tmp_path / "none")) is None
    assert len(sums) == 1


@pytest.mark.parametrize("name", ["../x.debug", "/etc/passwd", "..", "."])
def test_the_name_of_a_debug_file_leads_nowhere_else(
    tmp_path: Path, opens: list[tuple[str, int]], name: str
) -> None:
    (tmp_path / "x.debug").write_bytes(Image().write())
    folder = tmp_path / "folder"
    folder.mkdir()
    section = name.encode() + b"\0"
    section += bytes(-len(section) % 4) + bytes(4)
    (folder / "prog").write_bytes(Image(sections=[Sec(".gnu_debuglink", 1, section)]).write())
    with ElfFile(folder / "prog") as elf:
        opens.clear()
        assert find_debug_file(elf, debug_root=str(tmp_path / "none")) is None
    assert all(flags & os.O_PATH for _, flags in opens)


# -- recordings of others ------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_files_that_a_strangers_recording_names_are_not_opened(
    tmp_path: Path, opens: list[tuple[str, int]], files: bool, known: bool
) -> None:
    """Neither by their build ids nor because it says that it was made here."""
    place = tmp_path / "prog"
    place.write_bytes(replace(SYMBOLS, loads=[(0, 0, 0x1000, 0x2000)]).write())
    machine = Machine(os.uname().nodename, build_ids={str(place): bytes(range(20)).hex()} if known else {})
    code = ForeignCode(machine, [], files=files)
    code.follow([(0, Change(0, 0, MmapRecord(1, 7, 0x400000, 0x2000, 0, str(place))))])
    opens.clear()
    named = code.name(7, 0x401004, behind=False, era=ALWAYS, hit=1)
    code.close()
    assert (named.function, named.in_file) == (("f", False) if files else ("prog", True))
    assert [path for path, _ in opens if path == str(place)] == ([str(place)] if files else [])


@pytest.mark.parametrize("owner", [0, STRANGER])
@pytest.mark.usefixtures("root_only")
def test_whose_recording_it_is_decides_whether_files_are_opened(
    tmp_path: Path, owner: int, opens: list[tuple[str, int]]
) -> None:
    place = tmp_path / "x.data"
    shutil.copyfile(SEED, place)
    os.chown(place, owner, owner)
    with closing(open_file(str(place))) as file:
        head = read_head(file, str(place))
    assert head.own is (owner == 0)
    assert bool(head.machine.build_ids.keys() - {KERNEL}) is (owner == 0)
    for verb in ("script", "report"):
        opens.clear()
        status, out, err = ksym(verb, str(place))
        said = out + err
        assert status == 0
        assert ("it belongs to another user, so no program that it names was opened" in said) is (owner != 0)
        named = [path for path, _ in opens if path.startswith(("/usr/lib/x86", "/tmp/ksym-seeds"))]
        assert not named or owner == 0


# -- where output goes ---------------------------------------------------------------------------------


def whole(name: str) -> None:
    with created(name, force=False) as file:
        file.write(b"secret\n")


def growing(name: str) -> None:
    with closing(Output(name)) as output:
        output.write("secret\n")


WAYS = pytest.mark.parametrize("write", [whole, growing])


@pytest.fixture
def shared(tmp_path: Path, root_only: None) -> Path:
    """A folder like /tmp."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@WAYS
@pytest.mark.parametrize("linked", [False, True])
def test_a_strangers_fifo_in_a_folder_like_tmp_gets_nothing(
    shared: Path, tmp_path: Path, write: Callable[[str], None], linked: bool
) -> None:
    """The kernel refuses it (fs.protected_fifos) only to who may create it, and a link in some configurations."""
    fifo = (tmp_path if linked else shared) / "fifo"
    os.mkfifo(fifo)
    os.chown(fifo, STRANGER, STRANGER)
    name = shared / "out"
    if linked:
        name.symlink_to(fifo)
        os.lchown(name, STRANGER, STRANGER)
    else:
        fifo.rename(name)
    reader = (
        os.open(name, os.O_RDONLY | os.O_NONBLOCK)
        if not linked
        else os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    )
    with pytest.raises(KsymError, match="another user made it, in a folder that all may write to"):
        write(str(name))
    assert os.read(reader, 100) == b""
    os.close(reader)


@WAYS
@pytest.mark.parametrize("place", ["shared", "own"])
def test_a_fifo_of_ones_own_or_elsewhere_is_written_to(
    shared: Path, tmp_path: Path, write: Callable[[str], None], place: str
) -> None:
    fifo = (shared if place == "shared" else tmp_path) / "fifo"
    os.mkfifo(fifo)
    if place == "own":
        os.chown(fifo, STRANGER, STRANGER)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    write(str(fifo))
    assert os.read(reader, 100) == b"secret\n"
    os.close(reader)


@WAYS
def test_a_fifo_that_is_put_there_at_the_last_moment_gets_nothing(
    shared: Path, write: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, real = shared / "fifo", os.open
    os.mkfifo(mine)
    readers: list[int] = []

    def exchange(path: str, flags: int, mode: int = 0o777) -> int:
        if str(path) == str(mine) and not readers:
            mine.unlink()
            os.mkfifo(mine)
            os.chown(mine, STRANGER, STRANGER)
            readers.append(real(mine, os.O_RDONLY | os.O_NONBLOCK))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", exchange)
    with pytest.raises(KsymError, match="another user made it"):
        write(str(mine))
    assert os.read(readers[0], 100) == b""
    os.close(readers[0])


def test_a_stream_that_becomes_a_file_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, real = tmp_path / "out", os.open
    os.mkfifo(place)

    def exchange(path: str, flags: int, mode: int = 0o777) -> int:
        if str(path) == str(place):
            place.unlink()
            place.write_text("mine")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", exchange)
    with pytest.raises(KsymError, match="it was exchanged meanwhile"):
        growing(str(place))
    assert place.read_text() == "mine"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_recording_follows_no_link(tmp_path: Path, force: bool, when: str) -> None:
    mine, name = tmp_path / "mine", tmp_path / "x.data"
    mine.write_text("mine")
    if when == "before":
        name.symlink_to(mine)
        with pytest.raises(KsymError, match="it is a symbolic link"):
            Files(str(name), force=force, rotates=False)
    else:
        files = Files(str(name), force=force, rotates=False)
        name.symlink_to(mine)
        with pytest.raises(KsymError, match="it is a symbolic link"):
            files.open()
    assert name.is_symlink()
    assert mine.read_text() == "mine"


# -- what it starts as ---------------------------------------------------------------------------------


def test_nothing_is_imported_from_the_folder_that_it_is_started_in(tmp_path: Path) -> None:
    """As ksym.pyz; the installed script differs in nothing here. ``python3 -m ksym`` would, as Python has it."""
    pyz = tmp_path / "dist" / "ksym.pyz"
    pyz.parent.mkdir()
    subprocess.run([sys.executable, TREE / "scripts/build-pyz", pyz], check=True, capture_output=True)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("signal", "json", "struct", "ctypes", "argparse", "ksym", "rich", "mmap", "subprocess"):
        (folder / f"{name}.py").write_text("raise SystemExit(99)\n")
    names = {"PATH": os.environ["PATH"]}
    words = [sys.executable, str(pyz), "resolve", "no_such_variable"]
    done = subprocess.run(words, cwd=folder, env=names, capture_output=True, text=True)
    assert done.returncode == 125
    assert done.stderr.startswith("ksym: ")
    assert sorted(path.suffix for path in folder.iterdir()) == [".py"] * 9


def test_programs_in_the_kernel_can_read_and_signal_but_not_write() -> None:
    """Of bpf_func_id; a program's own maps and ring are all that it may change."""
    assert {helper.value for helper in Helper} == {
        1, 2, 3, 4, 5, 8, 12, 14, 15, 16, 25, 35, 109, 112, 113, 115, 130
    }  # fmt: skip


def test_programs_and_maps_have_no_names_that_others_could_open() -> None:
    """BPF_OBJ_PIN is 6; nothing is pinned, so that closing them ends them."""
    text = "".join(path.read_text() for path in (SOURCES / "ksym").rglob("*.py"))
    assert "OBJ_PIN" not in text
    assert "bpffs" not in text


def test_what_was_looked_at_is_what_is_mounted_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though another user puts a link to elsewhere in its place between the two."""
    place, elsewhere = tmp_path / "mnt", tmp_path / "elsewhere"
    place.mkdir()
    elsewhere.mkdir()
    mounted: list[str] = []

    def device(path: str) -> int:
        place.rename(tmp_path / "moved")
        place.symlink_to(elsewhere)
        return os.open(os.devnull, os.O_RDWR)

    def call(name: str, *arguments: object) -> None:
        assert name == "mount"
        mounted.append(os.path.realpath(os.fsdecode(arguments[1])))  # type: ignore[arg-type]

    monkeypatch.setattr(mounts, "_open_device", device)
    monkeypatch.setattr(mounts, "_call", call)
    mounts.FuseMount(str(place), max_read=4096).close()
    assert mounted == [str(tmp_path / "moved")]
