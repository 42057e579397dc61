# make demo   set up, train on the embedded digits, sample, evaluate, show where the pictures are
# make test   set up, lint, type-check, run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench soak parity docs clean

# Everything is installed from what pyproject.toml says, in the tested versions; nothing is expected to be there.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "langevin needs Python 3.11 or newer; say which with: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/langevin train digits --out runs/digits --resume

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# one worker a core, each of one thread; a file's tests stay together, since they share what they set up
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak" -n auto --dist loadfile --no-loadscope-reorder

soak: SHELL := /bin/bash
soak: $(READY)
	set -o pipefail; $(BIN)/python -m pytest -m soak -q --no-header 2>&1 | tee bench/results/soak.txt

# published checkpoints beside the peers, as tests have them, and on configurations drawn by other seeds
parity: $(READY)
	$(BIN)/python -m pytest tests/parity
	for seed in 7 11 23; do LANGEVIN_HELDOUT=$$seed $(BIN)/python -m pytest -q tests/parity || exit 1; done

bench: $(READY)
	$(BIN)/python bench/overhead.py --out bench/results/overhead.csv
	$(BIN)/python bench/start.py --out bench/results/start.csv
	$(BIN)/python bench/sampler_quality.py --peers langevin --again
	$(BIN)/python bench/sampler_report.py
	$(BIN)/python bench/bars.py --out bench/results/bars.md

docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site dist .pytest_cache .ruff_cache
