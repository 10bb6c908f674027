# Every target sets itself up from Python, make and a network. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

export PYTHONDONTWRITEBYTECODE = 1

.PHONY: help setup run test test-unit test-long lint format chaos bench bench-quick bench-full bench-load lock clean debian
help:            ## Shows this.
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY)  ## Makes the environment: exactly the locked versions, every hash checked.
$(READY): requirements/bootstrap.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "sentence-streams needs Python 3.11 to 3.13; say which: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "Setting up $(VENV): some GB with torch, a minute or two the first time ..." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements/dev.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(READY)

run: $(READY)    ## Starts everything embedded, streams a text file through it, shows what came out.
	@$(BIN)/sentence-streams dev agents/samples/sentences.txt

test: $(READY) debian ## Runs every test this machine can run, and says which it could not.
	@$(BIN)/python -m pytest --cov --cov-report= tests
	@$(BIN)/python -m coverage combine --quiet --keep 2>/dev/null || true
	@$(BIN)/python -m coverage report

test-unit: $(READY) ## The tests that need no broker: seconds, not minutes.
	@$(BIN)/python -m pytest -q tests/unit

test-long: $(READY) debian ## The tests that take long: a thousand random requests to each operation of the bridge.
	@SCHEMATHESIS_EXAMPLES=1000 $(BIN)/python -m pytest -q tests/integration/test_bridge_openapi.py

# What tests need of Debian: kcat, a client that is not ours, a real Redis, promtool, nginx to try its configuration,
# and PostgreSQL, whose server is not on the path; wrk is for bench-load.
# Without one its tests say so and are skipped.
DEBIAN := kcat redis-server prometheus nginx postgresql wrk
debian:
	@for program in $(DEBIAN); do \
		command -v $$program >/dev/null || ls -d /usr/lib/$$program/*/bin >/dev/null 2>&1 || { \
			command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] \
			&& apt-get update -qq && apt-get install -y -qq --no-install-recommends $$program; } >/dev/null 2>&1 \
			|| echo "$$program is not here and cannot be installed: its tests will be skipped" >&2; \
	done

lint: $(READY)   ## Formatting, lint, types, layers.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## Formats the code.
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

chaos: $(READY)  ## The long fault suite; CHAOS_RECORDS and CHAOS_SECONDS set its length.
	@$(BIN)/python -m tests.faults

bench: $(READY)  ## Measures the figures that README quotes, peers included: under 20 minutes on a quiet machine.
	@$(BIN)/python -m benchmarks usual

bench-quick: $(READY) ## The short form, without peers: three minutes.
	@$(BIN)/python -m benchmarks quick

bench-full: $(READY) ## The long form: 20,000 sentences, a million records.
	@$(BIN)/python -m benchmarks full

bench-load: $(READY) debian ## Measures the bridge under load, as docs/performance.md shows it.
	@$(BIN)/python -m benchmarks.load

lock: $(READY)   ## Renews the lock files.
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile -q --universal --generate-hashes --no-header pyproject.toml \
		--extra dev --extra bundled-model --extra onnx-export --extra openvino -o requirements/dev.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile -q --universal --generate-hashes --no-header pyproject.toml \
		--extra bundled-model --extra onnx-export --extra telemetry --extra training --extra postgres --extra notify \
		-o requirements/run.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile -q --universal --generate-hashes --no-header pyproject.toml \
		--extra telemetry --extra postgres --extra notify --override requirements/worker.overrides --constraint requirements/run.txt \
		-o requirements/worker.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip compile -q --universal --generate-hashes --no-header requirements/bootstrap.in \
		-o requirements/bootstrap.txt

clean:           ## Removes the environment and what tests left.
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage .coverage.* dist
