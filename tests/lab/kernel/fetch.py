# SPDX-License-Identifier: BSD-2-Clause
"""Download stock Debian kernels with this machine's own apt.

The mirrors, proxies and keys are the machine's; its package lists and its installed packages stay
as they are, because apt works on a private state in the cache. The cache is
``$KSYM_LAB_CACHE`` (default ``~/.cache/ksym-lab``)::

    apt/SUITE-MACHINE/      apt's private state
    newest/SUITE/PACKAGE    the release that the package stood for when last asked
    images/RELEASE/         the unpacked kernel
    roots/SUITE-MACHINE-.../    the root directory of guests that cannot run this machine's programs

What the mirror says is believed for a day; later, and without a network, what is cached is used.
"""

from __future__ import annotations

import fcntl
import fnmatch
import os
import re
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.kernel import LabError
from lab.kernel.image import Image
from lab.kernel.kernels import ARM64, X86, Kernel

BELIEVED = 24 * 3600
ARCHITECTURES = {X86: "amd64", ARM64: "arm64"}
"""What Debian calls the machines."""
TREE = Path(__file__).resolve().parents[3]
ROOT_SUITE = "bookworm"
ROOT_PACKAGES = (
    *("bash", "busybox-static", "coreutils", "dash", "grep", "kmod", "mount", "procps", "sed", "util-linux"),
    *("python3", "python3-pytest"),
)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# A version of two numbers would be that of a meta package.
KERNEL_PACKAGE = re.compile(r"linux-(?:image|binary|modules|base)-(\d+\.\d+\.\d\S*)")


def cache() -> Path:
    """The directory where kernels are kept."""
    return Path(os.environ.get("KSYM_LAB_CACHE") or "~/.cache/ksym-lab").expanduser().resolve()


def fetch(kernel: Kernel) -> Image:
    """The newest image of a kernel, downloaded unless the cache has it.

    Raises:
        LabError: It is neither cached nor to be had.
    """
    newest = cache() / "newest" / kernel.suite / kernel.package
    with _locked():
        known = _image(newest)
        if known and time.time() - newest.stat().st_mtime < BELIEVED:
            return known
        try:
            image = _download(kernel)
        except LabError:
            if known:
                return known
            raise
        newest.parent.mkdir(parents=True, exist_ok=True)
        newest.write_text(image.release + "\n")
        return image


def cached(kernel: Kernel) -> Image | None:
    """The image that the cache has, whatever its age."""
    return _image(cache() / "newest" / kernel.suite / kernel.package)


def fetch_root(machine: str) -> Path:
    """The root directory of guests of another kind of machine, downloaded unless the cache has it.

    Packages are unpacked and not set up, which their own programs would have to do.

    Raises:
        LabError: It is neither cached nor to be had.
    """
    # Named by what is in it, so that it is made anew when the list changes.
    root = cache() / "roots" / f"{ROOT_SUITE}-{machine}-{zlib.crc32(' '.join(ROOT_PACKAGES).encode()):08x}"
    with _locked():
        if not root.is_dir():
            apt = _Apt(ROOT_SUITE, machine)
            apt.run("apt-get", "-qq", "update")
            plan = apt.run("apt-get", "install", "--simulate", "--no-install-recommends", *ROOT_PACKAGES)
            root.parent.mkdir(exist_ok=True)
            with _unpacked(apt, re.findall(r"^Inst (\S+)", plan, re.MULTILINE), root.name) as made:
                for name in ("dev", "proc", "root", "run", "sys", "tmp"):
                    (made / name).mkdir(exist_ok=True)
                made.rename(root)
    return root


@dataclass(frozen=True)
class GuestRoot:
    """What programs and files a guest has.

    Attributes:
        directory: Becomes its root directory.
        needs: Directories outside of it that have to be shared, too.
        python: Its Python, which has pytest.
    """

    directory: Path
    needs: tuple[Path, ...]
    python: str


def guest_root(image: Image) -> GuestRoot:
    """What guests with that kernel have: this machine's programs, where they can run them.

    Raises:
        LabError: See `fetch_root`.
    """
    if image.machine == X86:
        return GuestRoot(Path("/"), (), sys.executable)
    return GuestRoot(fetch_root(image.machine), (TREE, image.modules), "/usr/bin/python3")


def _image(newest: Path) -> Image | None:
    if not newest.exists():
        return None
    image = Image(cache() / "images" / newest.read_text().strip())
    return image if image.directory.is_dir() else None


