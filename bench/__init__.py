# SPDX-License-Identifier: BSD-2-Clause
"""What ksym costs, held against its peers: ``make bench``.

Each figure runs ksym and its peers on the same work, in turns (A B C A B C ...), so that whatever else the
machine does meets all of them. The ratio is taken round by round; the table shows the median of the ratios and
their spread.

- ``workload``: the program that is watched, and the kernel variable.
- ``runner``: starting one run and taking its measure; rounds.
- ``figures``: what is measured. Of these, ``values``: what a hit costs with its values; ``record``: what recordings
  cost; ``offline``: what reading them takes.
- ``report``: ratios, verdicts, the table and the JSON.
"""
