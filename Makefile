# make demo: a real search, to a leaderboard.   make lint: style, types, imports, recipes, known vulnerabilities.
# make docs: docs/reference/ and docs/images/ from the code.   make screenshot: that of the page, by Chromium.
# make test: the tests, without the slow ones.   make test-slow: these alone.   make test-all: both.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO_DB ?= sqlite:///demo.db

.PHONY: demo test test-slow test-all lint fix docs screenshot install clean

demo: $(VENV)/.installed
	$(BIN)/nas run examples/demo.toml --db $(DEMO_DB)

test: $(VENV)/.installed-dev
	$(BIN)/pytest -n auto --dist loadgroup -m 'not slow'

test-slow: $(VENV)/.installed-dev
	$(BIN)/pytest -n auto --dist loadgroup -m slow

test-all: test test-slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_deploy.py
	-$(BIN)/python scripts/audit.py

fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/pictures.py

screenshot: $(VENV)/.installed-dev
	$(BIN)/python docs/screenshot.py

install: $(VENV)/.installed-dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "nas needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# Without a GPU, torch's own CPU build saves gigabytes of CUDA; out of reach, PyPI's will do.
	@command -v nvidia-smi >/dev/null || $(PIP) --retries 0 --timeout 10 --no-deps \
		--index-url https://download.pytorch.org/whl/cpu torch >/dev/null 2>&1 || true

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[cluster,dev,onnx]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo.db demo.db-wal demo.db-shm
