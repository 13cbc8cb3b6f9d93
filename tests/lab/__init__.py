# SPDX-License-Identifier: BSD-2-Clause
"""Tests on stock Debian kernels under emulation, and the lab that boots them."""
