PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := -m pip install --quiet --disable-pip-version-check --constraint

.PHONY: help demo up cleanup dry-run test test-unit test-servers test-pythons test-lowest \
	soak lint bench pictures manifests clean

help:  ## Show this list.
	@awk -F ':.*## *' '/^[a-z0-9-]+:.*##/ { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/demo  ## See the main job on generated data, in ten seconds.
	@$(BIN)/python -m demo

up: .venv/demo  ## Start a playground with Flower, until Ctrl-C.
	@$(BIN)/python -m demo.up

cleanup: .venv/demo  ## Clean up the Redis of your environment; ARGS=--verbose.
	@$(BIN)/cleanup-blocking-coordination $(ARGS)

dry-run: .venv/demo  ## Say what "make cleanup" would do; nothing changes.
	@$(BIN)/cleanup-blocking-coordination --dry-run $(ARGS)

# Most tests wait for other processes, so there may be more of them than cores.
test: .venv/test  ## Run the tests on the oldest and the newest server.
	$(BIN)/python -m pytest --numprocesses 6 --dist worksteal

test-unit: .venv/test  ## Run the tests that need no server, in seconds.
	$(BIN)/python -m pytest tests/unit

test-servers: .venv/test  ## Run all tests on all servers; see .ci/run.
	$(BIN)/python -m pytest --all-servers -m ""

test-pythons: .venv-3.12/test .venv-3.13/test  ## Run a part of the tests with the newer Pythons.
	.venv-3.12/bin/python -m pytest tests/unit tests/engines/test_sweep.py tests/worker/test_tasks.py
	.venv-3.13/bin/python -m pytest tests/unit tests/engines/test_sweep.py tests/worker/test_tasks.py

# Old libraries warn about each other. Left out is what is the same with all of them: the script by hand, which
# only the server runs, and when to hold, which takes no more of a library than other sweeps.
test-lowest: .venv-lowest/test  ## Run the tests with the lowest version of each dependency.
	.venv-lowest/bin/python -m pytest -W default tests/unit tests/engines tests/worker \
		--ignore tests/engines/test_by_hand.py --ignore tests/engines/test_holds.py

soak: .venv/test  ## Let a fleet live and die while it is swept; MINUTES=60.
	@$(BIN)/python -m tests.churn --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED))

lint: .venv/test  ## Check style and types by ruff and mypy.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/bench  ## Measure for some minutes; see benchmarks/README.md.
	@$(BIN)/python -m benchmarks

pictures: .venv/test  ## Make the pictures in docs/ anew; needs Chromium.
	$(BIN)/python -m demo.screenshot
	$(BIN)/python -m demo.terminal

manifests:  ## Make the alerts for Kubernetes anew.
	@{ cat deploy/kubernetes/monitoring/prometheusrule.head; sed 's/^\(.\)/  \1/' deploy/prometheus/alerts.yml; } \
		> deploy/kubernetes/monitoring/alerts.yaml

clean:  ## Remove all that make and the tests have built.
	rm -rf .venv .venv-lowest .venv-3.12 .venv-3.13 .hypothesis .mypy_cache .pytest_cache .ruff_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=... names one")'
	@echo "building .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml constraints.txt | .venv/bin/python
	@$(BIN)/python $(PIP) constraints.txt --editable '.[demo]'
	@touch $@

.venv/bench: pyproject.toml constraints.txt | .venv/bin/python
	@$(BIN)/python $(PIP) constraints.txt --editable '.[demo,bench]'
	@touch $@

.venv/test: pyproject.toml constraints.txt | .venv/bin/python
	@$(BIN)/python $(PIP) constraints.txt --editable '.[demo,test]'
	@touch $@

.venv-3.%/test: pyproject.toml constraints.txt
	@python3.$* -m venv .venv-3.$*
	@.venv-3.$*/bin/python $(PIP) constraints.txt --editable '.[demo,test]'
	@touch $@

# Each >= of the run-time dependencies becomes an ==, and the constraints hold for all others.
.venv-lowest/test: pyproject.toml constraints.txt
	@$(PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
		| sed 's/>=/==/' > .venv-lowest/lowest.txt
	@sed -E 's/^([a-z-]+).*/^\1==/; s/-/./g' .venv-lowest/lowest.txt \
		| grep -v -f - constraints.txt > .venv-lowest/constraints.txt
	@.venv-lowest/bin/python $(PIP) .venv-lowest/constraints.txt --editable '.[demo,test]' \
		--requirement .venv-lowest/lowest.txt
	@touch $@
