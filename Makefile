# Nothing is assumed but python3 (3.11 or 3.12), g++ and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# DeepSpeed and torch say much that a reader of the demo has no use for.
QUIET := DS_LOG_LEVEL=warning TORCH_CPP_LOG_LEVEL=ERROR PYTHONWARNINGS=ignore

.PHONY: demo test torture lint bench install clean
.DEFAULT_GOAL := install

install: $(VENV)/installed
$(VENV)/installed: requirements/base.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements/base.txt
	$(PIP) --no-deps --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed requirements/test.txt requirements/test-nodeps.txt
	$(PIP) -r requirements/test.txt
	$(PIP) --no-deps -r requirements/test-nodeps.txt
	touch $@

demo: install  ## archive -> shards -> Dual-SimCLR under DeepSpeed -> backbones -> probe against random
	rm -rf demo
	python shards/demo.py --out demo/archive --pairs 768 --workers 2
	python shards/build.py bigearthnet --source S2=demo/archive S1=demo/archive splits=demo/archive --out demo/shards --samples-per-shard 64 --workers 2
	$(QUIET) deepspeed launchers/pretrain.py --config configs/pretrain/dual_simclr_demo.yaml data.shards=demo/shards run.dir=demo/run
	python launchers/probe.py --backbone demo/run/export/s1 demo/run/export/s2 --shards demo/shards --random-baseline

test: $(VENV)/installed-test
	python -m pytest

torture: $(VENV)/installed-test  ## the long forms: more random cases, more kills
	RSPRETRAIN_TORTURE=1 python -m pytest

lint: $(VENV)/installed-test
	ruff check .
	ruff format --check .
	mypy
	lint-imports

bench: $(VENV)/installed-test
	python benchmarks/loading.py
	python benchmarks/simclr_ucmerced.py
	python benchmarks/demo_seeds.py

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
