# Everything that a newcomer or CI needs. Install Python, git and make first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# The oldest declared TensorFlow and Keras run on Python 3.10 to 3.12. An installed name may not run (pyenv).
OLDEST_PYTHON ?= $(firstword $(foreach version,3.10 3.11 3.12,$(shell \
	python$(version) -c 'import sys; print(sys.executable)' 2>/dev/null)) $(PYTHON))
OLDEST_VENV := .venv-oldest
BENCH_VENV := .venv-bench
SECONDS ?= 60

.PHONY: setup demo test lint sweep bench test-oldest clean exact torture fuzz mutants

# What a contributor needs: the package, its dependencies and the tools of the checks.
setup: $(VENV)/dev-installed

demo: $(VENV)/demo-installed
	$(BIN)/python examples/demo.py

# Two processes: most of a test is TensorFlow tracing on one core.
test: $(VENV)/dev-installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/test_prose.py tests/test_prose_lists.py

# Every family of keras.applications through a checkpoint and back; minutes.
sweep: $(VENV)/dev-installed
	$(BIN)/python benchmarks/sweep.py

# Stalls, overhead and the rest beside every peer, half an hour: writes docs/benchmarks.md.
# To print one group: ONLY=stalls
bench: $(BENCH_VENV)/installed
	$(BENCH_VENV)/bin/python benchmarks/bench.py $(addprefix --only ,$(ONLY))

# Every model, data and kill point: most of an hour. `make test` has a small dose.
exact: $(VENV)/dev-installed
	$(BIN)/python tests/exactness.py

# The whole ladder of faults, hours: writes docs/scoreboard.md. One rung: RUNG=kills
torture: $(VENV)/dev-installed
	cd tests && PYTHONPATH=..:. $(abspath $(BIN))/python -m torture --record $(RUNG)

# Fuzz each parser of the files of a run with atheris, for SECONDS.
fuzz: $(VENV)/fuzz-installed
	for parser in manifest verification log run policy; do \
		$(BIN)/python tests/fuzz.py $$parser -max_total_time=$(SECONDS) -rss_limit_mb=4096 || exit 1; \
	done

# Small edits of the code that no test notices, of SEED's draw: COUNT of them, in ONLY these packages.
mutants: $(VENV)/dev-installed
	$(BIN)/python tests/mutants.py --seed $(or $(SEED),1) --count $(or $(COUNT),100) $(if $(ONLY),--only $(ONLY))

test-oldest: $(OLDEST_VENV)/installed
	$(OLDEST_VENV)/bin/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf $(VENV) $(OLDEST_VENV) $(BENCH_VENV) build *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo-installed: $(BIN)/python setup.cfg setup.py pyproject.toml
	@echo "installing keras_savekit and its dependencies into $(VENV) (TensorFlow is large)"
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/dev-installed: $(BIN)/python setup.cfg setup.py pyproject.toml
	@echo "installing keras_savekit, its dependencies and what tests need into $(VENV)"
	$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/fuzz-installed: $(VENV)/dev-installed
	$(PIP) -e '.[fuzz]'
	@touch $@

$(OLDEST_VENV)/installed: setup.cfg setup.py pyproject.toml tests/oldest.txt
	$(OLDEST_PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c tests/oldest.txt -e '.[test]'
	@touch $@

# A separate environment: dependencies of the peers change versions.
$(BENCH_VENV)/installed: setup.cfg setup.py pyproject.toml
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -e '.[bench]'
	@touch $@
