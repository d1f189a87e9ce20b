# Each target does its own set-up: Python >= 3.11 and the package registries are all that is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# e.g. make demo FOR=45, make test TESTS=tests/core
FOR ?=
TESTS ?=
# of make faults LONG=1: runs at a time, and a file that results are added to, so that it can be made in parts
JOBS ?= 1
REPORT ?=
# of make soak: its length, predictions a second (measured where not given), and a folder for its report (REPORT)
MINUTES ?= 2
RATE ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test faults soak lint docs bench clean

help: ## Say what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

install: $(STAMP) ## Make .venv, with pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "streamapp needs Python 3.11 or later: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	@touch $(STAMP)

demo: $(STAMP) ## Watch a live stream drift and be repaired (FOR=45: stop after 45 seconds)
	$(BIN)/streamapp demo $(if $(FOR),--for $(FOR))

test: $(STAMP) ## Run everything this machine allows
	$(BIN)/python -m pytest $(TESTS)

faults: $(STAMP) ## Break workers, brokers, links and topics, and check every verdict (LONG=1: hundreds of times)
	$(BIN)/python -m $(if $(LONG),tests.faults --long --jobs $(JOBS) $(if $(REPORT),--report $(REPORT)),pytest -m faults tests/faults tests/soak)

soak: $(STAMP) ## Run near the capacity, restart workers, and see that nothing grows (MINUTES=60, RATE=20000)
	$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(RATE),--rate $(RATE)) $(if $(REPORT),--report $(REPORT))

lint: $(STAMP) ## Style, types, and the arrows between packages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP) ## Write the generated parts of docs/ anew
	$(BIN)/python -m docs.build

bench: $(STAMP) ## Measure throughput beside peers on the same broker (BENCH=cost, curves, ...: something else)
	$(BIN)/python -m benchmarks $(or $(BENCH),throughput)

clean: ## Remove what was made here
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
