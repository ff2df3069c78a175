# Needs Python >= 3.11 and make; every target sets up what it needs.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
READY := .venv/.ready
TOOL := $(BIN)/tinydistilbert
# Nothing is looked up in the hub; HF_HUB_OFFLINE=0 on the command line of make allows it.
HF_HUB_OFFLINE ?= 1
OFFLINE := HF_HUB_OFFLINE=$(HF_HUB_OFFLINE)
# Each test worker has one thread: together they have the cores. What Python compiles it keeps, wherever that is turned
# off: a fifth of the fast tests' time would go into compiling them and the package again.
PYTEST := $(OFFLINE) PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest
LEDGER := FAULTS_LEDGER="$(CURDIR)/results/faults.jsonl"
# Files go to the workers in the order of their names, so that those of the faults and pipelines, which take longest,
# come first: xdist's own order, by the number of tests, leaves one worker alone with them at the end. A worker that dies
# ends the run with the name of its test: xdist would go on, and wait for ever for what that worker still had.
WORKERS := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
# Tests that start processes wait for them a quarter of their time: one worker more than there are cores.
ONE_MORE = -n $$(($$(getconf _NPROCESSORS_ONLN) + 1))
RECIPE ?= minilm
# An adapted teacher beside the data, taken where it exists.
TEACHER ?= $(DATA)/../models/minilm-l6-mlm
ADAPTED = $(if $(wildcard $(TEACHER)/config.json),--teacher.model "$(TEACHER)" --adapt.tokens 0)

# The packages of .venv are seen from there too, but for the older ones that it has itself.
BESIDE := .venv-transformers-4

.PHONY: help install replicate real ablation replication bench gpu gpu-pack replication-pack test faults mutants test-fast test-slow test-cpus test-run test-wheel test-offline test-oldest test-transformers-4 test-gpu check docs format clean folder

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-19s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(READY) ## Make .venv with the pinned versions (every other target does so by itself).

replicate: $(READY) ## Run the whole job on the embedded default, offline: distil, fine-tune, score, time, report.
	$(OFFLINE) $(TOOL) replicate quickstart --output runs/quickstart

real: folder $(READY) ## Run the job on real data: make real DATA=FOLDER [RECIPE=minilm, small-glue, squad or table3] [TEACHER=FOLDER].
	$(OFFLINE) $(TOOL) replicate $(RECIPE) --data "$(DATA)" --output runs/$(RECIPE) $(ADAPTED)

ablation: folder $(READY) ## Run the ablation on real data, one to three hours on two cores: make ablation DATA=FOLDER [TEACHER=FOLDER].
	$(OFFLINE) $(TOOL) ablate ablation --data "$(DATA)" --output runs/ablation $(ADAPTED)

replication: folder $(READY) ## Every row of results/replication, on a GPU or in some days on a CPU; goes on where it stopped: make replication DATA=FOLDER.
	-$(OFFLINE) $(BIN)/python benchmarks/replication.py --data "$(DATA)" $(ARGS) # what failed keeps nothing from being collected
	$(OFFLINE) $(BIN)/python benchmarks/replication.py --data "$(DATA)" --collect
	$(BIN)/python results/readme.py

bench: folder $(READY) ## Measure steps of distillation and fine-tuning, and latency, on an idle machine: make bench DATA=FOLDER.
	$(OFFLINE) $(BIN)/python benchmarks/distill_throughput.py --data "$(DATA)"
	$(OFFLINE) $(BIN)/python benchmarks/finetune_throughput.py --data "$(DATA)"
	$(OFFLINE) $(BIN)/python benchmarks/latency.py --data "$(DATA)"

gpu: folder $(READY) ## Tests, measurements and a replication on a CUDA device, nine minutes: make gpu DATA=FOLDER [TEACHER=FOLDER].
	$(OFFLINE) $(BIN)/python benchmarks/gpu_day.py --data "$(DATA)" --teacher "$(TEACHER)"

gpu-pack: folder $(READY) ## Pack what that needs for a machine without a network, into packs/: make gpu-pack DATA=FOLDER [TEACHER=FOLDER].
	$(BIN)/python benchmarks/gpu_pack.py --data "$(DATA)" --teacher "$(TEACHER)"

