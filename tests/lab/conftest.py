# SPDX-License-Identifier: BSD-2-Clause
"""What the tests of the lab share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab.kernel import LabError, boot
from lab.kernel.fetch import fetch, guest_root
from lab.kernel.image import Image
from lab.kernel.kernels import Kernel

ImageOf = Callable[[Kernel], Image]


@pytest.fixture(scope="session")
def image_of() -> ImageOf:
    """Fetches a kernel; skips the test if this machine cannot boot any, or a rarer one is not to be had."""

    def image(kernel: Kernel) -> Image:
        if lacks := boot.missing(kernel.machine):
            pytest.skip(f"the lab lacks {', '.join(lacks)}")
        try:
            found = fetch(kernel)
            guest_root(found)  # it is downloaded, too
            return found
        except LabError as error:
            if kernel.quick:
                raise
            pytest.skip(str(error))

    return image
