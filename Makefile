# make serve: the service with the bundled model on http://127.0.0.1:8000.   make test: everything that CI runs.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable
COMPILE := $(BIN)/uv pip compile --quiet --no-header --no-annotate --no-emit-index-url --python-version 3.11

.PHONY: serve test check fmt demo lock audit clean
serve: .venv/serve.done ; @exec $(BIN)/python -m service
test: .venv/dev.done ; $(BIN)/python -m tests.console.install_chromium && $(MAKE) --no-print-directory check && OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
check: .venv/dev.done ; $(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy
fmt: .venv/dev.done ; $(BIN)/ruff format . && $(BIN)/ruff check --fix .
demo: .venv/dev.done ; $(BIN)/python -m benchmarks.end_to_end
lock: .venv/dev.done ; $(COMPILE) --upgrade pyproject.toml --extra cpu --extra train --extra export --extra dev --output-file constraints.txt
audit: .venv/bin/python ; $(BIN)/uv tool run pip-audit --requirement constraints.txt --disable-pip --no-deps --strict
clean: ; rm -rf .venv build *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"got Python {v[0]}.{v[1]}, wanted 3.11 or newer: make PYTHON=python3.11")'
	@echo "making .venv" && $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv || { rm -rf .venv; exit 1; }
.venv/serve.done: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing the service" && $(INSTALL) '.[cpu]' && touch $@
.venv/dev.done: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing everything, torch too: a few GB" && $(INSTALL) '.[cpu,train,export,dev]' && touch .venv/serve.done $@
