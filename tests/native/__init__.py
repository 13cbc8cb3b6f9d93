# SPDX-License-Identifier: BSD-2-Clause
"""Tests that plant real watchpoints on this machine's kernel."""
