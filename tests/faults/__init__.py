# SPDX-License-Identifier: BSD-2-Clause
"""What a run survives: ksym killed at any moment, and a run of many millions of hits (docs/faults.md)."""
