# SPDX-License-Identifier: BSD-2-Clause
"""ksym: who reads or writes this variable?"""

__version__ = "0.1.0.dev0"
