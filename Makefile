# Lookalike: `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.8
# --no-deps: the lock is complete, and leaves out pyspark-client, whose files would overwrite those of pyspark.
UV_INSTALL = uv pip install -q --python $(BIN)/python --no-deps --require-hashes -r requirements.lock && uv pip install -q --python $(BIN)/python --no-deps -e .
PIP_INSTALL = $(BIN)/python -m pip install -q --disable-pip-version-check
DATASET ?=
RUN ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup java refresh test lint bench train up down lock clean

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

test: setup ## Check style, types and layers, and run every test
	@$(MAKE) -s lint
	@$(BIN)/python -m pytest

lint: setup ## ruff, mypy, import-linter
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: setup ## Run the benchmarks: make bench [DATASET=path]; figures go to benchmarks/RESULTS.md by hand
	@rm -rf var/bench
	@$(BIN)/python benchmarks/refresh.py --folder var/bench $(if $(DATASET),--dataset "$(DATASET)")
	@$(BIN)/python benchmarks/nine_percentages.py --lake var/bench/var/lake --run 2026-01-01
	@$(BIN)/python benchmarks/quality.py --lake var/bench/var/lake --run 2026-01-02
	@$(BIN)/python benchmarks/cube.py --folder var/bench/var $(if $(DATASET),--dataset "$(DATASET)")
	@$(BIN)/python benchmarks/store.py --folder var/bench/var $(if $(DATASET),--dataset "$(DATASET)")

train: setup ## Train the embedding on the newest refresh; the next one uses it if it is better
	@$(BIN)/lookalike step train_embedding --run latest

up: setup ## Start Airflow's scheduler, DAG processor and UI on localhost
	@$(BIN)/lookalike up

down: ## Stop what `make up` started
	@$(BIN)/lookalike down

lock: ## Pin the versions again (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate --no-emit-package pyspark-client --extra test --extra bench setup.py -o requirements.lock

clean: ## Remove the lake, store, logs and Airflow's files in var/
	rm -rf var
