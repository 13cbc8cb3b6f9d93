# SPDX-License-Identifier: BSD-2-Clause
"""Programs and libraries as they lie in a running process: which file, and moved by how much."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ksym.errors import KsymError
from ksym.linux.maps import Mapping, read_maps, same_device
from ksym.linux.process_memory import ProcessMemory
from ksym.linux.process_status import check_process
from ksym.symbols.debugfile import find_debug_file
from ksym.symbols.elf import ET_EXEC, PF_X, ElfError, ElfFile, Segment
from ksym.symbols.originals import Originals
from ksym.symbols.symtab import SymbolTable

_PAGE = os.sysconf("SC_PAGESIZE")


class ObjectNotMapped(KsymError):
    """The process does not have that program or library in its memory (or not yet)."""


@dataclass(frozen=True)
class LoadedObject:
    """A file in a process's memory: link-time address + ``bias`` = run-time address."""

    label: str
    """As the user named it."""
    path: str
    """As the kernel shows it."""
    bias: int
    elf: ElfFile
    mappings: tuple[Mapping, ...]
    root: str
    """``/proc/PID/root``, where its debug file may lie."""

    @property
    def basename(self) -> str:
        """The file's name, as rows show it."""
        return self.path.rpartition("/")[2]

    @cached_property
    def debug(self) -> ElfFile | None:
        """The separate debug file."""
        return find_debug_file(self.elf, root=self.root)

    @property
    def tables(self) -> tuple[SymbolTable, ...]:
        """The symbol tables of the file, and of its debug file where it is stripped."""
        if self.elf.has_symtab or self.debug is None:
            return self.elf.tables
        return self.debug.tables + self.elf.tables


