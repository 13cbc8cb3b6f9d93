# SPDX-License-Identifier: BSD-2-Clause
"""The files of a run that was killed: whole, and what was there before is kept."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

from faults.cases import Case
from ksym.errors import KsymError
from ksym.recording.reader import open_recording

_OLD = b"what was there before\n"
_DATA_SIZE_AT = 48
"""struct perf_file_header, tools/perf/util/header.h: where the size of the data is."""


class Files:
    """What a run writes in its folder.

    Args:
        folder: The folder.
        case: The run.
        whole: What ``out`` holds once it is written.
    """

    def __init__(self, folder: Path, case: Case, whole: bytes | None) -> None:
        self._folder, self._case, self._whole = folder, case, whole

    def prepare(self) -> None:
        """Put something under the names that it writes to, where it has to keep or to replace that."""
        if self._case.verb == "record":
            (self._folder / "x.data").write_bytes(_OLD)
            if self._case.rotates:
                (self._folder / "x.data.1").write_bytes(_OLD)
        elif self._case.makes_file and self._case.forced:
            (self._folder / "out").write_bytes(_OLD)

    def moments(self) -> dict[str, Callable[[], bool]]:
        """Events at which the run may be killed."""
        folder, case = self._folder, self._case
        found: dict[str, Callable[[], bool]] = {}
        if case.verb == "record":
            found["its file is there"] = lambda: _content(folder / "x.data")[:1] != _OLD[:1]
            found["its file has hits"] = lambda: _data_size(folder / "x.data") > 0
        if case.rotates:
            found["its file is rotated"] = lambda: _content(folder / "x.data.1")[:8] == b"PERFILE2"
        if "rows" in case.words:
            found["it has rows"] = lambda: bool(_content(folder / "rows"))
        if case.makes_file:
            found["it writes"] = lambda: any(folder.glob(".ksym-*"))
        return found

    def look(self) -> list[str]:
        """What is wrong with them, in sentences."""
        problems = []
        if self._case.verb == "record":
            problems += self._recordings()
        if self._case.makes_file:
            here = _content(self._folder / "out")
            allowed = [self._whole, _OLD if self._case.forced else b""]
            if here not in allowed and self._whole is not None:
                problems.append(
                    f"out is neither whole nor what it was: {len(here)} bytes of {len(self._whole)}"
                )
        if "rows" in self._case.words:
            problems += _rows(self._folder / "rows", as_json="json" in self._case.words)
        return problems

    def _recordings(self) -> list[str]:
        problems = []
        for name in ("x.data", *(["x.data.1"] if self._case.rotates else [])):
            kept = [_content(self._folder / each) for each in (name, f"{name}.old", f"{name}.1")]
            if not self._case.forced and _OLD not in kept:
                problems.append(f"what {name} was is not kept")
            if kept[0] not in (b"", _OLD):
                problems += self._recording(self._folder / name)
        return problems

    def _recording(self, path: Path) -> list[str]:
        """It can be read, by perf as well, as far as its header says that it was written."""
        size = _data_size(path)
        try:
            recording = open_recording(str(path))
            hits = int(recording.accesses().hits.sum())
        except KsymError as error:
            return [f"{path.name} with {size} bytes of data cannot be read: {error}"] if size else []
        if recording.cut not in (None, "its recorder was killed"):
            return [f"{path.name} is not whole: {recording.cut}"]
        if shutil.which("perf") is None or not size:
            return []
        words = ["perf", "script", "-i", path.name, "-F", "ip", "-G"]
        done = subprocess.run(words, cwd=self._folder, capture_output=True, text=True)
        samples = len(done.stdout.split())
        if done.returncode or (samples != hits and "--limit" not in self._case.words):
            return [f"perf finds {samples} hits in {path.name}, ksym {hits}: {done.stderr}"]
        return []


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _data_size(path: Path) -> int:
    """What the header of a recording says that it has; 0 where there is none."""
    head = _content(path)[: _DATA_SIZE_AT + 8]
    if len(head) < _DATA_SIZE_AT + 8 or not head.startswith(b"PERFILE2"):
        return 0
    return int(struct.unpack_from("<Q", head, _DATA_SIZE_AT)[0])


def _rows(path: Path, *, as_json: bool) -> list[str]:
    """Rows are written as they come: each but the last is a whole line."""
    if not as_json:
        return []
    try:
        for line in _content(path).splitlines()[:-1]:
            json.loads(line)
    except ValueError:
        return [f"a row is no row: {line!r}"]
    return []
