# SPDX-License-Identifier: BSD-2-Clause
"""What a recording says, for people: analysed with numpy, then shown; a module an output."""
