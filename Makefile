# Nothing is assumed but python3 (3.11 or 3.12), g++ and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
UCMERCED ?= UCMerced  # the folder that holds UCMerced_LandUse, for `make bench`
AID ?= AID  # the folder that holds AID, for `make bench`
REALDATA ?= realdata  # the folder that holds bigearthnet-v1, eurosat, …: real patches, for `make bench`

.PHONY: install demo test torture lint bench clean
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

$(VENV)/installed-bench: $(VENV)/installed-test requirements/bench.txt requirements/bench-nodeps.txt
	$(PIP) -r requirements/bench.txt
	$(PIP) --no-deps -r requirements/bench-nodeps.txt
	touch $@

# Archive -> shards -> Dual-SimCLR under DeepSpeed -> backbones -> probe against the same networks at random.
demo: install
	rm -rf demo
	python shards/demo.py --out demo/archive --pairs 1000 --workers 2
	python shards/build.py bigearthnet --source S2=demo/archive S1=demo/archive splits=demo/archive \
	  --out demo/shards --samples-per-shard 64 --workers 2
	PYTHONWARNINGS=ignore deepspeed --quiet launchers/pretrain.py --config configs/pretrain/dual_simclr_demo.yaml \
	  data.shards=demo/shards run.dir=demo/run
	python launchers/probe.py --backbone demo/run/export/s1 demo/run/export/s2 --shards demo/shards --random-baseline
	@echo "run          demo/run (metrics.jsonl, summary.json, checkpoints/, wandb/)"
	@echo "shards       demo/shards; a look inside: .venv/bin/python shards/inspect.py demo/shards --png demo/patches.png"
	@echo "archive      demo/archive, simulated, in the layout of BigEarthNet-MM v1"

# Two processes; a file's tests stay together, because they share what takes long to build.
TWO := -n 2 --dist loadfile
test: $(VENV)/installed-test
	python -m pytest $(TWO)

# The long forms: more random cases, more kills.
torture: $(VENV)/installed-test
	RSPRETRAIN_TORTURE=1 python -m pytest $(TWO)

lint: $(VENV)/installed-test
	ruff check .
	ruff format --check .
	mypy
	lint-imports

bench: $(VENV)/installed-bench
	python benchmarks/building.py
	python benchmarks/loading.py
	python benchmarks/starvation.py
	python benchmarks/scale.py
	python benchmarks/shuffling.py
	python benchmarks/remote.py
	python benchmarks/compression.py $(REALDATA)
	python benchmarks/demo_seeds.py
	python benchmarks/collapse.py
	python benchmarks/training.py
	python benchmarks/large_batch.py
	python benchmarks/simclr_ucmerced.py --source $(UCMERCED)
	python benchmarks/learning.py --ucmerced $(UCMERCED) --aid $(AID)
	python benchmarks/ordering.py
	python benchmarks/label_budget.py --source $(UCMERCED)

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .hypothesis
