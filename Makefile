# One folder, one virtual environment; every target sets up what it needs.
RIGHT_PYTHON := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
ifndef PYTHON
PYTHON := $(shell for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$python -c '$(RIGHT_PYTHON)' 2>/dev/null && echo $$python && break; done)
endif
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,s3,detectors]'

PHOTOS ?= ../shared/data/photos/coco_mini
HEADS ?= $(PHOTOS)/../../heads
TEST_PROCESSES ?= 2
HOSTILE_SEED ?= 0
AUTOENCODER ?= $(PHOTOS)/../../autoencoders/taesd

.PHONY: setup check test test-all hostile quick browser demo photographs reference lock clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(RIGHT_PYTHON)' || { \
		echo "Python 3.11 to 3.14 is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) || { echo "installing again, once: a download may have come in cut" >&2; $(INSTALL); }
	@touch $@

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/tree.py
	$(BIN)/nbstripout --verify notebooks/*.ipynb

test: setup browser
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder \
		-m "not hostile and not long"

# With what does not fit into 25 minutes on two cores.
test-all: setup browser
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder \
		-m "not hostile"

# Every fault and every bad input (make test runs a tenth); HOSTILE_SEED draws others.
hostile: setup
	HOSTILE_SHARE=1 HOSTILE_SEED=$(HOSTILE_SEED) $(BIN)/python -m pytest tests/hostile \
		--numprocesses $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder

# Without what takes long: whole jobs, Ray, browsers, real sizes.
quick: setup
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder \
		-m "not slow and not long and not ray and not e2e and not browser and not hostile"

# For the tests of pages: Debian's Chromium, else Playwright's own; without one they skip.
browser: setup
	@for name in chromium chromium-browser google-chrome; do \
		command -v $$name >/dev/null && exit 0; done; \
	{ test "$$(id -u)" = 0 && apt-get install -y -qq chromium >/dev/null 2>&1; } || \
	$(BIN)/python -m playwright install chromium >/dev/null 2>&1 || \
	echo "no browser could be installed: the tests of pages will be skipped" >&2

demo: setup
	$(BIN)/python -m jobs.demo

photographs: setup
	$(BIN)/python -m jobs.demo.photographs --photos "$(PHOTOS)" --heads "$(HEADS)" --autoencoder "$(AUTOENCODER)"

# The page of every configuration key, from the models that check them.
reference: setup
	$(BIN)/python -m jobs.reference

lock: setup
	{ head -n 1 constraints.txt; $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
