# SPDX-License-Identifier: BSD-2-Clause
"""The tracing directory: files that are served to any shell through FUSE."""
