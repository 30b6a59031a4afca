# Needs Python 3.11 to 3.13, g++ and make; everything else is installed into .venv. `make PYTHON=python3.12` chooses the Python.
VENV := .venv
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
# --no-compile halves the time: Python compiles the modules that are used, at their first import.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
UCMERCED ?= UCMerced  # the folder that holds UCMerced_LandUse, for `make bench`
AID ?= AID  # the folder that holds AID, for `make bench`
REALDATA ?= realdata  # the folder that holds bigearthnet-v1, eurosat, …: real patches, for `make bench`

# The Python of .venv: that of PYTHON if given, else that of an existing .venv, else python3. Stamps have its version in
# their names, so that another PYTHON finds none and builds .venv again.
SUPPORTED := 3.11 3.12 3.13
ifeq ($(origin PYTHON),undefined)
  VERSION := $(firstword $(patsubst $(VENV)/lib/python%,%,$(wildcard $(SUPPORTED:%=$(VENV)/lib/python%))))
else
  VERSION :=
endif
PYTHON ?= python3
ifeq ($(VERSION),)
  VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
endif
STAMP := $(VENV)/installed-$(VERSION)

.PHONY: install demo test test-all torture lint docs bench clean
.DEFAULT_GOAL := install

install: $(STAMP)
	@echo "rspretrain is installed in $(VENV). Activate it: source $(VENV)/bin/activate"

UNSUPPORTED = $(PYTHON) is $(if $(VERSION),Python $(VERSION),not found), expected Python 3.11 to 3.13, as in: make PYTHON=python3.12
$(STAMP): requirements/base.txt pyproject.toml
	$(if $(filter $(VERSION),$(SUPPORTED)),,$(error $(UNSUPPORTED)))
	@if [ -d $(VENV) ] && [ ! -d $(VENV)/lib/python$(VERSION) ]; then echo "Removing $(VENV), which has another Python version"; rm -rf $(VENV); fi
	@echo "Creating $(VENV) with Python $(VERSION)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing the libraries of requirements/base.txt: minutes, most of them for torch"
	@$(PIP) wheel==0.48.0  # without it, pip warns at DeepSpeed, a source package
	@$(PIP) -r requirements/base.txt
	@echo "Installing rspretrain"
	@$(PIP) --no-deps --editable .
	@touch $@

$(STAMP)-test: $(STAMP) requirements/test.txt requirements/test-nodeps.txt
	@echo "Installing the libraries of the tests"
	@$(PIP) -r requirements/test.txt
	@$(PIP) --no-deps -r requirements/test-nodeps.txt
	@touch $@

$(STAMP)-bench: $(STAMP)-test requirements/bench.txt requirements/bench-nodeps.txt
	@echo "Installing the libraries of the benchmarks"
	@$(PIP) -r requirements/bench.txt
	@$(PIP) --no-deps -r requirements/bench-nodeps.txt
	@touch $@

$(STAMP)-docs: $(STAMP) requirements/docs.txt
	@echo "Installing the libraries of the documentation site"
	@$(PIP) -r requirements/docs.txt
	@touch $@

# Archive -> shards -> Dual-SimCLR in one process -> backbones -> probe, compared with the same networks with random weights.
demo: $(STAMP)
	@rm -rf data/demo runs/demo
	@echo "1 of 4: generating an archive"
	@rspretrain demo --out data/demo/archive --pairs 1000 --workers 2
	@echo "2 of 4: building shards"
	@rspretrain build bigearthnet --source S2=data/demo/archive S1=data/demo/archive splits=data/demo/archive \
	  --out data/demo/shards --samples-per-shard 64 --workers 2
	@echo "3 of 4: pretraining"
	@rspretrain pretrain --config dual_simclr_demo data.shards=data/demo/shards run.dir=runs/demo
	@echo "4 of 4: probing the backbones"
	@rspretrain probe --backbone runs/demo/export/s1 runs/demo/export/s2 --shards data/demo/shards --random-baseline
	@echo "run          runs/demo (metrics.jsonl, summary.json, checkpoints/, wandb/)"
	@echo "shards       data/demo/shards; to look inside: $(VENV)/bin/rspretrain inspect data/demo/shards --png data/demo/patches.png"
	@echo "archive      data/demo/archive, simulated, in the layout of BigEarthNet-MM v1"

# Two processes; the tests of a file stay together, because they share slow fixtures.
TWO := -n 2 --dist loadfile
test: $(STAMP)-test
	python -m pytest $(TWO)

# With the full matrices, of which `make test` runs a part.
test-all: $(STAMP)-test
	RSPRETRAIN_FULL=1 python -m pytest $(TWO)

# The long forms: more random cases, more kills.
torture: $(STAMP)-test
	RSPRETRAIN_TORTURE=1 python -m pytest $(TWO)

lint: $(STAMP)-test
	ruff check .
	ruff format --check .
	mypy
	lint-imports

# The pages of docs/ and the API reference as a site; warnings are errors.
docs: $(STAMP)-docs
	@NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "The site is in site/; search needs a server: python -m http.server --directory site"

bench: $(STAMP)-bench
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
	python benchmarks/memory.py
	python benchmarks/archive_costs.py
	python benchmarks/simclr_ucmerced.py --source $(UCMERCED)
	python benchmarks/learning.py --ucmerced $(UCMERCED) --aid $(AID)
	python benchmarks/ordering.py
	python benchmarks/label_budget.py --source $(UCMERCED)

clean:
	rm -rf $(VENV) data/demo runs/demo build site .mypy_cache .ruff_cache .hypothesis
