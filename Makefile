# `make` lists the targets. Everything runs in a virtual environment that the first target builds and the next ones
# reuse: .venv-FINGERPRINT, where the fingerprint covers the dependency files, the Python and the place of the checkout.
# The package is installed there as a link to the checkout (editable), so no copy of it can be out of date.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TEST_ARGS ?=
DEMO_ARGS ?=
BENCHMARK_ARGS ?=
SOAK_ARGS ?=
FUZZ_SECONDS ?= 60

FINGERPRINT := $(shell $(PYTHON) -c 'import hashlib, os, sys; \
	sys.version_info >= (3, 11) or sys.exit(); \
	key = repr([sys.version, os.path.realpath(sys.executable), os.getcwd(), *(open(f).read() for f in sys.argv[1:])]); \
	print(hashlib.sha256(key.encode()).hexdigest()[:12])' setup.cfg pyproject.toml constraints.txt benchmarks/quality/requirements.txt)
VENV := .venv-$(FINGERPRINT)
RUN := $(VENV)/bin/python

# Nothing from outside the checkout is imported in place of it. Once the venv stands, nothing here needs the network but
# audit-dependencies, whose answers are elsewhere, and fuzz, the first time.
unexport PYTHONPATH
test test-slow demo docs benchmark benchmark-quick: export HF_HUB_OFFLINE = 1

.DEFAULT_GOAL := help
.PHONY: help venv demo docs test test-slow benchmark benchmark-quick soak quality audit-dependencies fuzz style clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: venv ## Pre-train a small model on the embedded emoji and show what it finds (DEMO_ARGS="--seed 1")
	$(RUN) examples/demo.py --output_dir runs/demo $(DEMO_ARGS)

test: venv ## Run the tests, a file to each core (TEST_ARGS="-k loss" is passed on to pytest)
	$(RUN) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile $(TEST_ARGS)

test-slow: venv ## Run the tests that are marked slow
	$(RUN) -m pytest -m slow $(TEST_ARGS) || test $$? -eq 5 # 5: there are none

benchmark: venv ## Compare all objectives over five seeds, with statistics, into docs/benchmark (two hours; resumable)
	$(RUN) benchmarks/quality $(BENCHMARK_ARGS)

benchmark-quick: venv ## The same in a few steps, which say nothing, to see that it works (minutes)
	$(RUN) benchmarks/quality --quick $(BENCHMARK_ARGS)

soak: venv ## Kill a training fifty times, also while it saves and pushes, and compare it with one left alone (minutes)
	$(RUN) benchmarks/soak.py $(SOAK_ARGS)

quality: venv ## Check style, formatting, types, docstrings, and dependencies for known flaws
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m tests.check_docstrings
	$(RUN) -m tests.check_dependencies

audit-dependencies: venv ## Check dependencies for known flaws; without a network that fails, in `quality` it is told
	$(RUN) -m tests.check_dependencies --strict

fuzz: venv ## Feed the readers of files with broken ones, for FUZZ_SECONDS=60 each
	$(RUN) -m pip install -qq --constraint constraints.txt atheris
	$(RUN) -m tests.security.fuzz $(FUZZ_SECONDS)

style: venv ## Put style and formatting right, as far as that can be done automatically
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: venv ## Build the documentation as a site, warnings as errors (build/site/index.html)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

venv: $(VENV)/complete ## Build the virtual environment, if it is not there yet

# The stamp is written last: an environment whose building was interrupted is taken for none and built anew.
$(VENV)/complete:
	@test -n "$(FINGERPRINT)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Building $(VENV): once for each set of dependencies, several GB, takes minutes."
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -qq --constraint constraints.txt setuptools
	$(RUN) -m pip install -qq --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	$(RUN) -m pip install -qq --no-deps --requirement benchmarks/quality/requirements.txt
	touch $@

clean: ## Delete the virtual environments, caches and build products (never runs/)
	rm -rf .venv-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
