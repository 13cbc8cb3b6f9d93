# SPDX-License-Identifier: BSD-2-Clause
"""From requests to an armed run and its accesses: what the commands, the Python API and the tracing directory share."""
