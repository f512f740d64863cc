# One way to do every chore. Needs Python 3.11 or newer and nothing else.
#
#   make quickstart            the whole life cycle on real weights and real conversations (CLEANUP=1 removes what it made)
#   make test                  the test suite
#
# Both make .venv on their first run, which needs the network for packages; a second run starts in seconds.

VENV ?= .venv
PY := $(VENV)/bin/python
CONSTRAINTS := requirements/constraints.txt
INPUTS := pyproject.toml $(CONSTRAINTS)
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3 python,$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(p))))

# What Python compiled is kept: every process that is started later begins sooner.
unexport PYTHONDONTWRITEBYTECODE

ifeq ($(PYTHON),)
$(error Python 3.11 or newer is needed and was not found; install it, or say where it is: make PYTHON=/path/to/python3.11)
endif

.PHONY: quickstart test test-fast install install-test install-lint lint format types docs docs-check check clean \
        bench-startup bench-data bench-prepare bench-orchestration bench-gateway bench-serving bench-ready bench-finetune bench-azure

quickstart: $(VENV)/.installed
	$(PY) -m tunesmith quickstart $(if $(CLEANUP),--cleanup) $(QUICKSTART_ARGS)

# Three processes on two cores: much of the suite waits.
test: $(VENV)/.installed-test
	$(PY) -m pytest -n 3 --dist loadfile $(TEST_ARGS)

test-fast: $(VENV)/.installed-test
	$(PY) -m pytest -n 3 --dist loadfile -m "not heavy and not browser" $(TEST_ARGS)

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test
install-lint: $(VENV)/.installed-lint

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(INPUTS) | $(VENV)/bin/python
	@echo "Installing Tunesmith into $(VENV) (the first time takes a few minutes)"
	$(PY) -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.installed-test: $(INPUTS) | $(VENV)/bin/python
	@echo "Installing Tunesmith and its test extras into $(VENV) (the first time takes a few minutes)"
	$(PY) -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[test]'
	$(PY) -m tests.support.azure_sdk
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-lint: $(INPUTS) | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[test,lint,docs]'
	$(PY) -m tests.support.azure_sdk
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed

lint: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(VENV)/.installed-lint
	$(VENV)/bin/mypy

check: lint types docs-check test

docs: $(VENV)/.installed-lint
	$(PY) scripts/generate_docs.py
	$(VENV)/bin/mkdocs build --strict

docs-check: $(VENV)/.installed-lint
	$(PY) scripts/generate_docs.py --check
	$(VENV)/bin/mkdocs build --strict --site-dir /tmp/tunesmith-site

bench-startup: $(VENV)/.installed
	$(PY) benchmarks/bench_startup.py $(BENCH_ARGS)

bench-data: $(VENV)/.installed
	$(PY) benchmarks/bench_data.py check $(BENCH_ARGS)

bench-prepare: $(VENV)/.installed
	$(PY) benchmarks/bench_data.py prepare $(BENCH_ARGS)

bench-orchestration: $(VENV)/.installed
	$(PY) benchmarks/bench_orchestration.py $(BENCH_ARGS)

bench-gateway: $(VENV)/.installed
	$(PY) benchmarks/bench_gateway.py $(BENCH_ARGS)

bench-serving: $(VENV)/.installed
	$(PY) benchmarks/bench_serving.py $(BENCH_ARGS)

bench-ready: $(VENV)/.installed
	$(PY) benchmarks/bench_ready.py $(BENCH_ARGS)

bench-finetune: $(VENV)/.installed
	$(PY) benchmarks/bench_finetune.py $(BENCH_ARGS)

bench-azure: $(VENV)/.installed-test
	$(PY) benchmarks/bench_azure.py $(BENCH_ARGS)

clean:
	rm -rf $(VENV) site build .pytest_cache .mypy_cache .ruff_cache
