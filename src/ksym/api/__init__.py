# SPDX-License-Identifier: BSD-2-Clause
"""The Python API, which ``import ksym`` offers by the names in `ksym.__all__`; docs/api.md tells of it with examples.

A module each for what watches (`live`), and for what reads recordings (`opening`, `recording`). Only the latter needs
numpy.
"""
