# Two commands for a newcomer: `make run` and `make test`. Both make their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ENGINE ?= embedded
SCENARIO ?= cross-industry

.DEFAULT_GOAL := help
.PHONY: help run test e2e check format lint types imports clean

help: ## Show the targets.
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "wanted Python 3.11 or newer, got $$($(PYTHON) --version); set PYTHON=" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: $(READY) ## Run a scenario end to end (SCENARIO=cross-industry).
	$(BIN)/consortia run $(SCENARIO) --engine $(ENGINE)

test: $(READY) ## Run the quick tests.
	$(BIN)/python -m pytest -q -m "not end_to_end"

e2e: $(READY) ## Run the end-to-end tests (real processes).
	$(BIN)/python -m pytest -q -m end_to_end

check: format lint types imports test ## Everything that CI asks for, without the end-to-end tests.

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

clean: ## Remove the environment and what runs wrote.
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
