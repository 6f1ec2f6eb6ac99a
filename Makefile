# Two commands for newcomers: `make serve` and `make test`. `make help` lists all.
# Everything is installed under .venv: Forebay in .venv itself, the engine (vLLM), whose dependencies are its own, in
# .venv/engine. A stamp says that an installation is done; it is redone when its lock file changes.

# Model to serve: a Hugging Face id, a directory, or `default`, the packaged small one.
MODEL ?= default
# Port to listen on; by default that of the settings, 8000.
PORT ?=
# More options for the command that a target runs.
ARGS ?=
# Where a running gateway is, for the targets that ask one; its key is read from FOREBAY_API_KEY.
URL ?= http://127.0.0.1:8000
# Where a running engine is, for docker-run; repeat with commas.
UPSTREAM ?=
# How often `repeat` runs the tests of faults.
TIMES ?= 20
# What builds and runs images: docker, or podman.
DOCKER ?= docker
# Engine to install, cpu or gpu.
ifndef ENGINE
ENGINE := $(shell scripts/engine-kind.sh)
endif
# Python to make .venv with; by default the first suitable one.
export PYTHON ?=

GATEWAY_READY := .venv/.gateway-ready
DEV_READY := .venv/.dev-ready
FUZZ_READY := .venv/.fuzz-ready
ENGINE_READY := .venv/engine/.$(ENGINE)-ready
TOOLS_READY := .venv/.tools-ready

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/forebay/__init__.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test test-unit test-load test-security test-robustness repeat fuzz docker-build docker-run compose-up health metrics check generate format lock bench-gateway bench-routing bench-fairness bench-overload bench-limits bench-hot-path bench-drains bench-noticing soak clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 16
	@echo 'Variables: MODEL=id-or-directory PORT=8000 ENGINE=cpu|gpu PYTHON=python3.11 ARGS="more options"'
	@echo '           URL=http://127.0.0.1:8000 UPSTREAM=http://host:8001 DOCKER=docker|podman'

serve: $(GATEWAY_READY) $(ENGINE_READY) ## Install what is missing, then serve MODEL through the gateway
	@exec scripts/serve.sh $(MODEL) $(if $(PORT),--port $(PORT)) $(ARGS)

test: $(DEV_READY) $(ENGINE_READY) $(TOOLS_READY) ## Install what is missing, then run all tests, the real engine's included
	@.venv/bin/python -m forebay.models.default
	.venv/bin/pytest $(ARGS)

test-unit: $(DEV_READY) ## Run the quick tests: no engine, no servers
	.venv/bin/pytest tests/contract tests/unit tests/property $(ARGS)

test-load: $(GATEWAY_READY) ## Load the gateway at URL in stages (up, hold, down); fails beyond the thresholds
	.venv/bin/forebay bench stages $(URL) --stage 10s:5 --stage 20s:5 --stage 10s:0 \
	    --threshold failed:1% --threshold ttft_p95:2000 $(ARGS)

test-security: $(DEV_READY) ## Lint for security, audit packages, look for secrets, attack our own API
	.venv/bin/ruff check src scripts deploy  # S, the rules of bandit, are among those chosen
	.venv/bin/python scripts/audit.py requirements/gateway.txt
	.venv/bin/pytest tests/security $(ARGS)

test-robustness: $(DEV_READY) ## Run what tries the gateway at length: faults, load, hostile input
	.venv/bin/pytest -m 'robustness or not robustness' tests/robustness tests/security $(ARGS)

repeat: $(DEV_READY) ## Run the tests of faults TIMES times, each time in another order with another seed
	@scripts/repeat.sh $(TIMES) $(ARGS)

fuzz: $(FUZZ_READY) ## Fuzz what reads the bytes of callers and engines; ARGS='--runs 1000000 --seconds 3600'
	.venv/bin/python -m bench.fuzz $(ARGS)

docker-build: ## Build the images of the gateway and of the engine (ENGINE=cpu|gpu)
	$(DOCKER) build --file deploy/docker/gateway.Dockerfile --tag forebay-gateway:$(VERSION) .
	$(DOCKER) build --file deploy/docker/engine$(if $(filter cpu,$(ENGINE)),-cpu).Dockerfile \
	    --tag forebay-engine$(if $(filter cpu,$(ENGINE)),-cpu):$(VERSION) $(ARGS) .

docker-run: ## Run the gateway's image in front of UPSTREAM; callers' keys are read from API_KEYS
	@scripts/run-image.sh $(DOCKER) forebay-gateway:$(VERSION) '$(UPSTREAM)' $(or $(PORT),8000) $(ARGS)

compose-up: ## Start a gateway and an engine with Compose; ARGS=--production adds NGINX, Valkey, PostgreSQL
	@deploy/compose/run.sh $(if $(filter cpu,$(ENGINE)),--cpu) $(ARGS)

health: ## Ask the gateway at URL how it is, and which engines are ready
	@scripts/ask.sh $(URL) /health

metrics: ## Print the metrics of the gateway at URL
	@scripts/ask.sh $(URL) /metrics

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

bench-overload: $(DEV_READY) ## Measure 0.7 to 5 times the load that the engine can take
	.venv/bin/python -m bench.overload $(ARGS)

bench-hot-path: $(DEV_READY) ## Measure what each policy adds to a request
	.venv/bin/python bench/hot_path.py $(ARGS)

bench-limits: $(DEV_READY) ## Measure how exact limits are, with one gateway and with two
	.venv/bin/python bench/limits.py $(ARGS)

bench-drains: $(DEV_READY) ## Replace the gateway fifty times under load, and change its settings as often
	.venv/bin/python -m bench.drains $(ARGS)

bench-noticing: $(DEV_READY) ## Measure how soon a killed and a stopped engine is noticed
	.venv/bin/python -m bench.noticing $(ARGS)

soak: $(DEV_READY) ## Half an hour of mixed traffic and faults on one core; fails where anything grows
	.venv/bin/python -m bench.soak $(ARGS)

clean: ## Remove what was installed and built here; models stay in their cache
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests scripts bench -name __pycache__ -prune -exec rm -rf {} +

$(GATEWAY_READY): requirements/gateway.txt requirements/build.txt pyproject.toml scripts/install-gateway.sh
	@scripts/install-gateway.sh requirements/gateway.txt requirements/build.txt
	@touch $@

$(DEV_READY): requirements/dev.txt $(GATEWAY_READY)
	@scripts/install-gateway.sh requirements/dev.txt requirements/build.txt
	@touch $@

$(FUZZ_READY): requirements/fuzz.txt $(DEV_READY)
	@.venv/bin/python -m pip install --quiet --require-hashes --requirement $<
	@touch $@

$(ENGINE_READY): requirements/engine-$(ENGINE).txt scripts/install-engine.sh | $(GATEWAY_READY)
	@scripts/install-engine.sh $(ENGINE)
	@touch $@

$(TOOLS_READY): requirements/tools.txt scripts/install-tools.sh | $(GATEWAY_READY)
	@scripts/install-tools.sh requirements/tools.txt
	@touch $@
