# Two commands for newcomers: `make serve` and `make test`. `make help` lists all.
# Everything is installed under .venv: Forebay in .venv itself, the engine (vLLM), whose dependencies are its own, in
# .venv/engine. A stamp says that an installation is done; it is redone when its lock file changes.

# Model to serve: a Hugging Face id, a directory, or `default`, the packaged small one.
MODEL ?= default
# Port to listen on; by default that of the settings, 8000.
PORT ?=
# More options for the command that a target runs.
ARGS ?=
# Engine to install, cpu or gpu.
ifndef ENGINE
ENGINE := $(shell scripts/engine-kind.sh)
endif
# Python to make .venv with; by default the first suitable one.
export PYTHON ?=

GATEWAY_READY := .venv/.gateway-ready
DEV_READY := .venv/.dev-ready
ENGINE_READY := .venv/engine/.$(ENGINE)-ready
TOOLS_READY := .venv/.tools-ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test test-robustness check generate format lock bench-gateway bench-routing bench-fairness bench-overload bench-limits bench-hot-path clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 16
	@echo 'Variables: MODEL=id-or-directory PORT=8000 ENGINE=cpu|gpu PYTHON=python3.11 ARGS="more options"'

serve: $(GATEWAY_READY) $(ENGINE_READY) ## Install what is missing, then serve MODEL through the gateway
	@exec scripts/serve.sh $(MODEL) $(if $(PORT),--port $(PORT)) $(ARGS)

test: $(DEV_READY) $(ENGINE_READY) $(TOOLS_READY) ## Install what is missing, then run all tests, the real engine's included
	@.venv/bin/python -m forebay.models.default
	.venv/bin/pytest $(ARGS)

test-robustness: $(DEV_READY) ## Run what tries the gateway at length: faults, load, hostile input
	.venv/bin/pytest -m 'robustness or not robustness' tests/robustness $(ARGS)

check: $(DEV_READY) ## Check format, lint, types and generated files
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy --strict
	.venv/bin/python -m forebay.generate --check
	.venv/bin/python scripts/render_k8s.py --check
	@.venv/bin/python scripts/longest_functions.py src

generate: $(DEV_READY) ## Write the files that are made from code
	.venv/bin/python -m forebay.generate
	.venv/bin/python scripts/render_k8s.py

format: $(DEV_READY) ## Format the code and repair what ruff can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock: ## Write the lock files again; ARGS=--upgrade takes the newest versions
	@scripts/lock.sh $(ARGS)

bench-gateway: $(DEV_READY) ## Measure the gateway beside others
	.venv/bin/python bench/gateway.py $(ARGS)

bench-routing: $(DEV_READY) ## Measure the choice among 1,000 replicas
	.venv/bin/python bench/routing.py

bench-fairness: $(DEV_READY) ## Measure what fair queueing does for a quiet tenant
	.venv/bin/python -m bench.fairness $(ARGS)

bench-overload: $(DEV_READY) ## Measure three times the load that the engine can take
	.venv/bin/python -m bench.overload $(ARGS)

bench-hot-path: $(DEV_READY) ## Measure what each policy adds to a request
	.venv/bin/python bench/hot_path.py $(ARGS)

bench-limits: $(DEV_READY) ## Measure how exact limits are, with one gateway and with two
	.venv/bin/python bench/limits.py $(ARGS)

clean: ## Remove what was installed and built here; models stay in their cache
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests scripts bench -name __pycache__ -prune -exec rm -rf {} +

$(GATEWAY_READY): requirements/gateway.txt requirements/build.txt pyproject.toml scripts/install-gateway.sh
	@scripts/install-gateway.sh requirements/gateway.txt requirements/build.txt
	@touch $@

$(DEV_READY): requirements/dev.txt $(GATEWAY_READY)
	@scripts/install-gateway.sh requirements/dev.txt requirements/build.txt
	@touch $@

$(ENGINE_READY): requirements/engine-$(ENGINE).txt scripts/install-engine.sh | $(GATEWAY_READY)
	@scripts/install-engine.sh $(ENGINE)
	@touch $@

$(TOOLS_READY): requirements/tools.txt scripts/install-tools.sh | $(GATEWAY_READY)
	@scripts/install-tools.sh requirements/tools.txt
	@touch $@
