# SPDX-License-Identifier: BSD-2-Clause
"""From requests to variables: address, size, type, and where that knowledge came from."""
