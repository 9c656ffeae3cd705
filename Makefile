# Everything runs in .venv, which `make setup` makes from PYTHON; the other targets set it up by themselves.
PYTHON ?= python3
# What our own set-up installs. The package itself takes any torch >= 2.11.
TORCH ?= torch==2.14.1 torchvision==0.29.1
# More arguments for pytest or the demo: make test ARGS="-k assets", make demo ARGS="--clip street.mp4"
ARGS ?=
# CUDA=1: `make test` also compiles the CUDA sources; no CUDA device is needed for that.
CUDA ?= 0

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up

.DEFAULT_GOAL := help
.PHONY: help setup test cuda bench sanitize sanitize-cuda lint links types format demo docs docs-pictures page-libraries clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP)  ## make the virtual environment (.venv), once

$(STAMP): setup.py pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check setuptools wheel ninja $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.[dev]'
	@touch $@

test: setup $(if $(filter 1,$(CUDA)),cuda)  ## run all CPU tests; CUDA=1 compiles the CUDA sources first
	$(BIN)/python -m pytest -q -m "not cuda" -n auto $(ARGS)

# Every kernel for the architectures that are tuned for or promised, with nvcc alone: no device, no PyTorch.
NVCC := $(shell command -v nvcc)
NVCC_FLAGS := -std=c++17 -O3 -Xcompiler -fPIC -gencode arch=compute_80,code=sm_80 \
  -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_90,code=compute_90
CUDA_OBJECTS := $(patsubst csrc/cuda/%.cu,build/cuda/%.o,$(wildcard csrc/cuda/*.cu))

cuda: $(if $(NVCC),$(CUDA_OBJECTS))  ## compile the CUDA kernels, without a device
	@$(if $(NVCC),$(PYTHON) -m tools.count_kernels $(CUDA_OBJECTS))
	@echo "$(if $(NVCC),csrc/cuda compiles,there is no nvcc here: the CUDA kernels are not compiled)"

build/cuda/%.o: csrc/cuda/%.cu $(wildcard csrc/cuda/*.cuh csrc/cuda/*.h csrc/include/*.h)
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -c $< -o $@

bench: setup  ## measure converted networks beside eager PyTorch; results go to benchmarks/results
	$(BIN)/python -m benchmarks.cpu $(ARGS)

# The whole package with a sanitized extension, beside the tree; the interpreter itself knows nothing of sanitizers.
SANITIZED := build/sanitized
sanitize: setup  ## run the tests of the compiled backend with the address and undefined-behaviour sanitizers
	DELTAFX_SANITIZE=1 $(BIN)/python setup.py -q build --build-temp build/sanitized.tmp --build-lib $(SANITIZED)
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	  $(BIN)/python -m pytest -q -o pythonpath="$(SANITIZED) ." $(if $(ARGS),$(ARGS),tests/backends tests/test_preprocess.py)

sanitize-cuda: setup  ## run the CUDA kernels under compute-sanitizer's memcheck, racecheck and initcheck; needs a GPU
	$(BIN)/python -m tools.sanitize_cuda $(ARGS)

lint: setup  ## check style (ruff) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory types

# mypy and mkdocs know nothing of package_dir, so they are shown the packages as they import: a folder of links.
links:
	@rm -rf build/types/deltafx && mkdir -p build/types/deltafx
	@cd build/types/deltafx && ln -s ../../../deltafx/* ../../../passes ../../../models_zoo .

types: setup links
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p deltafx

format: setup  ## rewrite the Python files in house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: setup  ## a face detector on a webcam clip, dense and converted: a table, out/demo.mp4, out/demo.json
	$(BIN)/deltafx demo $(ARGS)

docs: setup links  ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

docs-pictures: setup  ## make the pictures of the documentation anew; needs Graphviz and npm
	$(BIN)/python -m tools.docs_pictures

page-libraries:  ## fetch the JavaScript libraries of the HTML page anew from their npm packages
	$(PYTHON) tools/page_libraries.py

clean:  ## remove .venv, builds and caches
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
