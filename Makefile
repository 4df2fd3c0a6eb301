# Two commands for a newcomer: `make demo` and `make test`. Everything lives in .venv.
PYTHON ?= python3
# Where torch and torchvision come from, if not from pip's own index; README names the one of CPU builds.
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q -n auto --dist loadfile
STAMP := $(VENV)/.installed

.PHONY: demo test lint shared clean

$(STAMP): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(if $(TORCH_INDEX),$(BIN)/pip install --quiet torch torchvision --index-url $(TORCH_INDEX))
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $(STAMP)

demo: $(STAMP)  ## install, then run the whole method on phantoms
	$(BIN)/samdpo_demo -o demo

test: $(STAMP)  ## every test that needs no real data and no long training
	$(PYTEST) -m "not slow and not shared"

shared: $(STAMP)  ## the marked tests: real data in ../shared/data, full-size models
	$(PYTEST) -m "slow or shared"

lint: $(STAMP)
	$(BIN)/ruff check samdpo tests benchmarks setup.py

clean:
	rm -rf demo build dist *.egg-info
