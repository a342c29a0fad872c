# demo, test and bench each make their environment first. Needs Python 3.11 or later.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PIP := $(RUN)/pip install --quiet --disable-pip-version-check -c constraints.txt
PEER := aisimulate==0.13.0.dev202610270000000085

.PHONY: demo lint test bench clean

$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "twin needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) -e '.[calibrate,dev]'
	@touch $@

demo: $(VENV)/.base
	$(RUN)/twin plan --traffic scenarios/chat.yaml --model Qwen/Qwen3-32B --budget 120k/month --ttft 2s --tpot 50ms

lint: $(VENV)/.dev
	$(RUN)/ruff check
	$(RUN)/ruff format --check
	$(RUN)/mypy
	$(RUN)/lint-imports

test: lint
	$(RUN)/pytest

# The peer runs beside ours where it can be installed; without it the bench says nothing of it.
.venv-peer/.done:
	$(PYTHON) -m venv .venv-peer
	-.venv-peer/bin/pip install --quiet --disable-pip-version-check '$(PEER)'
	@touch $@

bench: $(VENV)/.dev .venv-peer/.done
	$(RUN)/pytest tests/bench --benchmark-only -o addopts= -q -p no:cacheprovider

clean:
	rm -rf $(VENV) .venv-peer build dist runs bench.json
