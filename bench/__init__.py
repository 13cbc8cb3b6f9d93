# SPDX-License-Identifier: BSD-2-Clause
"""What ksym costs, held against its peers: ``make bench``.

Each figure runs ksym and a peer on the same work, in turns (A B A B ...), so that whatever else the machine
does meets both. The ratio is taken pair by pair; the table shows the median of the ratios and their spread.

- ``workload``: the program that is watched, and the kernel variable.
- ``runner``: starting one run and taking its measure; pairs.
- ``figures``: what is measured.
- ``report``: ratios, verdicts, the table and the JSON.
"""
