# make demo | test | # The peer runs beside ours where it can be installed; without it the bench says nothing of it.
PEER := aisimulate==0.13.0.dev202610270000000085

.venv-peer/.done:
	$(PYTHON) -m venv .venv-peer
	-.venv-peer/bin/pip install --quiet --disable-pip-version-check '$(PEER)'
	touch $@

bench: $(VENV)/.dev .venv-peer/.done
	$(RUN)/pytest tests/bench --benchmark-only -o addopts= -q -p no:cacheprovider

clean:
	rm -rf $(VENV) .venv-peer build dist runs bench.json
