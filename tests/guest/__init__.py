# SPDX-License-Identifier: BSD-2-Clause
"""Tests that run inside a lab guest; see `lab.test_kernels`."""
