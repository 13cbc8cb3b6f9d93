# SPDX-License-Identifier: BSD-2-Clause
"""Hostile input: what each reader of foreign bytes may do with whatever it is given.

A module a target. Its ``run`` takes any bytes and raises `contract.Broken`, or whatever came out, where the contract
of the reader is broken. ``python -m fuzz`` lets atheris, which sees what new code an input reaches, make the bytes;
`test_replay` gives each target its seeds (``seeds/TARGET``, made by ``python -m fuzz.make_seeds``) and every input
that once broke it (``found/TARGET``), without atheris.
"""
