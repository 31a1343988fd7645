# Everything a newcomer needs: `make demo` and `make test` set themselves up in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# One thread per process: two test workers or a loader and a trainer share few cores better that way.
TEST_WORKERS ?= 2
# Compiled modules are kept whatever the environment says, for the tests start many processes; each worker takes a
# stretch of the tests, so that what tests of a folder share is made once.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench wheel-check docs clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("FlowKit needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Say: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing FlowKit with [speech,policy] into $(VENV) (PyTorch with its libraries: about 5 GB on disk, a few minutes) ..."
	$(BIN)/python -m pip install --quiet -e '.[speech,policy]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing FlowKit with its test tools into $(VENV) (PyTorch with its libraries: about 5 GB on disk, a few minutes) ..."
	$(BIN)/python -m pip install --quiet -e '.[all,test,lint]'
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	@touch $@

demo: $(VENV)/.demo  ## Train a small voice and hear it, train a small policy and see it (at most 6 minutes after the install)
	$(BIN)/python -m domains.speech.demo --out demo --minutes 3
	$(BIN)/python -m domains.policy.demo --out demo/policy --minutes 1

test: $(VENV)/.dev  ## The test suite (under 10 minutes on 2 cores)
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.dev  ## The suite with its slow tests
	$(PYTEST)

lint: $(VENV)/.dev  ## Style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/.bench  ## The benchmarks that run on a CPU in minutes (tables on screen, JSON in benchmarks/out/)
	$(BIN)/python benchmarks/run_all.py

docs: $(BIN)/python  ## The pages of docs/ as a web site in site/
	$(BIN)/python -m pip install --quiet 'mkdocs-material>=9.5'
	$(BIN)/mkdocs build --strict

wheel-check: $(BIN)/python  ## Build the wheel, install it in a fresh environment, speak
	bash .ci/wheel_check

clean:  ## Remove what was built (not .venv, not runs)
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
