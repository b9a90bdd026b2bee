# make run     starts the main examples           make check   linter, formatter, types
# make test    runs the tests                     make bench   runs the benchmarks
# make soak    runs also the tests of minutes     make format  rewrites the code in the house format
# make up      brings up a mesh and leaves it     make clean   removes whatever make has made
# make down    ends it
#
# Everything happens in .venv, which is made at the first need. PYTHON=... chooses the interpreter,
# ARGS=... is handed on to pytest, the example or the benchmark.

SHELL  := /bin/bash
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check --no-input
LIBS   := $(VENV)/.libraries
STAMP  := $(VENV)/.installed
ARGS   :=

# What is compiled: a change of one of these has it compiled again, and only it. The rest of the
# code is used in place.
SOURCES := setup.py mesh/compiled.py \
	$(patsubst %,%.py,$(subst .,/,$(shell sed -n 's/^    "\(.*\)",$$/\1/p' mesh/compiled.py))) \
	$(shell find mesh broker workers -name '*.pxd' -o -name '*.pyx')

# The stamps hold the path of the checkout: a .venv that was copied or moved, or whose Python has
# gone, is none.
VALID  := $(shell $(PY) -c '' 2>/dev/null && cat $(LIBS) 2>/dev/null)
ifneq ($(VALID),$(CURDIR))
.PHONY: $(LIBS)
endif

.DEFAULT_GOAL := help
.PHONY: help install run up down test soak check format bench clean

help:
	@sed -n 's/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST)) | head -n 5

install: $(STAMP)

$(LIBS): pyproject.toml
	@test "$(VALID)" = "$(CURDIR)" || { \
		python=$$(PYTHON='$(PYTHON)' scripts/find-python.sh) && echo "$(VENV) with $$python" && \
		"$$python" -m venv --clear $(VENV); }
	SAGE_COMPILE=no $(PIP) install --quiet --editable '.[dev]'
	@echo "$(CURDIR)" > $@

$(STAMP): $(LIBS) $(SOURCES)
	$(PY) setup.py --quiet build_ext --inplace
	@touch $@
	@$(PY) -m mesh.cli doctor | sed -n '/ frame pump /,/ connections /p'

run: $(STAMP)
	$(PY) -m examples $(ARGS)

up: $(STAMP)
	SAGE_MEMORY_DATA=$${SAGE_MEMORY_DATA:-.mesh/memory} \
	SAGE_STORAGE_DATA=$${SAGE_STORAGE_DATA:-.mesh/storage} \
	SAGE_SEARCH_DATA=$${SAGE_SEARCH_DATA:-.mesh/search} SAGE_MONITORING_ENABLED=true \
		$(PY) -m mesh.cli up --detach --config config/default.yaml --run .mesh/run $(ARGS)

down: $(STAMP)
	$(PY) -m mesh.cli down --config config/default.yaml --run .mesh/run

test: $(STAMP)
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

soak: $(STAMP)
	SAGE_SOAK=1 $(PY) -m pytest $(ARGS)

check: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict mesh broker workers
	$(PY) -m mypy --strict -p sage.service.memory

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(VENV)/.bench
	$(PY) -m bench $(ARGS)

$(VENV)/.bench: $(STAMP)
	$(PIP) install --quiet --editable '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find mesh broker workers \( -name '*.c' -o -name '*.so' \) -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
