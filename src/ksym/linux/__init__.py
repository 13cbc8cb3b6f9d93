# SPDX-License-Identifier: BSD-2-Clause
"""The thin typed layer over the kernel's ABI: perf_event, rings, bpf(2), ptrace, /proc, /sys. No policy in it."""
