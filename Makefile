# Two commands on a fresh machine: `make app` serves the app, `make test` checks everything. Needs Python 3.11+ only.

PORT ?= 8501
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MERGEKIT := .venv-mergekit
MERGEKIT_INSTALLED := $(MERGEKIT)/.installed

# The first of these that is new enough; looked up only when the environment is made.
FIND_PYTHON = for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done

.PHONY: app test lint types tests feel mergekit browser
.DEFAULT_GOAL := app

app: $(INSTALLED)
	@$(BIN)/python -m nmerge_core demo
	@exec $(BIN)/python -m nmerge_core app --port $(PORT)

# Types and mergekit's merges are checked beside the other tests, which leave time of two cores to them. The test of how
# quickly pages answer has the machine for itself.
test: lint $(MERGEKIT_INSTALLED) browser
	@$(MAKE) --no-print-directory --jobs 2 tests types mergekit
	@$(MAKE) --no-print-directory feel

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# Three processes for two cores, as the browser's tests mostly wait. Files are started in the order of their names: the
# browser's must not come last.
FEEL := tests/browser/test_feel.py
tests: browser
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 10 -m "not mergekit" --ignore $(FEEL)

feel: browser
	$(BIN)/pytest $(FEEL)

# Merges by mergekit itself. It is optional: the environment of the other tests, as that of the app, is without it.
mergekit: $(MERGEKIT_INSTALLED)
	$(MERGEKIT)/bin/python -m pytest -q -m mergekit $$(grep -rl --include '*.py' pytest.mark.mergekit tests)

# The system's Chromium, best the one without a screen, which takes less of the processor; else the distribution's
# package, else the one Playwright downloads.
browser: $(INSTALLED)
	@for name in chromium-headless-shell chromium chromium-browser google-chrome; do \
		command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium for the browser tests"; apt-get update -qq; \
		apt-get install -y -qq chromium-headless-shell || apt-get install -y -qq chromium && exit 0; \
		exec $(BIN)/playwright install --with-deps chromium; \
	fi; \
	exec $(BIN)/playwright install chromium

# Made again whenever requirements.txt changes; the stamp is written last, so an interrupted install is repeated. The loops
# of merging are compiled here, in half a minute, so that nobody's first merge waits for them.
$(INSTALLED): requirements.txt
	@python=$$($(FIND_PYTHON)); \
	if [ -z "$$python" ]; then \
		echo "NMerge needs Python 3.11 or newer; python3 here is $$(python3 --version 2>&1). Install python3.11 (or" \
			"newer) with its venv package, then run make again." >&2; exit 2; \
	fi; \
	$$python -m venv $(VENV) || { \
		echo "$$python cannot make a virtual environment; on Debian: apt-get install python3-venv." >&2; exit 2; }
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m nmerge_core compile
	@touch $@

# mergekit and the few packages that only it needs, beside everything in $(VENV), whose packages a .pth file adds.
SITE := import sysconfig; print(sysconfig.get_path("purelib"))
$(MERGEKIT_INSTALLED): requirements-mergekit.txt $(INSTALLED)
	$(BIN)/python -m venv --clear --without-pip $(MERGEKIT)
	@$(BIN)/python -c '$(SITE)' >"$$($(MERGEKIT)/bin/python -c '$(SITE)')/nmerge.pth"
	$(BIN)/python -m pip --python $(MERGEKIT)/bin/python install --disable-pip-version-check -r requirements-mergekit.txt
	@touch $@
