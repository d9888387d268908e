# Lookalike: `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.8
# --no-deps: the lock is complete, and leaves out pyspark-client, whose files would overwrite those of pyspark.
UV_INSTALL = uv pip install -q --python $(BIN)/python --no-deps --require-hashes -r requirements.lock && uv pip install -q --python $(BIN)/python --no-deps -e .
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check
DATASET ?=
TESTERS ?= 2
RUN ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup java refresh serve test lint bench scale train wheel up down env compose-up compose-down compose-check lock clean chaos

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) java ## Create the environment in .venv (uv if present, else venv + pip) and check Java

# Without uv on the machine, pip fetches it first: it installs in a quarter of pip's time. Where that fails, pip does it all.
$(STAMP): requirements.lock setup.py
	@if command -v uv >/dev/null && [ "$$(command -v uv)" != "$(CURDIR)/$(BIN)/uv" ]; then \
	  uv venv -q --clear --python 3.11 $(VENV) && $(UV_INSTALL); \
	else \
	  $$(command -v python3.11 || command -v python3) -m venv --clear $(VENV); \
	  $(PIP_INSTALL) uv==$(UV_VERSION) && $(UV_INSTALL) || { \
	    $(PIP_INSTALL) --no-compile --no-deps --require-hashes -r requirements.lock && $(PIP_INSTALL) --no-deps -e . ; } ; \
	fi
	@touch $@

java: $(STAMP)
	@$(BIN)/python -m infra.spark

refresh: setup ## Refresh a catalogue through Airflow: make refresh [DATASET=path|uri] [RUN=2026-01-31]
	@$(BIN)/lookalike refresh $(if $(DATASET),--dataset "$(DATASET)") $(if $(RUN),--run "$(RUN)")

serve: $(STAMP) ## Show the live run as a page, and answer over HTTP: make serve [LOOKALIKE_SERVE_PORT=8000]
	@$(BIN)/lookalike serve

test: setup ## Check style, types and layers, and run every test: make test [TESTERS=2]
	@$(MAKE) -s lint
	@$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

lint: setup ## ruff, mypy, import-linter
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: setup ## Run the benchmarks: make bench [DATASET=path]; figures go to benchmarks/RESULTS.md by hand
	@rm -rf var/bench
	@$(BIN)/python benchmarks/refresh.py --folder var/bench $(if $(DATASET),--dataset "$(DATASET)")
	@$(BIN)/python benchmarks/nine_percentages.py --lake var/bench/var/lake --run 2026-01-01
	@$(BIN)/python benchmarks/quality.py --lake var/bench/var/lake --run 2026-01-02
	@$(BIN)/python benchmarks/cube.py --folder var/bench/var $(if $(DATASET),--dataset "$(DATASET)")
	@$(BIN)/python benchmarks/store.py --folder var/bench/var $(if $(DATASET),--dataset "$(DATASET)")

scale: setup ## Refreshes of 2,000 to 200,000 products, and a cluster and S3 against one machine: hours; resumes
	@$(BIN)/python benchmarks/scale.py --folder var/scale --plot docs/scale.png $(if $(DATASET),--dataset "$(DATASET)")

train: setup ## Train the embedding on the live run; the next refresh uses it if it is better
	@$(BIN)/lookalike step train_embedding --run latest

wheel: setup ## Build var/lookalike-….whl, and a copy var/lookalike.zip for Spark's executors (docs/spark.md)
	@mkdir -p var && rm -rf build var/*.whl && $(BIN)/python -c "from setuptools import build_meta; build_meta.build_wheel('var')" >/dev/null
	@rm -rf build && cp var/lookalike-*.whl var/lookalike.zip && ls var/lookalike-*.whl var/lookalike.zip

up: setup ## Start Airflow's scheduler, DAG processor and UI on localhost: make up [LOOKALIKE_PORT=8080]
	@$(BIN)/lookalike up

down: ## Stop what `make up` started
	@$(BIN)/lookalike down

env: ## Draw the passwords of docker-compose.yml into .env; what is there stays
	@python3 infra/docker/make_env.py

compose-up: env ## Build and start the whole stack with Docker Compose (docs/compose.md)
	docker compose up --build --detach --wait

compose-down: ## Stop it; the volumes stay
	docker compose down

chaos: setup ## Run nights, a training, a backfill, a rollback and a prune two at a time, with readers (an hour)
	@$(BIN)/python -m pytest tests/end_to_end/check_orders.py

compose-check: setup ## Run the DAG by the processes of docker-compose.yml, without Docker (minutes)
	@$(BIN)/python -m pytest tests/end_to_end/check_compose.py

LOCK = uv pip compile -q --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate --no-emit-package pyspark-client
IMAGE := infra/docker/requirements
lock: ## Pin the versions again, here and for the images (needs uv)
	$(LOCK) --universal --extra cluster --extra test --extra bench setup.py -o requirements.lock
	$(LOCK) --universal --extra cluster --constraint requirements.lock setup.py -o $(IMAGE).lock
	sed -n 's/^tensorflow-cpu==\([^ ]*\).*/tensorflow[and-cuda]==\1/p' $(IMAGE).lock \
	  | $(LOCK) --python-platform x86_64-manylinux_2_28 --constraint $(IMAGE).lock - -o $(IMAGE)-gpu.lock

clean: ## Remove the lake, store, logs and Airflow's files in var/
	rm -rf var
