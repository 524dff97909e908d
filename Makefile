# `make demo` and `make test` set up .venv first; a machine with Python 3.10+ and pip is enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PYTHONDONTWRITEBYTECODE ?= 1

.PHONY: install demo test lint types pytest test-full test-faults gpu-check wheels bench bench-full audit families clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/opengait demo

test: lint types pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy opengait

# Two processes of one thread each: on two cores twice as fast as one process of two threads.
pytest: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not full and not faults"

test-full: lint types $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not faults" --hypothesis-profile=searching

# Kills, damage and attacks in numbers; `make test` has a short form of each.
test-faults: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m faults --hypothesis-profile=searching

# On a machine with a CUDA device and no network: its own Python, no environment of ours.
# The tests, then five networks at their published batch sizes; under ten minutes in all. `make wheels` collects what
# such a machine lacks.
gpu-check:
	status=0; \
	timeout 210 $(PYTHON) -m pytest -p no:cacheprovider -m gpu $$(grep -rl 'mark\.gpu' tests) || status=1; \
	PYTHONPATH=$(CURDIR) timeout 380 $(PYTHON) benchmarks/gpu_check.py --seconds 330 || status=1; \
	exit $$status

wheels: $(INSTALLED)
	$(BIN)/python benchmarks/wheels.py --out wheels


# Ratios against plain forms measured in the same run; wants a machine that does nothing else.
bench: $(INSTALLED)
	$(BIN)/python benchmarks/all.py

bench-full: $(INSTALLED)
	$(BIN)/python benchmarks/all.py --full
	$(BIN)/opengait bench --models

audit: $(INSTALLED)
	$(BIN)/python benchmarks/walkers_audit.py

families: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/families.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