class Process:
    """A running process and the files in its memory; a context manager that closes those.

    Args:
        pid: The process.
        originals: Files that are those of a path whatever their name is by now.

    Raises:
        KsymError: there is no such process, or it may not be looked into.
    """

    def __init__(self, pid: int, originals: Originals | None = None) -> None:
        self.pid = pid
        self._originals = originals or Originals()
        self.root = f"/proc/{pid}/root"
        self._opened: dict[tuple[int, int, str], ElfFile] = {}
        self.maps()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; types that were read lazily from them cannot be looked into afterwards."""
        for elf in self._opened.values():
            elf.close()
        self._opened.clear()

    def maps(self) -> list[Mapping]:
        """The mappings as they are now."""
        return read_maps(self.pid)

    @cached_property
    def executable(self) -> LoadedObject | None:
        """The main program, or None where that cannot be told."""
        try:
            identity = os.stat(f"/proc/{self.pid}/exe")
            link = os.readlink(f"/proc/{self.pid}/exe")
        except OSError:
            return None
        files = _files(self.maps())
        for group in files:
            first = group[0]
            if first.inode == identity.st_ino and (
                first.device == identity.st_dev or link.startswith(first.path)
            ):
                return self._loaded(first.path, group)
        return None

    def find_object(self, spec: str) -> LoadedObject:
        """The program or library that ``spec`` names: a path, or a library's file name or soname.

        Raises:
            ObjectNotMapped: the process has no such file in its memory.
            KsymError: the name fits several files, or the file cannot be read.
        """
        files = _files(self.maps())
        found = self._with_path(spec, files) if "/" in spec else self._with_name(spec, files)
        if not found:
            raise self._not_mapped(spec, files)
        if len(found) > 1:
            paths = ", ".join(sorted({group[0].path for group in found}))
            raise KsymError(
                f"cannot tell which {spec} is meant",
                f"process {self.pid} has {paths}",
                "write one of these paths",
            )
        return self._loaded(spec, found[0])

    def mapped(self, spec: str) -> list[Mapping]:
        """Return the mappings of ``spec``, whatever of it is in memory by now."""
        files = _files(self.maps())
        found = self._with_path(spec, files) if "/" in spec else self._with_name(spec, files)
        return [mapping for group in found for mapping in group]

    def biases(self, spec: str) -> frozenset[int]:
        """Return the load bias of each copy of ``spec`` that is in memory by now with all of its segments in place."""
        files = _files(self.maps())
        found = self._with_path(spec, files) if "/" in spec else self._with_name(spec, files)
        return frozenset(bias for group in found for bias in self._biases(group))

    def relocated(self, spec: str) -> bool:
        """Return True if a copy of ``spec`` in memory is relocated: code that uses it may have run.

        Raises:
            KsymError: the file cannot be read, or the process has ended.
        """
        files = _files(self.maps())
        found = self._with_path(spec, files) if "/" in spec else self._with_name(spec, files)
        memory = ProcessMemory(self.pid)
        return any(
            self._open(group[0]).dynamic.relocated(memory, bias)
            for group in found
            for bias in load_biases(self._open(group[0]), group)
        )

    def _biases(self, group: list[Mapping]) -> Iterator[int]:
        # The dynamic linker maps a library as a whole, then its segments over that, one by one.
        try:
            elf = self._open(group[0])
        except ElfError:
            yield group[0].start  # using it will tell what is wrong
            return
        for number in range(len(group)):
            bias = load_bias(elf, group[number:])
            if bias is not None:
                yield bias

    def instances(self, loaded: LoadedObject) -> list[LoadedObject]:
        """All places at which a file is loaded in this process; more than one by dlmopen(3), which see."""
        biases = load_biases(loaded.elf, loaded.mappings)
        return [replace(loaded, bias=bias) for bias in biases] or [loaded]

    def holder(self, address: int, bias: int | None = None) -> LoadedObject | None:
        """The program or library that has an address in its segments, ``.bss`` included.

        Args:
            address: The address.
            bias: Where that object lies, if that is known; else the place that fits.
        """
        maps = self.maps()
        before = [mapping for mapping in maps if mapping.is_file and mapping.start <= address][-1:]
        if not before:
            return None
        group = [mapping for mapping in maps if mapping.file_key == before[0].file_key]
        try:
            elf = self._open(before[0])
            for each in load_biases(elf, group):
                if bias in (None, each) and any(
                    s.vaddr + each <= address < s.vaddr + each + s.memsz for s in elf.loads
                ):
                    return LoadedObject(
                        before[0].basename, before[0].path, each, elf, tuple(group), self.root
                    )
        except ElfError:
            return None
        return None

    # -- choice --------------------------------------------------------------------------------------

    def _with_path(self, spec: str, files: list[list[Mapping]]) -> list[list[Mapping]]:
        # The user's path, and the same path as the process sees it (containers have roots of their own).
        outside = os.path.realpath(spec)
        try:
            root = os.path.realpath(self.root)
            inside = os.path.realpath(self.root + spec) if spec.startswith("/") else ""
        except OSError:  # the process has just ended
            return []
        names = {outside, os.path.abspath(spec), inside.removeprefix(root) or outside}
        identities = set()
        # The links of /proc lead to a file itself (exe, map_files, root, fd), whatever became of its name.
        for path in (spec, inside):
            try:
                status = os.stat(path)
                identities.add((status.st_dev, status.st_ino))
            except (OSError, ValueError):
                continue
        by_file = [group for group in files if (group[0].device, group[0].inode) in identities]
        if by_file:
            return by_file
        # The path may lead to another file by now, or to none.
        renamed = [
            group for group in files if self._originals.is_that_of(spec, group[0].device, group[0].inode)
        ]
        # Some file systems (btrfs, overlayfs) show another device in maps than stat gives. A file that was
        # built anew since is another file: its path is mapped, as a deleted one.
        return renamed or [group for group in files if group[0].path in names]

    def _with_name(self, spec: str, files: list[list[Mapping]]) -> list[list[Mapping]]:
        exact = [group for group in files if group[0].basename == spec]
        if exact:
            return exact
        # libfoo.so may be libfoo.so.1.2, libc.so.6 was libc-2.31.so
        stem = spec.partition(".so")[0]
        near = [
            g for g in files if g[0].basename.startswith((spec + ".", stem + "-")) and ".so" in g[0].basename
        ]
        return [group for group in near if group[0].basename.startswith(spec + ".")] or self._with_soname(
            spec, near
        )

    def _with_soname(self, spec: str, files: list[list[Mapping]]) -> list[list[Mapping]]:
        found = []
        for group in files:
            try:
                if self._open(group[0]).soname == spec:
                    found.append(group)
            except ElfError:
                continue
        return found

    def _not_mapped(self, spec: str, files: list[list[Mapping]]) -> ObjectNotMapped:
        from ksym.symbols.nearest import nearest

        check_process(self.pid, user=True)
        base = spec.rpartition("/")[2]
        # A library may be named by its file's name alone, a program by its path.
        names = {g[0].basename: g[0].basename if ".so" in g[0].basename else g[0].path for g in files}
        near = (
            nearest(base, names) or [n for n in names if base.partition(".")[0] in n][:3] or list(names)[:5]
        )
        todo = f"name one that it has: {', '.join(names[each] for each in near)}" if near else ""
        return ObjectNotMapped(f"cannot find {spec} in process {self.pid}", "it is not in its memory", todo)

    # -- files ---------------------------------------------------------------------------------------

    def _loaded(self, label: str, group: list[Mapping]) -> LoadedObject:
        elf = self._open(group[0], label)
        bias = load_bias(elf, group)
        if bias is None:
            raise KsymError(
                f"cannot tell where {label} lies in process {self.pid}",
                "its mappings do not fit its program headers",
                "watch 0xADDRESS/LENGTH instead",
            )
        return LoadedObject(label, group[0].path, bias, elf, tuple(group), self.root)

    def _open(self, mapping: Mapping, label: str = "") -> ElfFile:
        known = self._opened.get(mapping.file_key)
        if known is None:
            path = readable_path(self.pid, mapping)
            if path is None:
                raise ElfError(
                    f"cannot read {label or mapping.path}",
                    f"it was deleted or replaced since process {self.pid} mapped it", "run ksym as root",
                )  # fmt: skip
            known = self._opened[mapping.file_key] = ElfFile(path, label=label or mapping.path)
        return known


def readable_path(pid: int, mapping: Mapping) -> str | None:
    """A path under which the file that a process has mapped can be opened, whatever became of its name.

    None where that file cannot be had any more; what has its name now is another one.
    """
    root = f"/proc/{pid}/root{mapping.path}"
    certain = (f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}", f"/proc/{pid}/exe")
    # By name first, so that debug files are looked for beside it; map_files needs privileges (man 5 proc).
    for path in (mapping.path, root, *certain):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        if status.st_ino == mapping.inode and (path in certain or same_device(status.st_dev, mapping.device)):
            return path
    return None if mapping.deleted else root


def _files(maps: Sequence[Mapping]) -> list[list[Mapping]]:
    # The mappings of each file that is loaded rather than read: something of it is executable or was
    # mapped at more than one place.
    groups: dict[tuple[int, int, str], list[Mapping]] = {}
    for mapping in maps:
        if mapping.is_file:
            groups.setdefault(mapping.file_key, []).append(mapping)
    return [group for group in groups.values() if any(m.executable for m in group)]


def load_bias(elf: ElfFile, mappings: Sequence[Mapping]) -> int | None:
    """Run-time minus link-time address of a loaded file; None where the mappings are not those of a loader.

    Args:
        elf: The file.
        mappings: Its mappings, by address.
    """
    return next(iter(load_biases(elf, mappings)), None)


def load_biases(elf: ElfFile, mappings: Sequence[Mapping]) -> list[int]:
    """The same for each time that the file is loaded; a process may have it in several link namespaces."""
    if elf.type == ET_EXEC:
        return [0]
    loads = elf.loads
    if not loads:
        return []
    # A loader maps whole pages: from the page of the segment's file offset, at the page of its address.
    # Others, a debugger or this very program, map files to read them: shared, or nothing executable.
    private = [mapping for mapping in mappings if "s" not in mapping.perms]
    starts = {
        mapping.start - (loads[0].vaddr & -_PAGE): None
        for mapping in private
        if mapping.offset == loads[0].offset & -_PAGE
    }
    segments = [segment for segment in loads if segment.filesz]
    return [bias for bias in starts if all(_in_place(segment, bias, private) for segment in segments)]


def _in_place(segment: Segment, bias: int, mappings: Sequence[Mapping]) -> bool:
    start = (segment.vaddr & -_PAGE) + bias
    for mapping in mappings:
        if start in mapping and start - mapping.start + mapping.offset == segment.offset & -_PAGE:
            return mapping.executable or not segment.flags & PF_X
    return False
