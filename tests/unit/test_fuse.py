# SPDX-License-Identifier: BSD-2-Clause
"""The structures of the FUSE protocol are those of the C header; mountinfo is read as it is written."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.linux import fuse, mounts
from ksym.linux.fuse import Structure
from ksym.linux.mounts import Mount, parse_mountinfo
from synthetic.compile import build

# Our structures, and what the header calls them.
STRUCTURES: dict[type[Structure], str] = {
    fuse.InHeader: "fuse_in_header",
    fuse.OutHeader: "fuse_out_header",
    fuse.InitIn: "fuse_init_in",
    fuse.InitOut: "fuse_init_out",
    fuse.Attr: "fuse_attr",
    fuse.EntryOut: "fuse_entry_out",
    fuse.AttrOut: "fuse_attr_out",
    fuse.ForgetIn: "fuse_forget_in",
    fuse.ForgetOne: "fuse_forget_one",
    fuse.BatchForgetIn: "fuse_batch_forget_in",
    fuse.SetAttrIn: "fuse_setattr_in",
    fuse.MkdirIn: "fuse_mkdir_in",
    fuse.OpenIn: "fuse_open_in",
    fuse.OpenOut: "fuse_open_out",
    fuse.HandleIn: "fuse_release_in",
    fuse.ReadIn: "fuse_read_in",
    fuse.WriteIn: "fuse_write_in",
    fuse.WriteOut: "fuse_write_out",
    fuse.StatfsOut: "fuse_kstatfs",
    fuse.InterruptIn: "fuse_interrupt_in",
    fuse.PollIn: "fuse_poll_in",
    fuse.PollOut: "fuse_poll_out",
    fuse.PollWakeup: "fuse_notify_poll_wakeup_out",
    fuse.Dirent: "fuse_dirent",
}
RENAMED = {"length": "len"}
# The header's goes on with another structure, or with fields that only newer kernels know.
BEGINNINGS = {fuse.InitIn, fuse.EntryOut, fuse.AttrOut, fuse.HandleIn}
CONSTANTS = {
    **{f"FUSE_{code.name}": int(code) for code in fuse.Opcode},
    **{f"FUSE_NOTIFY_{code.name}": int(code) for code in fuse.Notify},
    **{f"FUSE_{flag.name}": int(flag) for flag in fuse.Init},
    **{f"FOPEN_{flag.name}": int(flag) for flag in fuse.Open},
    **{f"FATTR_{flag.name}": int(flag) for flag in fuse.SetAttr},
    "FUSE_KERNEL_VERSION": fuse.MAJOR,
    "FUSE_ROOT_ID": fuse.ROOT_ID,
    "FUSE_POLL_SCHEDULE_NOTIFY": fuse.POLL_SCHEDULE_NOTIFY,
    "FUSE_COMPAT_22_INIT_OUT_SIZE": fuse.InitOut.compat_22_size,
}


class Header:
    """A program that was compiled with the header, and fills its structures with what it is told."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, *words: object) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Header]:
    if not Path("/usr/include/linux/fuse.h").exists():
        pytest.skip("linux/fuse.h is not installed")
    lines = []
    for ours, theirs in STRUCTURES.items():
        names = [RENAMED.get(field.name, field.name) for field in fields(ours)]
        sets = " ".join(f"s.{name} = next();" for name in names)
        lines.append(
            f'if (!strcmp(name, "{ours.__name__}")) {{ struct {theirs} s; memset(&s, 0, sizeof s); {sets} '
            "show(&s, sizeof s); }"
        )
    lines += [f'if (!strcmp(name, "{name}")) printf("%lld\\n", (long long){name});' for name in CONSTANTS]
    source = (
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <linux/fuse.h>\n"
        "static long long next(void) { char w[32]; return scanf(\"%31s\", w) == 1 && *w == '-' ? "
        "strtoll(w, 0, 10) : (long long)strtoull(w, 0, 10); }\n"
        "static void show(const void *at, int n) { const unsigned char *p = at; while (n--) "
        'printf("%02x", *p++); puts(""); }\n'
        'int main(void) { char name[64]; while (scanf("%63s", name) == 1) {\n'
        + "\n".join(lines)
        + "\nfflush(stdout); } return 0; }\n"
    )
    found = Header(build(tmp_path_factory.mktemp("header"), "header", source))
    yield found
    found.close()


@pytest.mark.parametrize("ours", STRUCTURES, ids=lambda ours: ours.__name__)
@given(data=st.data())
def test_structures_are_the_headers(header: Header, ours: type[Structure], data: st.DataObject) -> None:
    sizes = {"H": (0, 1 << 16), "I": (0, 1 << 32), "Q": (0, 1 << 64), "i": (-(1 << 31), 1 << 31)}
    codes = [code for code in ours.layout.format if code in sizes]
    values = [data.draw(st.integers(sizes[code][0], sizes[code][1] - 1)) for code in codes]
    theirs = bytes.fromhex(header.ask(ours.__name__, *values))
    packed = ours.unpack(ours.layout.pack(*values)).pack()
    assert theirs[: len(packed)] == packed
    assert len(theirs) == len(packed) or ours in BEGINNINGS
    before = data.draw(st.binary(max_size=9))
    assert list(vars(ours.unpack(before + theirs, len(before))).values()) == values
    with pytest.raises(fuse.Malformed):
        ours.unpack(packed[:-1])


def test_constants_are_the_headers(header: Header) -> None:
    assert {name: int(header.ask(name)) for name in CONSTANTS} == CONSTANTS


def test_all_structures_are_compared() -> None:
    assert set(STRUCTURES) == set(Structure.__subclasses__())


MOUNTINFO = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
31 22 0:27 / /a\040b\011\134040\012 rw - tmpfs t\040s rw,size=4k
99 31 0:44 /sub /mnt rw,nosuid master:3 propagate_from:2 - fuse.ksym ksym rw,user_id=0
77 99 0:45 / /mnt rw - fuse.ksym ksym rw
no line of mountinfo
100 22 0:46
"""


def test_mountinfo() -> None:
    assert parse_mountinfo(MOUNTINFO) == [
        Mount(22, 1, "8:1", "/", "ext4", "/dev/root"),
        Mount(31, 22, "0:27", "/a b\t\\040\n", "tmpfs", "t s"),
        Mount(99, 31, "0:44", "/mnt", "fuse.ksym", "ksym"),
        Mount(77, 99, "0:45", "/mnt", "fuse.ksym", "ksym"),
    ]


def test_the_mount_on_top_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "read_bytes", lambda path: MOUNTINFO)
    top = mounts.mount_at("/mnt")
    assert top is not None
    assert top.number == 77
    assert mounts.mount_at("/mnt/x") is None


@given(st.binary())
def test_mountinfo_never_fails(data: bytes) -> None:
    parse_mountinfo(data)
    parse_mountinfo(MOUNTINFO + data)
