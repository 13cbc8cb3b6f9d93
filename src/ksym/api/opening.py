# SPDX-License-Identifier: BSD-2-Clause
"""`ksym.open`; what it needs is loaded when it is called."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ksym.api import arguments
from ksym.errors import KsymError

if TYPE_CHECKING:
    from ksym.api.recording import Recording


def open(path: str | os.PathLike[str]) -> Recording:  # noqa: A001 - it is ksym.open
    """Read a recording of ``ksym record``, or of ``perf record -e mem:ADDRESS -c 1``.

    Raises:
        KsymError: it is none, or numpy is not installed.
    """
    try:
        from ksym.api.recording import Recording
    except ImportError:
        raise KsymError("cannot read recordings", "numpy is not installed", "pip install numpy") from None
    return Recording(arguments.path("cannot read a recording", "its path", path))
