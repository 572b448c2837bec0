# Actionlake: `make help` lists what there is. Everything runs from .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080
DATA ?= ./data
MINUTES ?= 30
TESTERS ?= 3
COMPARISON_TEST := tests/bench/test_the_comparison_compares_equal_answers.py
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install run test test-faults soak lint type bench check clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed-dev ## Make .venv with everything for use and development

run: $(VENV)/.installed ## Serve on http://127.0.0.1:8080 over ./data (PORT=, DATA= change that)
	$(BIN)/actionlake serve --port $(PORT) --data $(DATA)

test: install ## Run the fast test suite, in three processes (TESTERS=), which wait more than they work
	@# Hundreds of processes are started, which shall not compile the same modules each time, not even where nothing
	@# compiled is kept otherwise; nor shall each of the three compile the same tests.
	$(BIN)/python -m compileall -q service storage queries bench notebooks tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

test-faults: install ## Run the long forms of the fault tests (thousands of kills; about an hour)
	ACTIONLAKE_TEST_LONG=1 $(BIN)/python -m pytest tests/faults $(COMPARISON_TEST) --timeout=0 -s

soak: install ## Half an hour under load with kills, checked; writes its report into docs/reliability.md (MINUTES=)
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

lint: install ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: install ## Check types (mypy, strict)
	$(BIN)/mypy

bench: install ## Measure beside a baseline and others in one run; writes docs/performance.md
	$(BIN)/python -m bench

check: lint type test ## What CI runs: lint, types, tests

clean: ## Remove .venv and caches (never ./data)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
