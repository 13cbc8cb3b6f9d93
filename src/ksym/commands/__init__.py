# SPDX-License-Identifier: BSD-2-Clause
"""The commands, a module each: ``prepare_parser`` declares its options, ``run`` does it.

``session`` is what trace, stat and demo share: from requests to an armed run.
"""
