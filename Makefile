# Two commands for a newcomer: `make demo` and `make test`. Everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint shared clean

$(STAMP): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $(STAMP)

demo: $(STAMP)  ## install, then run the whole method on phantoms
	$(BIN)/samdpo_demo -o demo

test: $(STAMP)  ## every test that needs no real data and no long training
	$(BIN)/python -m pytest -q -m "not slow and not shared"

shared: $(STAMP)  ## the marked tests: real data in ../shared/data, full-size models
	$(BIN)/python -m pytest -q -m "slow or shared"

lint: $(STAMP)
	$(BIN)/ruff check samdpo tests benchmarks setup.py

clean:
	rm -rf demo build dist *.egg-info
