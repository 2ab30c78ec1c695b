# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# tests/conftest.py orders the files, the longest first
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
WORKERS ?= auto
# replaces the default of pyproject.toml, which is that of `make test`
UNIT = -m 'not night and not process and not long and not slow and not device and not server and not timing and not connectors and not scale'
STAMP := $(VENV)/installed
SERVERS := $(VENV)/installed-servers
RAY := $(VENV)/installed-ray
EXTRAS ?= dev,fabric,connectors
# Python compiles what is imported, a third of these packages; pip would compile all of them, in a minute
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable
# Some containers set it; without bytecode, each test run rewrites the asserts of all tests, and each child process compiles the packages
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install run test-collect test-unit test test-server test-connectors test-scale test-all coverage wheel-check bench bench-smoke bench-peers gpu-check faults soak lint format clean
install: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nightrecs needs Python 3.11 or newer; make PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) '.[$(EXTRAS)]'
	touch $@ $(if $(findstring connectors-test,$(EXTRAS)),$(SERVERS)) $(if $(findstring scale,$(EXTRAS)),$(RAY))

$(SERVERS): $(STAMP)
	$(PIP_INSTALL) '.[$(EXTRAS),connectors-test]'
	touch $@

$(RAY): $(STAMP)
	$(PIP_INSTALL) '.[$(EXTRAS),scale]'
	touch $@

run: install
	$(BIN)/nightrecs run

# imports all tests, and keeps their bytecode for the workers of the other targets
test-collect: install
	$(BIN)/python -m pytest -m '' --collect-only -qq

test-unit: install
	$(PYTEST) $(UNIT)

test: install
	$(PYTEST)

test-server: install
	$(PYTEST) --dist load -m 'server and not slow'

# on servers that the tests start: PostgreSQL, where it is installed, and moto's S3; `-rs` shows what was skipped and why
test-connectors: $(SERVERS)
	$(PYTEST) -m connectors -rs

# on a Ray cluster of two nodes that the tests start, so one after another; slow ones, with clusters of their own, are for test-all
test-scale: $(RAY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'scale and not slow' -rs

test-all: install
	$(BIN)/python -m pytest -m ''

# of `make test-unit`, as a tracer makes whole nights several times as slow. sys.monitoring, from Python 3.12 on, costs a tenth
coverage: install
	COVERAGE_CORE=$$($(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")') \
		$(PYTEST) $(UNIT) --cov --cov-report=term

wheel-check: install
	$(BIN)/python -m tests.wheel_check

bench: install
	$(PIP_INSTALL) '.[bench]'
	$(BIN)/python -m tests.benchmarks

# the hot paths next to bare kernels, in ratios of CPU time; minutes, and not part of `make test`
bench-smoke: install
	$(BIN)/python -m tests.benchmarks.bench_hot_paths --check

# other libraries, each in an environment of its own under .peers (4 GB, from the package index), on the same rows
bench-peers: install
	$(BIN)/python -m tests.benchmarks.peers --write

gpu-check:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.benchmarks.gpu

faults: install
	$(BIN)/python -m tests.faults

soak: install
	$(BIN)/python -m tests.faults.soak

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pyright

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
