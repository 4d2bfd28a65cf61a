# make quickstart   set up, fetch the embedded model, run the whole loop once, write a report
# make test         set up for development, lint, types, import directions, all tests
# make help         every target

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check -c constraints.txt
# Two processes of one thread each: a third faster than one with two, and the same numbers on any machine.
PYTEST_ARGS ?= -n 2 --dist loadfile
BENCH_ARGS ?=
PEERS := $(subst ==,-,$(shell grep -v '^\#' benchmarks/peers.txt))

# What some tests need of the system: a browser, a database server. Those tests are skipped where it is absent.
SYSTEM_PACKAGES := $(if $(wildcard /usr/bin/chromium),,chromium) \
  $(if $(wildcard /usr/lib/postgresql/*/bin/initdb),,postgresql)

# Every script of a folder, in the order of their names; the first that fails ends it.
run_scripts = @set -e; for script in $(sort $(wildcard $(1)/*.py)); do \
  echo "== $$script"; $(BIN)/python "$$script"; done

.DEFAULT_GOAL := help
.PHONY: help setup dev system model quickstart test lint mutate experiments bench bench-web clean

help:
	@echo "make quickstart    the whole loop on the shop scenario, with a report (PYTHON=python3.12 to choose one)"
	@echo "make setup         only install, into $(VENV)"
	@echo "make test          lint and tests (PYTEST_ARGS='-k ppo' to choose)"
	@echo "make system        install a browser and PostgreSQL for the tests, on Debian as root"
	@echo "make lint          ruff, mypy, import directions"
	@echo "make mutate        break the code one place at a time and see the tests go red (long)"
	@echo "make experiments   run every script in experiments/"
	@echo "make bench         speed and memory against TRL (BENCH_ARGS='--only dpo sft' to choose)"
	@echo "make bench-web     many raters at once, on the ledger and on the server"
	@echo "make clean         remove $(VENV), caches and the quickstart's results (the fetched model stays)"

# The stamps stand for finished installs, so that a second make starts at once.
setup: $(VENV)/.installed
dev: $(VENV)/.installed-dev

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Accord needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo 'not there')." >&2; \
	  echo "Install one and name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment (on Debian: apt install python3-venv)." >&2; exit 1; }
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing Accord into $(VENV) (a minute or two) ..."
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the development tools ..."
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@

model: setup
	@$(BIN)/accord fetch-model

# A failing mirror must not stop the tests that need none of it.
system:
ifneq ($(strip $(SYSTEM_PACKAGES)),)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing $(strip $(SYSTEM_PACKAGES)) ..."; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install \
	    $(SYSTEM_PACKAGES) >/dev/null; } || echo "That failed; the tests that need it are skipped." >&2; fi
endif

quickstart: model
	$(BIN)/accord quickstart --out quickstart

test: dev model lint
	@[ -d benchmarks/.peers/trl-1.16.0 ] || $(MAKE) --no-print-directory benchmarks/.peers/trl-1.16.0 || \
	  { rm -rf benchmarks/.peers/trl-1.16.0; echo "TRL cannot be had; the tests against its code are skipped." >&2; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: dev
	$(BIN)/ruff check src tests experiments benchmarks
	$(BIN)/ruff format --check src tests experiments benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

mutate: dev
	$(BIN)/python tests/mutate.py $(MUTANTS)

experiments: dev model
	$(call run_scripts,experiments)

bench: dev model $(PEERS:%=benchmarks/.peers/%)
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

bench-web: dev
	$(BIN)/python benchmarks/leases.py
	$(BIN)/python benchmarks/judging.py

# Two versions of one peer cannot share a folder; all run on the project's own torch and transformers.
benchmarks/.peers/%:
	@$(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check --no-deps --target $@ $(subst -,==,$*)

clean:
	rm -rf $(VENV) build dist quickstart .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
