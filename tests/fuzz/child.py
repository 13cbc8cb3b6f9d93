# SPDX-License-Identifier: BSD-2-Clause
"""One target under atheris: ``python -m fuzz.child TARGET FOLDER RUNS``.

What breaks a contract is kept in FOLDER/found under a name made of what happened, one input of each kind, and the run
goes on. FOLDER/count holds how many inputs were tried, as 8 bytes, so that it is known after a crash, too.
"""

from __future__ import annotations

import gc
import hashlib
import mmap
import struct
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from fuzz import targets
from fuzz.contract import fault_of, limit_memory

_ROOM = 3 << 30


def main() -> None:
    """Run it; libFuzzer ends the process."""
    name, folder, runs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    atheris: Any = import_module("atheris")  # it has no types
    hooks: Any = import_module("atheris.import_hook")
    corpus, kept = folder / "corpus", folder / "found"
    for each in (corpus, kept):
        each.mkdir(parents=True, exist_ok=True)
    count = _counter(folder / "count")
    # What ksym imports late is to be instrumented as well: the hook stays.
    with hooks.HookManager(
        {"ksym", "elftools"}, set(targets.apart(name)), enable_loader_override=True,
        trace_dataflow=name not in targets.STRUCTURED,
    ):  # fmt: skip
        target = targets.load(name)
        faults = {path.name.rpartition("-")[0] for path in kept.iterdir()}

        def one(data: bytes) -> None:
            count[0:8] = struct.pack("<Q", struct.unpack("<Q", count[0:8])[0] + 1)
            fault = fault_of(target.run, data)
            if fault is not None:
                short = hashlib.sha1(fault.encode(), usedforsecurity=False).hexdigest()[:12]
                if short not in faults:
                    faults.add(short)
                    digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()[:8]
                    (kept / f"{short}-{digest}").write_bytes(data)
                    with (folder / "faults").open("a") as file:
                        file.write(f"{short}-{digest} {fault}\n")

        for path in [*targets.seeds(name), *targets.found(name)]:
            (corpus / path.name).write_bytes(path.read_bytes())
        options: dict[str, Any] = {}
        if target.mutate:
            change = target.mutate

            def mutate(data: bytes, most: int, seed: int) -> bytes:
                return change(data, most, seed) if seed % 8 else bytes(atheris.Mutate(data, most))

            options["custom_mutator"] = mutate
        limit_memory(_ROOM)
        gc.freeze()  # what is loaded is not to be looked through again and again
        gc.set_threshold(20_000)
        arguments = [
            sys.argv[0], str(corpus), f"-runs={runs}", f"-max_len={target.longest}", f"-artifact_prefix={folder}/",
            "-timeout=300", "-rss_limit_mb=0", "-print_final_stats=1", "-reduce_inputs=0",
        ]  # fmt: skip
        atheris.Setup(arguments, one, **options)
        atheris.Fuzz()


def _counter(path: Path) -> mmap.mmap:
    if not path.exists():
        path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 8)


if __name__ == "__main__":
    main()
