# SPDX-License-Identifier: BSD-2-Clause
"""Programs whose every access is known, and what ksym has to say of them."""
