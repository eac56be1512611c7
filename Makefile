PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo up test test-unit test-servers test-redis-py-6 lint bench picture clean

help:  ## this list
	@awk -F ':.*## *' '/^[a-z0-9-]+:.*##/ { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/demo  ## the main job on real data; ends by itself
	@$(BIN)/python -m demo

up: .venv/demo  ## server, worker, beat and Flower until Ctrl-C
	@$(BIN)/python -m demo.up

test: .venv/test  ## everything, on the oldest and the newest server; the tests start all that they need
	$(BIN)/python -m pytest

test-unit: .venv/test  ## the rules alone, in seconds
	$(BIN)/python -m pytest tests/unit

test-servers: .venv/test  ## the same on all servers, and what needs programs of the system (see .ci/run)
	$(BIN)/python -m pytest --all-servers -m ""

test-redis-py-6: .venv-redis6/test  ## the engine tests with the oldest redis-py that kombu takes
	.venv-redis6/bin/python -m pytest --all-servers -m every_server

lint: .venv/test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/bench  ## a few minutes; see benchmarks/README.md
	@$(BIN)/python -m benchmarks

picture: .venv/test  ## docs/flower.png, anew
	$(BIN)/python -m demo.screenshot

clean:  ## all that make has built
	rm -rf .venv .venv-redis6

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=... names one")'
	@echo "building .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml constraints.txt | .venv/bin/python
	@$(PIP) --editable '.[demo]'
	@touch $@

.venv/bench: pyproject.toml constraints.txt | .venv/bin/python
	@$(PIP) --editable '.[demo,bench]'
	@touch $@

.venv/test: pyproject.toml constraints.txt | .venv/bin/python
	@$(PIP) --editable '.[demo,test]'
	@touch $@

.venv-redis6/test: pyproject.toml constraints.txt | .venv/bin/python
	@$(PYTHON) -m venv .venv-redis6
	@grep -v '^redis==' constraints.txt > .venv-redis6/constraints.txt
	@.venv-redis6/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint .venv-redis6/constraints.txt --editable '.[demo,test]' 'redis[hiredis]==6.4.0'
	@touch $@
