# Everything a newcomer needs: `make demo`, `make test`. Each creates its own environment first.
.DEFAULT_GOAL := help
VENV ?= .venv
FUZZ_VENV ?= .venv-fuzz
COMPRESSAI_VENV ?= .venv-compressai
WEB_VENV ?= .venv-web
ZIGLANG ?= ziglang==0.17.1
PYTHON ?= python3
BIN := $(VENV)/bin
# One worker per core, each with one thread (tests/conftest.py); idle workers steal work from the others.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
CORE := build_core.py $(wildcard vaecodec/model/native_engine/core/*)
IMG ?=
# The CPU build of torch is small; an installed GPU build is kept.
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0

.PHONY: help demo test test-compressai check bench record fuzz stress laws exactness core sanitize wheel wheels web test-web clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' Makefile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Installing compiles the native core if there is a compiler; the demo then needs no torch.
$(VENV)/.installed-demo: pyproject.toml $(CORE) | $(BIN)/python
	$(PIP) --editable ".[demo]"
	@$(BIN)/python build_core.py --check || { $(PIP) $(TORCH) || $(PIP) torch; $(PIP) --editable ".[demo,torch]"; }
	@touch $@

$(VENV)/.installed-%: pyproject.toml $(CORE) | $(BIN)/python
	$(PIP) $(TORCH) || $(PIP) torch
	$(PIP) --editable ".[$*]"
	@$(BIN)/python build_core.py --check || true
	@touch $@

demo: $(VENV)/.installed-demo  ## encode a photograph at three qualities; IMG=photo.jpg uses your own
	$(BIN)/python examples/demo.py $(IMG)

test: $(VENV)/.installed-test  ## run all tests: offline, no GPU, warnings are errors
	$(PYTEST)

$(COMPRESSAI_VENV)/.installed: pyproject.toml $(CORE)
	$(PYTHON) -m venv $(COMPRESSAI_VENV)
	$(COMPRESSAI_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) $(TORCHVISION) || true
	$(COMPRESSAI_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[compressai]" "pytest>=8" "hypothesis>=6.100"
	@touch $@

test-compressai: $(COMPRESSAI_VENV)/.installed  ## test the compressai interface with real compressai and numpy < 2, in its own environment (1.5 GB)
	OMP_NUM_THREADS=1 $(COMPRESSAI_VENV)/bin/python -m pytest -q tests/test_interop_compressai.py tests/test_external.py

check: $(VENV)/.installed-test  ## check formatting, lint and types, and run the fast tests
	$(BIN)/python -m ruff format --check . && $(BIN)/python -m ruff check . && $(BIN)/python -m mypy
	$(PYTEST) -q -m "not slow"

bench: $(VENV)/.installed-bench  ## measure rate, distortion and speed of all codecs on Kodak; an hour (benchmarks/README.md)
	$(BIN)/python benchmarks/rd_curve.py --data kodak --out out/benchmark/kodak
	$(BIN)/python benchmarks/throughput.py --data kodak --out out/benchmark/throughput.json
	$(BIN)/python benchmarks/report.py out/benchmark/kodak

record: $(VENV)/.installed-bench  ## record new weights in benchmarks/results and README
	$(BIN)/python benchmarks/record.py
	$(BIN)/python benchmarks/legibility.py --docs docs/reliability.md

$(FUZZ_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(FUZZ_VENV)
	$(FUZZ_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) || $(FUZZ_VENV)/bin/python -m pip install --quiet torch
	$(FUZZ_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]" coverage
	$(FUZZ_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: atheris || echo "no atheris for this Python: fuzzing without it"
	@touch $@

fuzz: $(FUZZ_VENV)/.installed  ## decode millions of damaged and hostile files, with atheris if available; an hour
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(FUZZ_VENV)/bin/python -m fuzz.driver

stress: $(VENV)/.installed-test  ## kill programs while writing; workers, threads, 20,000 pictures; half an hour
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m stress.driver

laws: $(VENV)/.installed-test  ## 20,000 random round trips, and every size up to 130 x 130; 15 minutes
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m properties.driver

exactness: $(VENV)/.installed-test  ## compare hashes of latents under every setting; TORCHES="python ..." adds other versions
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m exactness.driver $(foreach python,$(TORCHES),--python $(python))

core:  ## compile the native core in place, without an environment
	$(PYTHON) build_core.py

sanitize: $(VENV)/.installed-test  ## run vectors and 2,000 mutants with a native core that checks every access; minutes
	$(BIN)/python tests/sanitized_core.py

wheel: $(VENV)/.installed-release  ## build sdist and wheel into dist/
	$(BIN)/python -m build

# A separate environment that holds only the compiler.
web/.installed: web/package-lock.json pyproject.toml
	$(PYTHON) -m venv $(WEB_VENV)
	$(WEB_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(ZIGLANG)
	cd web && npm ci --no-fund --no-audit --loglevel=error
	@touch $@

web: web/.installed  ## build the npm package (decoder as WebAssembly, weights, scripts) into web/dist
	$(WEB_VENV)/bin/python web/build.py

test-web: web  ## test vectors and mutants in Node, and in Chromium and Firefox if installed
	cd web && npm test --silent

wheels: $(VENV)/.installed-release  ## build wheels for Linux, macOS and Windows into dist/, compiled with zig
	$(BIN)/python -m pip install --quiet --disable-pip-version-check ziglang
	$(BIN)/python build_wheels.py

clean:  ## remove everything that these targets created
	rm -rf $(VENV) $(FUZZ_VENV) $(COMPRESSAI_VENV) $(WEB_VENV) build dist out
	rm -rf web/.installed web/node_modules web/build web/dist
