# Everything a user or CI does with this repository. Each target sets up what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := libs/vcoproc services/scheduler services/coproc-sim services/irq-router \
	services/toolstack examples/demo
MANIFESTS := $(PACKAGES:%=%/pyproject.toml)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := libs services examples firmware bench tests tools
BUF := tools/buf/node_modules/.bin/buf
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench api docs api-lint api-release firmware lock format sim sim-edf schema clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## three domains share one coprocessor: the main job, on real input
	$(BIN)/vcoproc demo

test: $(VENV)/.dev ## all tests
	$(BIN)/python -m pytest

bench: $(VENV)/.run ## the figures, each beside its floor; JSON in bench-out/
	$(BIN)/python -m bench

lint: $(VENV)/.dev ## style, types, import rules, generated code and firmware up to date
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(PACKAGES:%=%/src) bench tools firmware/build.py
	$(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/generate_api.py --check
	$(BIN)/python tools/generate_docs.py --check
	$(BIN)/python firmware/build.py --check

schema: $(VENV)/.schema ## the binding schemas and the examples, by dtschema; compiles pylibfdt once
	VCOPROC_REQUIRE_DTSCHEMA=1 $(BIN)/python -m pytest libs/vcoproc/tests/test_config_bindings.py

sim: $(VENV)/.dev ## one simulation again: make sim SEED=...
	SEED=$(SEED) $(BIN)/python -m pytest tests/sim

sim-edf: $(VENV)/.dev ## 10 000 task sets under edf, no deadline missed; one again: make sim-edf SEED=...
	SEED=$(SEED) SETS=$(or $(SETS),10000) $(BIN)/python -m pytest tests/sim/test_sim_edf.py -k admitted

format: $(VENV)/.dev ## formats the sources
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

api: $(VENV)/.dev ## generates the Python code of proto/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/generate_api.py

docs: $(VENV)/.dev ## writes docs/api.md and docs/commands.md from proto/ and the command
	$(BIN)/python tools/generate_docs.py

api-lint: tools/buf/node_modules ## lints proto/ and checks that it breaks no released client (needs npm)
	$(BUF) lint
	$(BUF) breaking --against proto/released.binpb

api-release: tools/buf/node_modules ## makes proto/ as it is what api-lint compares with; at a release
	$(BUF) build --exclude-source-info -o proto/released.binpb

firmware: $(VENV)/.dev ## builds firmware/*/*.elf
	$(BIN)/python firmware/build.py

lock: $(VENV)/.dev ## writes requirements/*.txt from requirements/*.in
	$(LOCK) requirements/cluster.in -o requirements/cluster.txt
	$(LOCK) requirements/demo.in -o requirements/demo.txt
	$(LOCK) requirements/dev.in -o requirements/dev.txt
	$(LOCK) requirements/schema.in -o requirements/schema.txt

tools/buf/node_modules: tools/buf/package-lock.json
	@command -v npm >/dev/null || { echo "the linter of proto/ comes by npm: install Node.js" >&2; exit 2; }
	npm ci --prefix tools/buf --ignore-scripts --no-audit --no-fund --silent
	@touch $@

clean: ## removes everything that was made
	rm -rf $(VENV) demo-out bench-out tools/buf/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "vcoproc needs Python 3.11 or later; say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python requirements/cluster.txt requirements/demo.txt $(MANIFESTS)
	@echo "setting up $(VENV) (once)"
	$(PIP) install --require-hashes -r requirements/cluster.txt -r requirements/demo.txt
	$(PIP) install --no-deps --no-build-isolation $(PACKAGES:%=-e %)
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@echo "setting up the tools for development (once)"
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/.schema: $(VENV)/.dev requirements/schema.txt
	$(PIP) install --require-hashes -r requirements/schema.txt
	@touch $@
