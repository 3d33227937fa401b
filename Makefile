# The two commands to know: `make demo` and `make test`. `make` alone lists them all.

PYTHON ?= python3# needs 3.11 or newer; an older python3 falls back to python3.13, 3.12, 3.11
DEVICE ?= cpu# of the demo: cpu or cuda
JOBS ?= 2# test processes, one thread each

VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest
CACHES := .hypothesis .mypy_cache .pytest_cache .ruff_cache demo/work

.DEFAULT_GOAL := help
.PHONY: help demo test soak check format docs clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp ## the whole pipeline on a small corpus, in minutes (DEVICE=cuda: on the GPU)
	@$(RUN) -m demo.run --device $(DEVICE)

test: $(VENV)/dev.stamp ## run the tests
	$(PYTEST) -n $(JOBS) -m "not slow"

soak: $(VENV)/dev.stamp ## run the long tests: faults, comparisons, soaks
	$(PYTEST) -m slow --timeout 3600

check: $(VENV)/dev.stamp ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp ## format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev.stamp ## write config.schema.json and README's table from the configuration models
	$(RUN) -m utils.config_docs

clean: ## delete the virtual environment, the caches and what the demo wrote
	rm -rf $(VENV) $(CACHES)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One virtual environment; a stamp per requirements file, so pip runs again only when one changes.
$(VENV)/created.stamp:
	@set -e; \
	for python in $(PYTHON) python3.13 python3.12 python3.11; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "creating $(VENV) with $$("$$python" --version)"; \
			"$$python" -m venv --clear $(VENV); \
			touch $@; \
			exit 0; \
		fi; \
	done; \
	echo "error: $(PYTHON) is not Python 3.11 or newer, and no python3.13, 3.12 or 3.11 is" \
		"installed." >&2; \
	echo "  Install one, or name it: make PYTHON=/path/to/python3.13" >&2; \
	exit 1

$(VENV)/demo.stamp: requirements-demo.txt requirements.txt | $(VENV)/created.stamp
	$(RUN) -m pip install --disable-pip-version-check -r $<
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt requirements-demo.txt requirements.txt | $(VENV)/created.stamp
	$(RUN) -m pip install --disable-pip-version-check -r $<
	@touch $@
