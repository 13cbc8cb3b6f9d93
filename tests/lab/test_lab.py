# SPDX-License-Identifier: BSD-2-Clause
"""The lab itself: what it says of a guest has to be true, or the other tests mean nothing."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
from pathlib import Path

import pytest

from lab.conftest import ImageOf
from lab.kernel import LabError, boot
from lab.kernel.fetch import guest_root, newest
from lab.kernel.image import Image, payload
from lab.kernel.initramfs import Job
from lab.kernel.kernels import ARM64, KERNELS, X86, chosen

ELF = b"\x7fELF and so on"


def bzimage(packed: bytes) -> bytes:
    """A kernel image of one sector of set-up code, and a payload 32 bytes into the rest."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 32, len(packed))
    return bytes(head) + bytes(32) + packed + b"what follows the payload"


@pytest.mark.parametrize(
    "packed", [gzip.compress(ELF), lzma.compress(ELF) + struct.pack("<I", len(ELF))], ids=["gzip", "xz"]
)
def test_payload_of_a_kernel_image(packed: bytes) -> None:
    assert payload(bzimage(packed)) == ELF


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (bytes(4096), "no x86 boot header"),
        (bzimage(b"????????"), r"unknown way \(3f3f3f3f\)"),
        (bzimage(gzip.compress(b"text")), "not an ELF file"),
    ],
)
def test_payload_refuses(image: bytes, why: str) -> None:
    with pytest.raises(LabError, match=why):
        payload(image)


def test_kernels_are_chosen_by_name() -> None:
    assert [kernel.quick for kernel in chosen("")].count(True) == len(chosen("")) > 0
    assert chosen("all") == KERNELS
    names = [KERNELS[2].name, KERNELS[0].name]
    assert [kernel.name for kernel in chosen(", ".join(names))] == names
    with pytest.raises(LabError, match="no kernel is called linus"):
        chosen("linus")


def test_newest_package_that_a_pattern_fits() -> None:
    names = [f"linux-image-6.18.{patch}+deb13-cloud-amd64" for patch in ("9", "15", "5")]
    others = ["linux-image-6.19.1+deb13-cloud-amd64", "linux-image-6.18.20+deb13-rt-amd64"]
    pattern = "linux-image-6.18.*-cloud-amd64"
    assert newest([*names, *others], pattern) == "linux-image-6.18.15+deb13-cloud-amd64"
    with pytest.raises(LabError, match=r"there is no linux-image-6\.18"):
        newest(others, pattern)


def test_machine_of_an_image(tmp_path: Path) -> None:
    """One of arm64 is started as its package has it."""
    arm, x86 = (Image(tmp_path / f"6.12.1-cloud-{name}") for name in ("arm64", "amd64"))
    assert (arm.machine, x86.machine) == (ARM64, X86)
    assert [image.bootable(kaslr=kaslr).name for image in (arm, x86) for kaslr in (False, True)] == [
        "vmlinuz", "vmlinuz", "vmlinux", "vmlinuz",
    ]  # fmt: skip
    assert guest_root(x86).needs == ()


@pytest.mark.lab
def test_dead_guest_is_told_and_not_tried_again(image_of: ImageOf, tmp_path: Path) -> None:
    """What it printed and kept until then is there, once."""
    kept = tmp_path / "it's kept"
    kept.mkdir()
    script = 'echo said; echo more >&2; echo line >>"$0/file"; touch /lost; echo c >/proc/sysrq-trigger'
    out, err = io.BytesIO(), io.BytesIO()
    job = Job(["sh", "-c", script, str(kept)], writable=[kept], limit=30)
    outcome = boot.run(image_of(chosen("")[0]), job, out, err)
    assert outcome.end is boot.End.DIED
    assert outcome.ready is not None
    assert outcome.status is None
    assert "sysrq triggered crash" in outcome.console
    assert (out.getvalue(), err.getvalue()) == (b"said\n", b"more\n")
    assert (kept / "file").read_text() == "line\n"
    assert not Path("/lost").exists()


@pytest.mark.lab
def test_command_past_its_limit_is_interrupted(image_of: ImageOf) -> None:
    out = io.BytesIO()
    job = Job(["sh", "-c", "trap 'echo stopped; exit 7' INT; sleep 60 & wait"], limit=1)
    outcome = boot.run(image_of(chosen("")[0]), job, out, io.BytesIO())
    assert outcome.end is boot.End.TIME_LIMIT
    assert outcome.status == 7
    assert out.getvalue() == b"stopped\n"
