# ICTO mesh. `make up` and `make test` need nothing but Python 3.11+ and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TOOLS  := .tools
READY  := $(VENV)/.ready
# With their folders, which change when a file goes.
PROTOS := $(shell find protos/icto protos/vendor -name '*.proto' -o -type d) protos/build.py
# What decides, without I/O or clock: tests reach every branch of it, wherever it lies. New rules are
# named `*_rules.py`; the others say by older names that they decide.
RULES  := */domain.py,*_rules.py,*/amounts.py,*/authorization.py,*/journal/model.py,*/links.py,*/lookalikes.py,*/preconditions.py,*/principal.py,*/sign_in.py,*/silence.py,*/spelling.py,*/tokens.py
SOURCE := contract gateway mesh observability schema_setup services tests tools/alone.py protos/build.py protos/check.py
export PATH := $(CURDIR)/$(TOOLS)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help up demo test wheel unit lint types protos bench crash mutants tools lock format clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*?## ' '{printf "  %-10s %s\n", $$1, $$2}'

up: $(READY) ## Start everything, launch a token, stay up until Ctrl-C
	@$(BIN)/icto up --story

demo: $(READY) ## The same in a throw-away installation beside whatever runs
	@$(BIN)/icto demo

test: $(READY) lint types protos ## Everything that must hold: lint, types, protos, tests
	$(BIN)/coverage run --data-file=.coverage -m pytest $(PYTEST)
	$(BIN)/coverage report --include='$(RULES)' --fail-under=100

wheel: $(READY) ## Build the wheel as pip does, and try it in an environment of its own
	@ICTO_TRY_WHEEL=1 $(BIN)/python -m pytest -q tests/packaging

unit: $(READY) ## The tests that start nothing
	$(BIN)/pytest tests/unit $(PYTEST)

lint: $(READY) ## Ruff: rules and format
	@$(BIN)/ruff check -q $(SOURCE)
	@$(BIN)/ruff format -q --check $(SOURCE)

types: $(READY) ## Mypy, strict
	@$(BIN)/mypy

protos: $(READY) ## Buf: lint, comments, format, and no breaking change
	@$(BIN)/python protos/check.py

format: $(READY) ## Format the sources
	@$(BIN)/ruff check -q --fix $(SOURCE) ; $(BIN)/ruff format -q $(SOURCE)
	@$(BIN)/buf format -w protos --path protos/icto

crash: $(READY) ## Kill everything by a seeded schedule, and count the money (SEED=n SCENARIO=launch)
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(SCENARIO),--scenario $(SCENARIO))

mutants: $(READY) ## Take every guard away in turn: its tests must notice
	@$(BIN)/python -m tests.mutants

bench: $(READY) ## Measure, and print each figure beside its reference (JSON=1: one object a line)
	@$(BIN)/python -m tests.bench $(if $(JSON),--json)

tools: ## Install what the tests need beyond Python, pinned, into .tools
	@sh tools/install.sh "$(CURDIR)/$(TOOLS)"

lock: $(READY) ## Resolve the dependencies anew
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  --annotation-style line --group build --group test pyproject.toml -o requirements.lock

clean: ## Remove what was built; data in .icto stays
	rm -rf $(VENV) protos/gen .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

# Two makes at once, say `make up & make demo`, would install into one folder at one time: the second
# waits for the first, and then finds everything done.
$(READY): requirements.lock pyproject.toml $(PROTOS)
	@$(PYTHON) tools/alone.py $(VENV)/.lock $(MAKE) --no-print-directory $(VENV)/.built
	@touch $@

# The environment: exactly what the lock says, then this project on top of it.
$(VENV)/.locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/it"; exit 1; }
	@echo "... installing the locked packages into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.built: $(VENV)/.locked pyproject.toml $(PROTOS)
	@echo "... building the protos"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
