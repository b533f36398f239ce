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

.PHONY: demo test test-slow test-gpu model teeth chaos soak lint report bench clean

demo: $(READY)
	$(BIN)/farflung demo $(ARGS)

# Two workers suit two cores; ARGS="-n 8" on more, ARGS="-n 0 -x" to see one failure at a time.
test: $(READY)
	$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

test-slow: $(READY)
	$(BIN)/pytest -m slow $(ARGS)

# On a machine with a GPU; elsewhere all are skipped, with a count.
test-gpu: $(READY)
	$(BIN)/pytest -m gpu tests/gpu $(ARGS)

model: $(READY)
	$(BIN)/python tests/model/report.py

# Planted bugs and the tests that must catch them; ARGS="--rotate 4" takes four by the commit.
teeth: $(READY)
	$(BIN)/python tests/teeth/bite.py $(ARGS)

chaos: $(READY)
	$(BIN)/farflung chaos $(ARGS)

# About an hour and a half on two cores: real processes for 60 minutes, 20,000 simulated storms.
soak: $(READY)
	$(BIN)/farflung sim --seeds 0:20000 --faults 8 --twice 200 --report soak-sim.json & sim=$$!; \
	$(BIN)/farflung chaos --minutes 60 --report soak-chaos.json; chaos=$$?; \
	wait $$sim && exit $$chaos

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Rooms, longest files and functions, widest classes; judges nothing.
report: $(READY)
	$(BIN)/python tests/house_report.py

bench: $(READY)
	for b in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/*.py)); do echo "== $$b"; $(BIN)/python $$b || exit 1; done

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "farflung needs Python 3.11 or newer: apt-get install python3 python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot create a virtual environment: apt-get install $(notdir $(PYTHON))-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
