# Needs Python >= 3.10, a C++ compiler and make. Everything goes into $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
SOURCES = $(shell find csrc -type f) CMakeLists.txt pyproject.toml constraints.txt
# for this machine's card, or for one architecture where there is none: these commands are to take minutes
export CUDAARCHS ?= $(shell nvidia-smi >/dev/null 2>&1 && echo native || echo 90-real)
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test bench lint format clean
.DEFAULT_GOAL = demo

demo: $(VENV)/installed       ## train RealNVP on the digits and look at the samples
	$(BIN)/pyflowk train realnvp --data digits

test: $(VENV)/tested          ## the whole suite; parts that need nvcc or Triton say so and skip without them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

bench: $(VENV)/benched        ## the ops' own tests, then ratios against the peers
	$(BIN)/pyflowk bench

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

# torch first, at the pinned version, so that nothing else brings another one
$(VENV)/torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -r constraints.txt
	touch $@

# one build each: every extra holds what the demonstration needs
$(VENV)/installed $(VENV)/tested $(VENV)/benched $(VENV)/linted $(VENV)/everything: $(VENV)/%: $(VENV)/torch $(SOURCES)
	$(PIP) install -q -c constraints.txt -e '.[$(extra_$*)]'
	touch $(VENV)/installed $@ $(also_$*)

extra_installed = train
extra_tested = test
extra_benched = test,bench
extra_linted = test,lint
extra_everything = test,bench,lint,triton
also_everything = $(VENV)/tested $(VENV)/benched $(VENV)/linted