replication-pack: folder $(READY) ## Pack what `make replication` needs for such a machine, into packs/.
	$(BIN)/python benchmarks/gpu_pack.py --replication --data "$(DATA)"

test: $(READY) ## Run the tests, those that take minutes or need a GPU excepted.
	$(LEDGER) $(PYTEST) $(WORKERS) $(ONE_MORE) -m "not slow and not gpu"

faults: $(READY) ## Kill, starve, corrupt and attack it thousands of times, within an hour; the counts go into results/faults.jsonl.
	FAULTS=full $(LEDGER) $(PYTEST) $(WORKERS) --timeout 3600 tests/faults

# Not in Python's UTF-8 mode, which a machine without a locale turns on: forgotten encodings would go unnoticed.
mutants: $(READY) ## Change durability and loading in two thousand small ways, and count which changes the tests notice; ten minutes.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group mutation
	rm -rf mutants
	PYTHONUTF8=0 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(OFFLINE) $(BIN)/mutmut run
	$(BIN)/python results/mutants.py

test-fast: $(READY) ## Run the unit tests that train nothing and start no process: a minute, for the inner loop.
	$(PYTEST) $(WORKERS) -m "not long and not slow and not gpu" tests/unit

test-slow: $(READY) ## Run the tests that take minutes.
	$(PYTEST) --timeout 3600 -m "slow and not gpu"

test-cpus: $(READY) ## Run the tests as other kinds of CPU would compute, within an hour; the counts go into results/cpus.jsonl.
	$(OFFLINE) TOKENIZERS_PARALLELISM=false $(BIN)/python results/cpus.py

test-run: $(READY) ## Install what only runs exported models into a fresh virtual environment, and run one there.
	$(PYTEST) -m slow tests/unit/test_light.py

test-wheel: $(READY) ## Build the wheel, check it, and install each extra alone into a fresh virtual environment (needs the package index).
	$(PYTEST) --timeout 3600 -m slow tests/unit/test_wheel.py

test-offline: $(READY) ## Run the tests of `make test` where there is no network at all (needs Linux and `unshare`).
	unshare --map-root-user --net $(MAKE) test

test-oldest: $(READY) ## Run the tests with the oldest versions that pyproject.toml allows, but torch's, within an hour (needs the package index).
	$(OFFLINE) TOKENIZERS_PARALLELISM=false $(BIN)/python results/oldest.py $(TESTS)

test-transformers-4: $(READY) ## Read every kind of model folder with the last transformers 4, installed beside (needs the package index).
	test -x $(BESIDE)/bin/python || $(BIN)/python -m venv $(BESIDE)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$($(BESIDE)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth"
	$(BESIDE)/bin/python -m pip install --quiet --disable-pip-version-check 'transformers>=4.57.6,<5'
	TRANSFORMERS_4="$(CURDIR)/$(BESIDE)/bin/python" $(PYTEST) tests/versions

test-gpu: $(READY) ## Run the tests that need a CUDA device.
	$(PYTEST) -m gpu -W default # what drivers and CUDA libraries warn of is theirs

check: $(READY) docs ## Check format, lint, types, the direction of imports, and that the site builds.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY) ## Build the documentation as a site into site/; a page or an anchor that is missing is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(READY) ## Format the code and mend what the linter can mend.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove .venv and the caches; runs/ stays.
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache mutants site
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

folder:
	$(if $(shell test -d "$(DATA)" && echo yes),@:,$(error make $@: expected DATA=FOLDER with wikitext2/, glue/, imdb/ and squad/, found "$(DATA)"; name a folder that exists))

$(READY): pyproject.toml constraints.txt
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "installing into .venv with $$("$$python" --version) (a few minutes, once)"; \
			"$$python" -m venv .venv && \
			$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1' && \
			$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[offline,onnx,elmo,serve,sweep]' --group dev && \
			touch $@; exit $$?; \
		fi; \
	done; \
	echo "make: expected Python >= 3.11 with venv, found none on the PATH; install it (Debian, Ubuntu: apt install python3-venv) or give PYTHON=/path/to/python" >&2; exit 2