@contextmanager
def _locked() -> Iterator[None]:
    """Two suites may run at once, and share the cache."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(kernel: Kernel) -> Image:
    apt = _Apt(kernel.suite, kernel.machine)
    apt.run("apt-get", "-qq", "update")
    packages = apt.kernel_packages(kernel.package)
    release = KERNEL_PACKAGE.fullmatch(packages[0])
    assert release
    image = Image(cache() / "images" / release[1])
    if image.directory.is_dir():
        return image
    image.directory.parent.mkdir(exist_ok=True)
    with _unpacked(apt, packages, image.release) as made:
        Image(made).unpack()
        made.rename(image.directory)
    return image


@contextmanager
def _unpacked(apt: _Apt, packages: Sequence[str], name: str) -> Iterator[Path]:
    """A new directory of that name with the packages in it.

    It is made beside its place, to be moved there whole, so that a killed download leaves no half of it.
    """
    with tempfile.TemporaryDirectory(dir=cache(), prefix="unpack-") as work:
        made = Path(work) / name
        made.mkdir()
        apt.run("apt-get", "-qq", "download", *packages, cwd=Path(work))
        for archive in Path(work).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, made], check=True)
        yield made


class _Apt:
    """apt on a private state that knows a single suite and machine, and thinks that nothing is installed."""

    def __init__(self, suite: str, machine: str) -> None:
        self._architecture = ARCHITECTURES[machine]
        self._state = cache() / "apt" / f"{suite}-{machine}"
        for name in ("lists/partial", "archives/partial"):
            (self._state / name).mkdir(parents=True, exist_ok=True)
        (self._state / "status").touch()
        keys = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        source = f"deb {keys}{_mirror(security=suite.endswith('-security'))} {suite} main\n"
        (self._state / "sources.list").write_text(source)

    def run(self, tool: str, *words: str, cwd: Path | None = None) -> str:
        """Run a tool of apt's and give back what it says."""
        settings = {
            "Dir::Etc::sourcelist": self._state / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::lists": self._state / "lists",
            "Dir::State::status": self._state / "status",
            "Dir::Cache": self._state,
            "APT::Architecture": self._architecture,
            "APT::Architectures": self._architecture,
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            # A suite past its end of life is still signed, and still good to test on.
            "Acquire::Check-Valid-Until": "false",
        }
        options = [f"-o{name}={value}" for name, value in settings.items()]
        return _said([tool, *options, *words], cwd)

    def kernel_packages(self, meta: str) -> list[str]:
        """The versioned packages behind a meta package or a pattern, the image first."""
        if "*" in meta:
            meta = newest(self.run("apt-cache", "pkgnames").splitlines(), meta)
        unwanted = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
        listing = self.run("apt-cache", "depends", "--recurse", *(f"--no-{word}" for word in unwanted), meta)
        names = sorted({line for line in listing.splitlines() if KERNEL_PACKAGE.fullmatch(line)})
        names.sort(key=lambda name: not name.startswith("linux-image-"))
        if not names or not names[0].startswith("linux-image-"):
            raise LabError(f"{meta} leads to no kernel image")
        return names


def newest(names: Iterable[str], pattern: str) -> str:
    """The package with the highest version in its name, of those that a pattern with ``*`` fits.

    Raises:
        LabError: It fits none.
    """
    fitting = fnmatch.filter(names, pattern)
    if not fitting:
        raise LabError(f"there is no {pattern}")
    return max(fitting, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _mirror(*, security: bool) -> str:
    """Where this machine gets Debian from, or its security updates.

    Raises:
        LabError: apt has no such source.
    """
    fields = "$(SITE) $(RELEASE) $(ORIGIN)"
    listing = _said(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"])
    for line in listing.splitlines():
        site, release, origin = [*line.split(maxsplit=2), ""][:3]
        # The origin is known once the machine's own lists were downloaded; until then the path tells.
        ours = origin == "Debian" or "debian" in site.rstrip("/").rsplit("/", 1)[-1]
        if ours and security == release.endswith("-security"):
            return site
    wanted = "security updates" if security else "packages"
    raise LabError(f"this machine's apt has no source of Debian's {wanted}")


def _said(command: list[str], cwd: Path | None = None) -> str:
    """What a command of apt's prints.

    Raises:
        LabError: It failed, with its own words.
    """
    try:
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise LabError(f"no {command[0]}; kernels are fetched on Debian") from None
    except subprocess.CalledProcessError as error:
        raise LabError(f"{command[0]}: {error.stderr.strip()}") from error
