# SPDX-License-Identifier: BSD-2-Clause

BIN := .venv/bin
PYTEST := $(BIN)/pytest
# Quick ones of what reads and decides: they run under python -OO, too, where asserts and docstrings are gone from ksym
# (from tests they are not: pytest rewrites those asserts).
OPTIMIZED := $(patsubst %,tests/unit/test_%.py,btf btf_kernel capture condition doctor elf language path plan refusals \
    standalone user views)

.DEFAULT_GOAL := help
.PHONY: help demo test lint unit native lab test-kernels test-spark fuzz kills soak bench bench-page pyz man dist clean setup

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' Makefile

# Where pip reaches nothing, ksym still runs: from its sources, with the standard library alone.
demo: ## show what ksym does, on this machine
	@scripts/setup-debian demo
	@if scripts/setup-venv; then \
	    exec $(BIN)/ksym demo; \
	else \
	    echo 'ksym: it could not be installed into .venv; it runs from src/ with the standard library alone'; \
	    PYTHONPATH=src exec python3 -m ksym demo; \
	fi

setup: ## install what the tests need
	@scripts/setup-debian test
	@scripts/setup-venv test

# The emulated kernels take one processor for minutes; all else runs beside them.
test: setup ## run every check and every test, lab kernels (quick set) included
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -OO -m pytest -q $(OPTIMIZED)
	@mkdir -p build
	@$(PYTEST) -m lab > build/lab.log 2>&1 & lab=$$!; \
	status=0; $(PYTEST) -m 'not lab' || status=$$?; \
	wait $$lab || status=$$?; cat build/lab.log; exit $$status

lint: setup ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/mypy

unit: setup ## the tests that plant no watchpoint
	$(PYTEST) -m 'not native and not lab'

native: setup ## the tests on this machine's own kernel
	$(PYTEST) -m native

lab: setup ## the tests on emulated kernels (quick set; KSYM_KERNELS=NAME... for others)
	$(PYTEST) -m lab

test-kernels: setup ## the tests on every emulated kernel that the suite knows
	@scripts/setup-debian kernels
	KSYM_KERNELS=all $(PYTEST) tests/lab/test_kernels.py tests/lab/test_arm64.py

test-spark: setup ## read exported Parquet files with Spark on this machine (installs PySpark; needs Java)
	$(BIN)/pip install --quiet --retries 2 --editable '.[spark]'
	KSYM_SPARK=1 $(PYTEST) tests/unit/test_export_command.py -k spark

fuzz: setup ## run the fuzzers, FUZZ_RUNS executions of each (installs atheris)
	$(BIN)/pip install --quiet --retries 2 'atheris>=3'
	PYTHONPATH=src:tests nice $(BIN)/python -m fuzz --runs $${FUZZ_RUNS:-2000}

kills: setup ## kill ksym KILLS times (200) at any moment, and see what it leaves (KILLS_SEED)
	PYTHONPATH=src:tests $(BIN)/python -m faults kills --count $${KILLS:-200} --seed $${KILLS_SEED:-1}

soak: setup ## SOAK_HITS hits (10^8: some 20 minutes) through small rings: exact totals, flat memory
	PYTHONPATH=src:tests nice $(BIN)/python -m faults soak --hits $${SOAK_HITS:-100000000}

bench: setup ## measure what ksym costs, beside perf, bpftrace and gdb
	$(BIN)/python scripts/bench

bench-page: ## put what make bench measured into docs/bench.md and README.md
	@python3 -m bench.page

pyz: ## build dist/ksym.pyz, all of ksym in one file
	@python3 scripts/build-pyz dist/ksym.pyz

man: ## build the man pages, build/ksym.1 and build/ksym-mount.1
	@python3 scripts/build-man build/ksym.1

# What an earlier build left in build/lib would go into the wheel.
dist: setup pyz ## build the wheel and dist/ksym.pyz
	rm -rf build/lib build/bdist.*
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove what was built here; the lab's kernels stay in ~/.cache/ksym-lab
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests scripts -name __pycache__ -prune -exec rm -rf {} +
