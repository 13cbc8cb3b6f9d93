# SPDX-License-Identifier: BSD-2-Clause
"""Recordings: perf.data files, written as the rings give their bytes, and read anywhere."""
