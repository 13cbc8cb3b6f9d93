# SPDX-License-Identifier: BSD-2-Clause
"""From perf's records to accesses: merged, coalesced, named, read or write decided."""
