# make demo | test | bench: each makes its environment first. Needs Python 3.11 or later.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test lint bench profiles clean

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "twin needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(RUN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[calibrate,dev]'
	touch $@

demo: $(VENV)/.base
	$(RUN)/twin plan --traffic scenarios/chat.yaml --model Qwen/Qwen3-32B --budget 120k/month --ttft 2s --tpot 50ms

lint: $(VENV)/.dev
	$(RUN)/ruff check
	$(RUN)/ruff format --check
	$(RUN)/mypy
	$(RUN)/lint-imports

test: $(VENV)/.dev lint
	$(RUN)/pytest

bench: $(VENV)/.dev
	$(RUN)/pytest tests/bench --benchmark-only --benchmark-disable-gc -o addopts= -q

clean:
	rm -rf $(VENV) build dist runs bench.json
