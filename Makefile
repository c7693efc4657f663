# See `make help`. Everything happens in .venv, which is made at the first use and kept up to date.
.DEFAULT_GOAL := help
# Recipes share .venv and one screen.
.NOTPARALLEL:

PYTHON ?= python3
DEMO ?= 1
BIN := .venv/bin
GROUPS := dev api worker stream migrate tracing cli run go

# A stamp counts only in an environment that is complete and was made for this place (infra/ci/environment.sh).
ifneq "$(shell test -x $(BIN)/python && cat .venv/place 2>/dev/null)" "$(CURDIR)"
.venv/run.stamp .venv/dev.stamp: remake
endif

.venv/run.stamp: requirements/run.txt pyproject.toml
	@PYTHON="$(PYTHON)" infra/ci/environment.sh run

.venv/dev.stamp: requirements/dev.txt pyproject.toml
	@PYTHON="$(PYTHON)" infra/ci/environment.sh dev

help:  ## list the targets
	@awk -F ':.*  ## ' '/^[a-z]+:.*  ## / { printf "make %-10s%s\n", $$1, $$2 }' Makefile

run: .venv/run.stamp  ## start everything, with a demonstration (DEMO=0: without; HEADWAY_PORT, HEADWAY_HOME)
	@exec $(BIN)/headway run $(if $(filter 0,$(DEMO)),--no-demo)

test: .venv/dev.stamp  ## run all tests on real servers (ARGS="-k name" for some)
	@exec $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

stack: .venv/dev.stamp  ## build the images, bring the compose stack up and break it on purpose (needs Docker)
	@exec $(BIN)/python -m pytest tests/deploy $(ARGS)

check: lint types imports  ## everything else that CI looks at: lint, types, imports and the rules of this repository
	@$(BIN)/python -m infra.ci

lint: .venv/dev.stamp  ## ruff: rules and format
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "Not formatted; make format does it:"; $(BIN)/ruff format --check; }

types: .venv/dev.stamp  ## mypy --strict
	@$(BIN)/mypy

imports: .venv/dev.stamp  ## who may import whom (contracts in pyproject.toml)
	@$(BIN)/lint-imports --no-logo

format: .venv/dev.stamp  ## let ruff format and fix what it can
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format --quiet

bench: .venv/dev.stamp  ## measure against baselines, about ten minutes, into docs/benchmarks.md (ARGS="--only NAME": print one)
	@exec $(BIN)/python -m tests.bench $(ARGS)

env:  ## what `docker compose up` needs: .env with secrets, and a certificate (DOMAIN=progress.example.org)
	@exec $(PYTHON) -m infra.dotenv $(if $(DOMAIN),--domain '$(DOMAIN)')

smoke: .venv/run.stamp  ## check a running Headway from outside (URL and TOKEN; without them the one that runs here)
	@exec $(BIN)/headway smoke $${URL:+"$$URL"} $${TOKEN:+--token "$$TOKEN"}

detector: .venv/run.stamp  ## fetch and convert the object detector (needs npm)
	@exec $(BIN)/python -m infra.detector

lock: .venv/dev.stamp  ## pin what pyproject.toml asks for (ARGS="--upgrade-package NAME" for newer versions)
	@for group in $(GROUPS); do \
	  test $$group = dev && more="$(ARGS)" || more="-c requirements/dev.txt"; \
	  $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	    --no-header --group $$group $$more -o requirements/$$group.txt pyproject.toml || exit 1; \
	done

notices: .venv/dev.stamp  ## renew the list of packages in THIRD-PARTY-NOTICES.md
	@$(BIN)/python -m infra.ci.notices

clean:  ## remove .venv, caches and build results; what Headway stored (HEADWAY_HOME) stays
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help run test stack bench check lint types imports format env smoke detector lock notices clean remake
