# SPDX-License-Identifier: BSD-2-Clause
"""Tests of the report's page in a Chromium without a window."""
