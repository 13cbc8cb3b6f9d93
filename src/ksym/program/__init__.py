# SPDX-License-Identifier: BSD-2-Clause
"""From a plan to what runs in the kernel at each hit: BPF programs, and the layout of what they write."""
