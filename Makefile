# The whole developer interface; CI calls the same. Each target first sets up what it needs, in a virtual environment
# of its own in this folder, and only again when the list of packages changes.
#
#   make demo         train a natural and a robust network, audit both, name the report
#   make test         everything CI checks: lint, types, tests
#   make check        lint and types alone
#   make docs         the site, into site/
#   make bench        speed against other libraries, in an environment of its own
#   make constraints  pin the newest packages that fit together, in constraints.txt and constraints-bench.txt
#   make clean        remove the environments and what was built

PYTHON ?= python3
BIN := .venv/bin
BENCH_BIN := .bench-venv/bin
PACKAGES := pyproject.toml constraints.txt src/casemate/_version.py
PINNED := --constraint constraints.txt --build-constraint constraints.txt
# They ask for torchvision, an old requests and TensorFlow Probability, which the attacks compared never import.
LONERS := cleverhans torchattacks

.PHONY: help demo test check bench docs constraints clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

demo: .venv/installed
	$(BIN)/casemate demo

test: check
	# A test uses little more than one core, so that as many run at once; one file's stay together for what they share.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/mkdocs build --strict

bench: .bench-venv/installed
	$(BENCH_BIN)/python -m benchmarks

clean:
	rm -rf .venv .bench-venv site dist

.venv/installed: $(PACKAGES)
	$(call create,.venv)
	$(BIN)/python -m pip install $(PINNED) --editable . --group dev
	@touch $@

.bench-venv/installed: $(PACKAGES) constraints-bench.txt
	$(call create,.bench-venv)
	$(BENCH_BIN)/python -m pip install $(PINNED) --constraint constraints-bench.txt --editable . --group bench
	$(BENCH_BIN)/python -m pip install --constraint constraints-bench.txt --no-deps $(LONERS)
	@touch $@

# An environment with the pip of constraints.txt: the one that came with Python may not know dependency groups.
define create
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Casemate needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --upgrade --constraint constraints.txt pip
endef

# PyTorch's release is chosen by hand. Versions lose their "+cpu" and the like, so that the lists hold everywhere.
TORCH := 2.13.0
FREEZE := $(BENCH_BIN)/python -m pip freeze --all --exclude-editable | sed 's/+[a-z0-9.]*$$//'

constraints:
	$(PYTHON) -m venv --clear .bench-venv
	$(BENCH_BIN)/python -m pip install --upgrade pip
	$(BENCH_BIN)/python -m pip install torch==$(TORCH) --editable . --group dev
	{ echo '# Made by `make constraints`.'; $(FREEZE); } > constraints.txt
	$(BENCH_BIN)/python -m pip install --constraint constraints.txt --group bench
	$(BENCH_BIN)/python -m pip install --no-deps $(LONERS)
	{ echo '# Made by `make constraints`.'; $(FREEZE) | grep -vxFf constraints.txt; } > constraints-bench.txt
	rm -rf .bench-venv
