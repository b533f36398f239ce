# Two commands: `make demo` and `make test`. Each creates .venv when needed.
SHELL := /bin/bash
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && { echo $$p; break; }; done)

.PHONY: demo test test-slow lint bench clean

demo: $(READY)
	$(BIN)/farflung demo $(ARGS)

test: $(READY)
	$(BIN)/pytest $(ARGS)

test-slow: $(READY)
	$(BIN)/pytest -m slow $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	for b in benchmarks/*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "farflung needs Python 3.11 or newer: apt-get install python3 python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot create a virtual environment: apt-get install $(notdir $(PYTHON))-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
