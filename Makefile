# make demo: a leaderboard from a clean clone.  make test, make lint: what CI runs.  make bench: speed beside the peers.
# make selftest: robust accuracies that are known.  make mutation: 12 planted bugs, each of which it must catch.
# make leaderboard: the pages of reports/leaderboard from its entries.  make leaderboard-check: are they up to date?
# make reproduction: reports/reproduction.md from its entries.
# make screenshots: the page at the width of a desk and of a phone, from PAGE.
# make agreement: our attacks beside foolbox, torchattacks and cleverhans, in an environment of their own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
AGREEMENT := .venv-agreement
AXE := node_modules/axe-core/axe.min.js
PAGE ?= reports/leaderboard/leaderboard.html

.PHONY: demo test selftest mutation bench leaderboard leaderboard-check screenshots lint format
.PHONY: agreement agreement-tests clean reproduction

demo: $(INSTALLED)
	$(BIN)/rbm demo

# Without npm, or without a network, the tests of accessibility skip, unless RBM_REQUIRE_BROWSER=1.
test: $(INSTALLED)
	-@command -v npm > /dev/null && $(MAKE) --no-print-directory $(AXE)
	$(BIN)/python -m pytest

$(AXE):
	npm install --prefix . --no-save --no-package-lock --no-audit --no-fund --silent axe-core@4.14.1

selftest: $(INSTALLED)
	$(BIN)/rbm selftest

mutation: $(INSTALLED)
	$(BIN)/python benchmarks/mutation.py --out reports/mutation

bench: $(INSTALLED)
	$(BIN)/rbm bench run

leaderboard: $(INSTALLED)
	$(BIN)/rbm leaderboard build reports/leaderboard

leaderboard-check: $(INSTALLED)
	$(BIN)/rbm leaderboard check reports/leaderboard

reproduction: $(INSTALLED)
	$(BIN)/python benchmarks/reproduction.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshots: $(INSTALLED)
	$(BIN)/python docs/screenshots.py $(PAGE) docs/img

agreement: agreement-tests
	$(AGREEMENT)/bin/python benchmarks/agreement.py --out reports/agreement

# Where the libraries are asked for, what `make test` skips for want of them fails.
agreement-tests: $(AGREEMENT)/.installed
	RBM_REQUIRE_LIBRARIES=1 $(AGREEMENT)/bin/python -m pytest -k 'torchattacks or cleverhans'

$(AGREEMENT)/.installed: pyproject.toml constraints.txt benchmarks/agreement-constraints.txt
	$(PYTHON) -m venv $(AGREEMENT)
	$(AGREEMENT)/bin/python -m pip install --quiet --constraint benchmarks/agreement-constraints.txt --editable '.[dev]'
	$(AGREEMENT)/bin/python -m pip install --quiet --constraint benchmarks/agreement-constraints.txt \
		--no-deps torchattacks cleverhans
	touch $(AGREEMENT)/.installed

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) $(AGREEMENT) node_modules build dist .pytest_cache .mypy_cache .ruff_cache
