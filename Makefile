# Everything a person needs: make demo, make test. Both set up what they need in .venv.

PYTHON ?= python3
# The CPU build. On a machine with an NVIDIA GPU install the CUDA build of your choice first, or set TORCH.
TORCH ?= torch==2.13.0
# One more than processors: much of the time tests wait.
TEST_PROCESSES ?= 3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check format schemas bench bench-takeover clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

# torch first, by its version: so nothing that follows pulls another build of it.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[worker,dev]"
	@touch $@

demo: $(VENV)/installed ## Run a real LLM application on this machine
	$(BIN)/parrot-mq demo

test: $(VENV)/installed ## Run all tests
	$(BIN)/python -m pytest -n $(TEST_PROCESSES)

check: $(VENV)/installed ## Formatter, linter, types, import contracts, spelling, schemas
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell parrot_mq workers tests benchmarks examples schemas deploy README.md
	$(BIN)/python schemas/generate.py --check

format: $(VENV)/installed ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(VENV)/installed ## Write the schemas anew from the types
	$(BIN)/python schemas/generate.py

bench: $(VENV)/installed ## Tasks per second and hop latency
	$(BIN)/python benchmarks/bench_dispatch.py

bench-takeover: $(VENV)/installed ## Seconds until a second coordinator has taken over
	$(BIN)/python benchmarks/bench_takeover.py

clean: ## Remove what was installed and cached
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache node_modules
