# SPDX-License-Identifier: BSD-2-Clause
"""From accesses to rows and summaries."""
