# SPDX-License-Identifier: BSD-2-Clause
"""From variables to armed watches: the plan, the registers, COMMAND, the run."""
