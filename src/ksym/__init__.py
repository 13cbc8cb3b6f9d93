# SPDX-License-Identifier: BSD-2-Clause
"""ksym: who reads or writes this variable?

>>> import ksym                                                       # doctest: +SKIP
>>> with ksym.trace("pid_max:-w-", limit=1) as accesses:              # doctest: +SKIP
...     for access in accesses:
...         print(access.comm, access.old, access.new)
>>> ksym.open("ksym.data").columns["time_ns"]                         # doctest: +SKIP
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ksym.api.live import Access, Accesses, trace
    from ksym.api.opening import open  # noqa: A004 - it is ksym.open
    from ksym.api.recording import Recording
    from ksym.errors import KsymError

__all__ = ["Access", "Accesses", "KsymError", "Recording", "__version__", "open", "trace"]
__version__ = "0.1.0"

_PLACES = {
    "Access": "ksym.api.live",
    "Accesses": "ksym.api.live",
    "KsymError": "ksym.errors",
    "Recording": "ksym.api.recording",
    "open": "ksym.api.opening",
    "trace": "ksym.api.live",
}


def __getattr__(name: str) -> object:
    # Loaded when it is asked for: the commands import this package, too, and their start counts.
    if name not in _PLACES:
        raise AttributeError(f"module 'ksym' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
