# Everything happens in .venv; each target does the set-up it needs. `make` alone prints this help.
.DEFAULT_GOAL := help
.PHONY: help setup book test offline trust mutants benchmark clean pins
STAMP := .venv/.installed
NNOPT := .venv/bin/nnopt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

help:  ## print this help
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 16

setup: $(STAMP)  ## make .venv with the locked dependencies and the package itself

book: setup  ## execute the chapters that are stale and build book/_build/html/index.html
	$(NNOPT) book

test: setup  ## lint, types, unit tests, every chapter recomputed in its quick profile, nbval on one slow thread, book, its pages in a browser; what has not changed since it passed is skipped, but for FRESH=1
	.venv/bin/python tests/run.py

offline: setup  ## the book, a chapter computed anew and the chapters on downloaded data, without network and without NNOPT_DATA
	.venv/bin/python tests/offline.py

trust: setup  ## edit at random, ten thousand times, what the library reads; end 50 commands at random moments (half an hour)
	.venv/bin/python tests/random_edits.py
	.venv/bin/python tests/faults.py

mutants: setup  ## break the library in 200 small ways, drawn by seed, and see which its tests notice (hours; goes on where it was stopped)
	.venv/bin/python tests/mutants.py

benchmark: setup  ## print timings side by side; equal results are checked first
	.venv/bin/python tests/benchmarks/fit_many.py
	.venv/bin/python tests/benchmarks/masks.py
	PYTHONPATH=. .venv/bin/python tests/benchmarks/nodes.py
	PYTHONPATH=. .venv/bin/python tests/benchmarks/second_order.py
	.venv/bin/python -m tests.benchmarks.labs
	.venv/bin/python tests/benchmarks/search.py
	.venv/bin/python tests/benchmarks/formats.py

clean:  ## remove what was made, except .venv and the computed rows in build/store
	find build -mindepth 1 -maxdepth 1 ! -name store -exec rm -rf {} + 2>/dev/null || true
	rm -rf book/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis

pins: setup  ## author: write constraints.txt anew from what is installed, after a deliberate upgrade
	@head -n 1 constraints.txt > constraints.new
	@.venv/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' >> constraints.new
	@mv constraints.new constraints.txt

# Only when what is to be installed changed. Python 3.11 first: the constraints were tested on it.
$(STAMP): pyproject.toml constraints.txt
	@if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
	  for python in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	      2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "No Python 3.11, 3.12 or 3.13 with venv was found on PATH; install one, or name it: make setup PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  "$$found" -m venv --clear .venv; \
	fi
	.venv/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(STAMP)
