# Every verb sets up what it needs: a virtual environment with the CPU build of torch.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?=

.PHONY: help demo test lint bench clean

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: $(READY) ## run the main job on this machine: real models, a real budget, a real daemon
	$(BIN)/adaphi demo $(DEMO)

test: lint ## check style and types, then run every test: first side by side, then those with deadlines
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not alone" -n auto --maxprocesses 4 --dist worksteal
	$(BIN)/python -m pytest -m alone $$(grep -l mark.alone tests/test_*.py)

lint: $(READY) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## measure, each figure beside its peer in the same run
	$(BIN)/python -m benchmarks

clean: ## remove the virtual environment
	rm -rf $(VENV)

# torch first, and by the name of its CPU build: PyPI never carries that name, so no CUDA package can
# come with it. Where no configured index has it, PyTorch's own index does.
$(READY): pyproject.toml constraints.txt Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -r constraints.txt \
	  || $(BIN)/python -m pip install -q --index-url https://download.pytorch.org/whl/cpu \
	       --extra-index-url https://pypi.org/simple -r constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $(READY)
