# The kit's commands. `make` without a target lists them. docs/setup.md lists the commands for use without make.
# PYTHON is the first of these commands that runs. It must be tried, because pyenv's shims can fail.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.11; do $$p -c '' 2>/dev/null && break; done; \
  echo $$p)
PROFILE ?= mini
SEEDS ?= 0 1 2
PINS ?= locks
BIN := .venv/bin
READY := .venv/.ready
OPTIONS := --profile $(PROFILE) $(if $(BIOASQ_DIR),--bioasq-dir "$(BIOASQ_DIR)") \
  $(foreach setting,$(SET),--set "$(setting)")

.DEFAULT_GOAL := help
.PHONY: help setup walkthrough seeds sweep lab site bundle test check-long benchmarks lint lock upgrade audit clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile
	@echo; echo "Settings: PROFILE=$(PROFILE) BIOASQ_DIR=folder RUN=name SEED=number SEEDS=\"$(SEEDS)\""
	@echo "          JOBS=number of runs at the same time (default: as many as fit)"
	@echo "          SET=\"name=value name=value\" (settings of helpers.config)"
	@echo "          PYTHON=$(PYTHON) TORCH=cpu|cuda TORCH_INDEX=address (package index for torch only)"

setup: $(READY) ## create .venv and install the pinned packages

$(READY): pyproject.toml $(wildcard locks/*)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null \
	  || { echo "$(PYTHON) is missing or is not Python 3.11 or 3.12. Install Python 3.11, or" \
	  "specify its path: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) cannot create virtual environments. On Debian and Ubuntu, install the" \
	  "package python3.11-venv" >&2; exit 2; }
	@echo "Setup downloads 0.6 GB and needs 2.4 GB of disk space with the CPU build of torch, and 2.5 GB more" \
	  "with CUDA (pip's default on Linux). TORCH and TORCH_INDEX select the build; see docs/setup.md"
	$(PYTHON) -m venv .venv
	PINS="$(PINS)" TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" sh locks/install.sh $(BIN)/python
	$(BIN)/python -m pip check
	@touch $@

walkthrough: $(READY) ## run notebooks 00 to 05 and print the score table and the report path
	$(BIN)/python -m helpers.batch run $(OPTIONS) $(if $(RUN),--run "$(RUN)") $(if $(SEED),--seed $(SEED))

seeds: $(READY) ## train with several seeds and print the mean and the spread of the scores
	$(BIN)/python -m helpers.batch seeds $(OPTIONS) $(if $(RUN),--run "$(RUN)") \
	  $(if $(JOBS),--jobs $(JOBS)) --seeds $(SEEDS)

sweep: $(READY) ## run all combinations in a sweep file: make sweep FILE=sweep.yaml
	$(BIN)/python -m helpers.batch sweep "$(FILE)" $(if $(JOBS),--jobs $(JOBS))

# The folder .jupyter turns off Jupyter's news and the menus of nbgrader, which are for teachers.
lab: $(READY) ## open JupyterLab with notebook 00
	JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" $(BIN)/jupyter lab \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

site: walkthrough ## write the notebooks of the walkthrough and the documentation as a website to site/
	$(BIN)/python data_scripts/make_site.py

bundle: walkthrough ## write dist/bundle, which installs the kit without a network connection
	$(BIN)/python data_scripts/make_bundle.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

test: $(READY) ## run the tests (with BIOASQ_DIR, also the tests on the real files)
	$(if $(BIOASQ_DIR),BIOASQ_DIR="$(BIOASQ_DIR)") $(BIN)/python -m pytest --numprocesses=2

LOG = docs/results/long-checks-$(shell date -u +%F).txt
check-long: $(READY) ## run the long checks and write a dated log to docs/results
	{ git log -1 --format='commit %h of %cs'; $(BIN)/python -m pytest --numprocesses=2 -m 'long or fault' -v \
	  --no-header --durations=0; echo "exit status $$?"; } 2>&1 | sed -u 's#$(CURDIR)/##g' | tee $(LOG)
	@grep -qx 'exit status 0' $(LOG)

benchmarks: $(READY) ## measure speed and memory on this CPU (takes 30 minutes; run nothing else meanwhile)
	for name in training_step prediction features nbest load_checkpoint conversion_speed cost_growth; do \
	  $(if $(BIOASQ_DIR),BIOASQ_DIR="$(BIOASQ_DIR)") $(BIN)/python benchmarks/$$name.py \
	    --output docs/results/benchmarks || exit; done
	$(BIN)/python benchmarks/common.py --table docs/results/benchmarks --to docs/results/benchmarks.md

lint: $(READY) ## check the style, and check that no notebook contains outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	find notebooks -name '*.ipynb' -not -path '*/.*' -print0 | xargs -0 -r $(BIN)/nbstripout --keep-id --verify

# uv gets its own environment, as pip-audit does, so that it cannot change the packages of the kit.
UV = $(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv==0.13.9 && \
  PATH="$(CURDIR)/build/lock/bin:$$PATH" $(BIN)/python
lock: $(READY) ## write locks/ from the ranges in pyproject.toml (UPGRADE=1: with the newest versions)
	$(UV) data_scripts/lock.py $(if $(UPGRADE),--upgrade) $(TORCH_INDEX:%=--torch-index %)

upgrade: $(READY) ## compare tests and scores with the old pins and with the newest packages, in clones
	$(UV) data_scripts/upgrade.py $(TORCH_INDEX:%=--torch-index %)

audit: $(READY) ## list the licenses of all packages, and look up their known vulnerabilities
	$(BIN)/python tests/licenses.py
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet pip-audit==2.10.1
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r locks/packages.txt -r locks/cuda.txt

clean: ## remove .venv and caches, but keep runs/ and the downloaded weights
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build src/*.egg-info
	find src tests data_scripts -name __pycache__ -prune -exec rm -rf {} +
