# Three words for a contributor: check, test, demo. Each makes .venv and installs what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL = $(PIP) install --quiet --constraint constraints.txt

.PHONY: demo test test-slow check format docs bench profile clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       the whole loop on the installed Python library (ARGS='--package NAME' for another)"
	@echo "make test       the tests;  make test-slow: kill loops, parity, quality, pages in a browser"
	@echo "make check      ruff, mypy, import contracts;  make format: mend what ruff can"
	@echo "make docs       the documentation as a site, in build/site"
	@echo "make parity     FlagEmbedding's scores of tiny models, made again (ARGS='base')"
	@echo "make bench      throughput beside sentence-transformers and FlagEmbedding"
	@echo "make profile    how near encoding and training come to the machine's limit (ARGS='--model M')"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: its pin decides the build, nothing else may pull another one in.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(INSTALL) torch
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(INSTALL) --editable ".[demo]"
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(INSTALL) --editable ".[dev]"
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/finerank demo $(ARGS)

# One thread each: the tests are many and small, so several processes use the cores better than torch's threads do.
test: $(VENV)/.dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(ARGS)

test-slow: $(VENV)/.dev
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist worksteal $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/throughput.py $(ARGS)

profile: $(VENV)/.dev
	$(BIN)/python benchmarks/roofline.py $(ARGS)

# FlagEmbedding's numbers again, in an environment of their own (see tests/parity/README.md).
parity:
	$(PYTHON) -m venv $(VENV)-parity
	$(VENV)-parity/bin/python -m pip install --quiet --requirement tests/parity/requirements.txt
	$(VENV)-parity/bin/python tests/parity/make_expected.py $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-parity .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
