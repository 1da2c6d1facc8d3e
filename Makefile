# One verb per habit. `make help` lists them.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
TORCH := 2.13.0
# Address of an index with CPU builds of torch, for machines without a GPU whose pip finds none.
TORCH_INDEX ?=

.PHONY: help setup bootstrap demo test check lint format bench faults fuzz figures view doctor smoke notebook lock clean

help:  ## list the verbs
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */: /' | awk -F': ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(READY)  ## create .venv with everything the lock names

bootstrap: setup  ## setup, caches inside the project, and a .env to fill in
	@mkdir -p .cache/huggingface .cache/torch .cache/wandb .cache/matplotlib
	@test -e .env || (umask 077 && cp .env.example .env && echo "bootstrap: .env is there; put your tokens into it")
	@chmod 600 .env

$(READY): pyproject.toml requirements.lock tools/install.sh
	PYTHON=$(PYTHON) TORCH=$(TORCH) TORCH_INDEX=$(TORCH_INDEX) sh tools/install.sh
	@touch $@

demo: setup  ## run the main job on the embedded model, ending with a report
	$(BIN)/backtracking run --config configs/demo.yaml

test: setup  ## run the test suite: offline, on the CPU
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: setup  ## format check, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --project pyproject.toml

lint: setup  ## lint, mending what can be mended
	$(BIN)/ruff check --fix .

format: setup  ## format the code
	$(BIN)/ruff format .

bench: setup  ## time the engine against its peers (needs an idle machine, an hour or two)
	$(BIN)/python benchmarks/sampling.py --model organism
	$(BIN)/python benchmarks/sampling.py --model smollm2 --dtype bfloat16
	$(BIN)/python benchmarks/scan.py --model organism
	$(BIN)/python benchmarks/scan.py --model smollm2
	$(BIN)/python benchmarks/threads.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python -m benchmarks.scaling

faults: setup  ## kill, damage and starve runs: do they end in the same tables?
	$(BIN)/python -m benchmarks.faults

fuzz: setup  ## a hundred thousand broken texts through onsets, grading, events and report
	$(BIN)/python -m benchmarks.fuzz

view: setup  ## look through the completions of the current run
	$(BIN)/backtracking view

figures: setup  ## draw every figure type from a run on the embedded model into figures/ (needs a Chrome or Chromium)
	$(BIN)/backtracking run --config configs/demo.yaml --quiet
	$(BIN)/backtracking figures --out figures --formats svg

doctor: setup  ## look over this machine
	$(BIN)/backtracking doctor

smoke: setup  ## load a model, sample, cache, draw: does everything work here?
	$(BIN)/backtracking smoke

notebook: setup  ## start JupyterLab in notebooks/
	$(BIN)/jupyter lab --notebook-dir=notebooks

lock: setup  ## resolve the dependencies anew into requirements.lock
	TORCH=$(TORCH) sh tools/lock.sh

clean:  ## remove the environment and caches; runs stay
	rm -rf .venv .pytest_cache .ruff_cache build *.egg-info
