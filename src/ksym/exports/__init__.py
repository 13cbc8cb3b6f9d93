# SPDX-License-Identifier: BSD-2-Clause
"""Recordings for other programs: a module a format. All of them work on columns, never on an access at a time."""
