# Everything a person does with this repository. `make help` lists it.
# Recipes run in this folder wherever make is called from (make -C), and use relative paths only,
# so a folder with spaces is fine.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
RUN := .venv/bin/python -m
STAMP := .venv/.installed
# Installed, and the factors' kernels compiled: a minute that no task should spend.
READY := .venv/.kernels
MARKETLAKE := .venv/bin/marketlake
IF_INSTALLED := [ -x $(MARKETLAKE) ] || { echo "nothing is installed here"; exit 0; };

# A shell's own Python and Airflow settings must not redirect ours.
unexport PYTHONPATH PYTHONHOME AIRFLOW_HOME AIRFLOW_CONFIG

# SANDBOX_DATA=<folder of Parquet> replays another history instead of the packaged market.
ifdef SANDBOX_DATA
export MARKETLAKE_MARKET__NAME := folder
export MARKETLAKE_SANDBOX__DATA := $(shell realpath -- "$(SANDBOX_DATA)")
endif

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^#: / {printf "\n%s\n", substr($$0, 4)} \
	  /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

#: Use it
.PHONY: install run status logs stop clean
install: $(READY) ## Make .venv with the pinned packages (the only step that needs a network)

run: $(READY) ## The main job: start everything, load history, train, run the last five sessions
	@$(MARKETLAKE) run

status: ## Show every component and where the UI is
	@$(IF_INSTALLED) $(MARKETLAKE) status

logs: ## Print the end of every component's log
	@$(IF_INSTALLED) $(MARKETLAKE) logs

stop: ## Stop every process; the data stays
	@$(IF_INSTALLED) $(MARKETLAKE) down

clean: ## Stop, and delete the state folder: lake, databases, ledger, logs
	@$(IF_INSTALLED) $(MARKETLAKE) clean --yes

#: Work on it
.PHONY: test test-slow bench accept check format lock
test: $(READY) ## Run the tests (about a quarter of an hour on two cores)
	@$(RUN) pytest -m "not slow and not platform" --numprocesses 2 --dist loadfile
	@$(RUN) pytest -m "not slow and platform"

test-slow: $(READY) ## Run the long tests
	@$(RUN) pytest -m "slow and not platform" --numprocesses 2 --dist loadfile
	@$(RUN) pytest -m "slow and platform"

bench: $(READY) ## Measure orchestration, ledger, gate, loads, features (about an hour); figures to docs/figures
	@$(RUN) tests.acceptance overhead
	@$(RUN) tests.acceptance floor
	@$(RUN) tests.acceptance gate
	@$(RUN) tests.acceptance loads
	@$(RUN) tests.acceptance ledger
	@$(RUN) tests.acceptance ledger-verification
	@$(RUN) tests.acceptance ledger-cost
	@$(RUN) tests.acceptance lineage
	@$(RUN) tests.acceptance features

accept: $(READY) ## Real data, kill everything at every moment, an hour of runs; figures to docs/figures
	@$(RUN) tests.acceptance accept

check: $(STAMP) ## Check format, lint, types, import floors, contract renderings, documentation
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@.venv/bin/lint-imports
	@$(MARKETLAKE) contracts check
	@$(RUN) pytest -q tests/docs

format: $(STAMP) ## Format the code and apply safe lint fixes
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

lock: $(STAMP) ## Compile requirements.in to the hash-pinned requirements.txt
	@$(RUN) uv pip compile requirements.in --universal --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 --output-file requirements.txt

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and \
	  f"Python 3.11 to 3.13 is needed, $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.11 ...")'
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.txt > .venv/uv.txt
	@$(RUN) pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
	@$(RUN) uv pip install --quiet --compile-bytecode --python .venv/bin/python \
	  --require-hashes -r requirements.txt
	@$(RUN) uv pip install --quiet --python .venv/bin/python --no-build-isolation --no-deps -e .
	@touch $(STAMP)

$(READY): $(STAMP) $(wildcard include/marketlake/domain/features/*.py)
	@$(RUN) marketlake.domain.features
	@touch $(READY)
