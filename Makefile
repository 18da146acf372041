# One word per task. Each works in a fresh clone, with an empty environment, and sets up what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help install run check test full conformance journey bench docs lint format clean

# files of tests side by side, one more than processors: many wait for something
PYTEST = .venv/bin/python -m pytest -n $(shell echo $$(($$(nproc) + 1))) --dist loadfile
ARGS ?=
PYTEST_ARGS ?=

help: ## this list
	awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

install: ## make .venv with the `ikon` command
	scripts/install

run: install ## serve on 127.0.0.1:9292, data in ./ikon-data; more settings in ARGS="..."
	exec .venv/bin/ikon serve --data ./ikon-data $(ARGS)

check: ## format, lint, types and the fast tests: before every commit
	scripts/install dev
	began=$$(date +%s)
	$(MAKE) --no-print-directory lint
	$(PYTEST) -q -m "not slow and not full" $(PYTEST_ARGS)
	echo "make check: $$(($$(date +%s) - began)) s"

lint: ## format, lint and types only
	scripts/install dev
	.venv/bin/ruff format --check --quiet . || { echo "run: make format" >&2; exit 1; }
	.venv/bin/ruff check --quiet .
	.venv/bin/mypy

format: ## put every file into the house's form
	scripts/install dev
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# What the tests stand on: their Python, the clients, the servers and sample images. Nothing is left running.
.PHONY: test-setup
test-setup:
	began=$$(date +%s)
	scripts/install dev
	scripts/install clients
	tests/services/all.sh install
	echo "set up in $$(($$(date +%s) - began)) s"

test: test-setup ## every test but the long ones, against real databases, clients and a booting guest
	$(PYTEST) -m "not full" $(PYTEST_ARGS) < /dev/null

full: test-setup ## every test, the long ones (hundreds of crash rounds and the like) too
	$(PYTEST) $(PYTEST_ARGS) < /dev/null

conformance: ## tempest, glance-tempest-plugin, and the code of Nova, Cinder and Horizon, on MariaDB and SQLite; part of `make test`
	scripts/install dev
	tests/services/all.sh install mariadb keystone images http tempest neighbours
	$(PYTEST) -m "not full" tests/conformance $(PYTEST_ARGS) < /dev/null

journey: install ## the published OpenStack clients take a real image through Ikon, and boot it
	scripts/journey $(JOURNEY_ARGS)

bench: install ## measure Ikon beside upstream Glance and beside the machine's own limits
	bench/run $(BENCH_ARGS)

docs: install ## write the reference from the code
	.venv/bin/python scripts/reference.py

clean: ## remove what these commands made, but not the data of `make run`
	rm -rf .venv .venv-clients .state .mypy_cache .ruff_cache .pytest_cache
	find ikon tests bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +
