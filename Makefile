# Needs Python >= 3.10, a C++ compiler and make. Everything goes into $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install -q
SOURCES = $(shell find csrc -type f) CMakeLists.txt pyproject.toml
CARD := $(shell nvidia-smi >/dev/null 2>&1 && echo yes)
# for this machine's card, or for one architecture where there is none, and PTX of an older one for the tests' bench
export CUDAARCHS ?= $(if $(CARD),native,80-virtual;90-real)
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
MAKEFLAGS += --jobs=2 # torch is unpacked while the kernels are compiled

.PHONY: demo test bench docs lint format clean
.DEFAULT_GOAL = demo

demo: $(VENV)/installed       ## train RealNVP on the digits and look at the samples
	$(BIN)/pyflowk train realnvp --data digits

test: $(VENV)/tested          ## the whole suite; parts that need nvcc or Triton say so and skip without them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

bench: $(VENV)/benched        ## the ops' own tests, then ratios against the peers
	$(BIN)/pyflowk bench

docs: $(VENV)/documented      ## the site, its gallery drawn, into build/docs
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -b html docs build/docs

lint: $(VENV)/linted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

format: $(VENV)/linted
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

clean:
	rm -rf build dist $(VENV)

# No build isolation: what built the objects stays in its place, so that the next build compiles only what changed.
$(VENV)/tools:
	$(PYTHON) -m venv $(VENV)
	$(PIP) cmake ninja 'pybind11>=2.13' 'scikit-build-core>=0.12'
	touch $@

# torch at the pinned version, before what would bring another one
$(VENV)/torch: constraints.txt $(VENV)/tools
	$(PIP) -c constraints.txt torch
	touch $@

# a demonstration needs the kernels of this machine, the tests all that can be built here
PYFLOWK_CUDA ?= AUTO
PYFLOWK_WERROR ?= OFF
BUILD = $(PIP) --no-deps --no-build-isolation -C build-dir=build/make
$(VENV)/native: $(SOURCES) $(VENV)/tools
	$(BUILD) -C cmake.define.PYFLOWK_LEVELS=native -C cmake.define.PYFLOWK_CUDA=$(if $(CARD),AUTO,OFF) -e .
	touch $@

$(VENV)/full: $(SOURCES) $(VENV)/tools
	$(BUILD) -C cmake.define.PYFLOWK_LEVELS=all -C cmake.define.PYFLOWK_CUDA=$(PYFLOWK_CUDA) \
	    -C cmake.define.PYFLOWK_WERROR=$(PYFLOWK_WERROR) -C cmake.define.PYFLOWK_KEEP=ON -e .
	touch $(VENV)/native $@

# every extra holds what the demonstration needs
$(VENV)/installed $(VENV)/benched $(VENV)/documented $(VENV)/linted: $(VENV)/native
$(VENV)/tested $(VENV)/everything: $(VENV)/full
$(VENV)/installed $(VENV)/tested $(VENV)/benched $(VENV)/documented $(VENV)/linted $(VENV)/everything: $(VENV)/%: \
        $(VENV)/torch
	$(PIP) -c constraints.txt 'pyflowk[$(extra_$*)]'
	touch $(VENV)/installed $@ $(also_$*)

extra_installed = train
extra_tested = test
extra_benched = test,bench
extra_documented = docs
extra_linted = test,lint
extra_everything = test,bench,lint,triton
also_everything = $(VENV)/tested $(VENV)/benched $(VENV)/linted
