# demo, test and bench each make their environment first. Needs Python 3.11 or later.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PIP := $(RUN)/pip install --quiet --disable-pip-version-check -c constraints.txt
PEER := aisimulate==0.13.0.dev202610270000000085

# Real vLLM, for the step-by-step comparison: built once for all checkouts, apart from the project's environment.
REQUIREMENTS := tests/lockstep/requirements.txt tests/lockstep/requirements-0.19.txt
export TWIN_ORACLE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/twin/oracle-$(shell cat $(REQUIREMENTS) | cksum | cut -d' ' -f1)

.PHONY: demo lint test bench clean oracle lockstep accuracy dashboard browser gallery

$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "twin needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/.pages: $(VENV)/.base
	$(PIP) -e '.[dashboard]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(VENV)/.base
	$(RUN)/twin plan --traffic scenarios/chat.yaml --model Qwen/Qwen3-32B --budget 120k/month --ttft 2s --tpot 50ms

# Ctrl-C ends it.
dashboard: $(VENV)/.pages
	$(RUN)/twin dashboard

lint: $(VENV)/.dev
	$(RUN)/ruff check
	$(RUN)/ruff format --check
	$(RUN)/mypy
	$(RUN)/lint-imports

$(TWIN_ORACLE)/.done:
	rm -rf $(TWIN_ORACLE)
	$(PYTHON) -m venv $(TWIN_ORACLE)
	$(TWIN_ORACLE)/bin/pip install --quiet --disable-pip-version-check --no-deps -r tests/lockstep/requirements.txt
	$(TWIN_ORACLE)/bin/pip install --quiet --disable-pip-version-check --no-deps --target $(TWIN_ORACLE)/0.19 \
		-r tests/lockstep/requirements-0.19.txt
	@touch $@

oracle: $(TWIN_ORACLE)/.done

lockstep: $(VENV)/.dev oracle
	$(RUN)/python tests/lockstep/compare.py --steps $(or $(STEPS),1000000) --seed $(or $(SEED),0)

# The pages are tested in Debian's Chromium, PDFs are laid out by Pango, and a Chinese report needs a Chinese font.
SYSTEM := chromium fonts-wqy-microhei libpangoft2-1.0-0 libharfbuzz-subset0
browser:
	@command -v chromium > /dev/null || { export DEBIAN_FRONTEND=noninteractive; apt-get update -qq \
		&& apt-get install -y -qq --no-install-recommends $(SYSTEM) > /dev/null; }

# Where vLLM cannot be installed, recorded steps take its place, and without a browser the pages are tested outside of one;
# the summary of the tests says so.
test: lint
	-@$(MAKE) --no-print-directory oracle || echo "make oracle: vLLM could not be installed here"
	-@$(MAKE) --no-print-directory browser || echo "make browser: Chromium could not be installed here"
	$(RUN)/pytest

# The peer runs beside ours where it can be installed; without it the bench says nothing of it.
.venv-peer/.done:
	$(PYTHON) -m venv .venv-peer
	-.venv-peer/bin/pip install --quiet --disable-pip-version-check '$(PEER)'
	@touch $@

bench: $(VENV)/.dev .venv-peer/.done
	-@$(MAKE) --no-print-directory oracle || echo "make oracle: vLLM could not be installed here"
	$(RUN)/pytest tests/bench --benchmark-only -o addopts= -q -p no:cacheprovider

# How wrong the twin is: the page, its pictures, the README's table, and what plans quote.
MEASURED := ../shared/groundtruth
accuracy: $(VENV)/.dev
	@test -d $(MEASURED) || { echo "make accuracy: needs the recorded runs, and there is no $(MEASURED)"; exit 1; }
	$(RUN)/twin accuracy --runs $(MEASURED)/inferencex_vllm_dev.csv --log $(MEASURED)/vllm_requests_rtxpro6000.csv \
		$(addprefix --verified ,$(wildcard tests/trust/measured/verify)) --data hwprofiles/accuracy.json --readme README.md

# The pictures in the README, of a plan that is made for them.
gallery: $(VENV)/.dev browser
	$(RUN)/python tests/helpers/gallery.py

clean:
	rm -rf $(VENV) .venv-peer build dist runs bench.json
