# phi-vision: `make serve` and `make test` set up all they need. `make help` lists the rest.

PYTHON ?= python3
VENV   ?= .venv
BENCH  ?= .bench-venv
PEERS  ?= .peers-venv
IMAGE  ?= phi-vision
ARGS   ?=
DATA   ?=
WORKERS ?= 2

# cuda where an NVIDIA driver answers, else cpu; override with ACCEL=cuda|cpu
ACCEL  ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)

UV_VERSION := 0.13.9
BIN        := $(VENV)/bin
STAMP      := $(VENV)/.ready-$(ACCEL)

# uv does not read pip's configuration: hand on where pip looks for wheels and which index it asks. Not for CUDA
# where a CPU wheel of torch is at hand: the suffix of its version would make it count as the newer one.
PIP_GET     = $(shell $(PYTHON) -m pip config get $(1) 2>/dev/null)
FIND_LINKS := $(call PIP_GET,global.find-links)
HAVE_TORCH := $(wildcard $(addsuffix /torch-*+cpu*.whl,$(FIND_LINKS)))
WHEELS     := $(if $(and $(HAVE_TORCH),$(filter cuda,$(ACCEL))),,$(FIND_LINKS))
INDEX      := $(call PIP_GET,global.index-url)
UV_SETTINGS := $(if $(WHEELS),UV_FIND_LINKS="$(WHEELS)") $(if $(INDEX),UV_DEFAULT_INDEX="$(INDEX)")
UV         := $(UV_SETTINGS) $(BIN)/uv

# The CPU build of torch: from a wheel at hand if there is one, else from the index that uv knows. The index's
# usual torch is CUDA's.
cpu_OPTIONS   := --overrides server/constraints/cpu-overrides.txt $(if $(HAVE_TORCH),,--torch-backend=cpu)

.DEFAULT_GOAL := help
.PHONY: help install serve replicas test test-fast test-all lint type bench bench-venv train-demo card-demo eval eval-demo fuzz soak batch-soak check-cuda gpu-report gpu-pack docs record lock image check-image serve-image clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Before the download: a driver that is too old for the CUDA that torch brings.
CHECK_DRIVER = PYTHONPATH=server $(PYTHON) -c \
	"import sys; from phi_vision.planning.hardware import driver_fault; sys.exit(driver_fault())"

# Compiled now, because the server imports vLLM in three processes on each start.
$(STAMP): pyproject.toml server/constraints/$(ACCEL).txt server/constraints/cpu-overrides.txt
	@$(if $(filter cuda,$(ACCEL)),$(CHECK_DRIVER))
	@echo "Setting up $(VENV) for $(ACCEL) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) pip install --python $(BIN)/python --constraints server/constraints/$(ACCEL).txt \
		$($(ACCEL)_OPTIONS) --compile-bytecode --editable '.[$(ACCEL),dev]'
	@rm -f $(VENV)/.ready-* && touch $@

install: $(STAMP)  ## set up the virtual environment (ACCEL=cuda|cpu)

serve: $(STAMP)  ## serve the model; flags go in ARGS="--port 8123 ..."
	@exec $(BIN)/phi-vision serve $(ARGS)

N ?= 2

replicas: $(STAMP)  ## N=2 servers on this machine behind HAProxy, a GPU or a part of the CPU each
	@exec $(BIN)/phi-vision replicas --replicas $(N) $(ARGS)

# Two at a time: while one test waits for an engine that starts or answers, another runs. Each may hold an engine.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

test: $(STAMP)  ## lint, types and the tests, the real engine included
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint type
	$(PYTEST) -m "not full" $(ARGS)

test-fast: $(STAMP)  ## only the tests that start no engine
	$(PYTEST) -m "not engine and not full" $(ARGS)

test-all: $(STAMP)  ## `make test`, and load generation, a small training and more fuzzing, with coverage: what CI runs
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint type
	FUZZ_FACTOR=5 $(PYTEST) --cov --cov-report=term $(ARGS)

# What the documentation is generated with: `make docs` writes, `make lint` checks.
DOCUMENTATION = PYTHONPATH=server:. $(BIN)/python -m documentation

lint: $(STAMP)  ## ruff, the imports between packages, hadolint, and whether `make docs` would change anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/hadolint Dockerfile
	$(DOCUMENTATION) --check

docs: $(STAMP)  ## write the generated parts of the documentation
	$(DOCUMENTATION)

record: $(STAMP)  ## record what the README's pictures show: a session, and the web page, with the demo model
	$(DOCUMENTATION).session
	$(DOCUMENTATION).page
	$(DOCUMENTATION)

type: $(STAMP)  ## mypy --strict
	$(BIN)/mypy --num-workers 2

$(BENCH)/.ready: benchmarks/requirements-aiperf.txt
	@echo "Setting up $(BENCH) for the load generator ..."
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV_SETTINGS) $(BENCH)/bin/uv pip install --quiet --python $(BENCH)/bin/python --requirement $<
	@touch $@

bench-venv: $(BENCH)/.ready

$(PEERS)/.ready: benchmarks/requirements-mistralrs.txt
	@echo "Setting up $(PEERS) for mistral.rs ..."
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# mistral.rs is fetched for those who ask for it.
bench: $(STAMP) $(BENCH)/.ready $(if $(findstring mistralrs,$(ARGS)),$(PEERS)/.ready)  ## measure, ARGS="--quick"; see benchmarks/README.md
	@PYTHONPATH=server $(BENCH)/bin/python -m benchmarks.harness.run --python $(BIN)/python $(ARGS)

fuzz: $(STAMP)  ## the fuzz tests with thirty times the inputs of `make test`
	FUZZ_FACTOR=30 FUZZ_RANDOM=1 $(BIN)/python -m pytest tests/engine/test_request_limits.py tests/unit/test_pictures_hostile.py --timeout 3600 $(ARGS)

train-demo: $(STAMP)  ## train the demo model from nothing into RUN; an hour or two on a CPU
	PYTHONPATH=server $(BIN)/python -m demo_training.train --out $(or $(RUN),demo_run) $(ARGS)

card-demo: $(BENCH)/.ready  ## draw the curves of the demo's training log into its model card
	PYTHONPATH=server $(BENCH)/bin/python -m demo_training.card benchmarks/results/demo_training.jsonl server/phi_vision/demo

eval: $(STAMP)  ## what a server's answers to the data set DATA are worth, ARGS="--base-url URL"
	@PYTHONPATH=server $(BIN)/python -m benchmarks.evaluation $(DATA) $(ARGS)

eval-demo: $(STAMP)  ## the same of the demo, on pictures that it was not trained on
	@PYTHONPATH=server $(BIN)/python -m demo_training.exam evaluations/demo/exam
	@PYTHONPATH=server $(BIN)/python -m benchmarks.evaluation evaluations/demo/exam \
		--out evaluations/demo/run $(if $(ARGS),$(ARGS),-- --model demo)

soak: $(STAMP)  ## minutes of good, bad and abandoned requests at twice the capacity
	$(BIN)/python -m benchmarks.studies.soak $(ARGS)

batch-soak: $(STAMP)  ## `phi-vision batch` with client and server killed in mid-run, and its memory over 100,000 items
	$(BIN)/python -m benchmarks.studies.batch_soak $(ARGS)

CHECK_CUDA := .cuda-venv

check-cuda:  ## whether vLLM's CUDA build takes what `serve` starts on common GPUs; needs none, but 10 GB of disk
	@$(MAKE) --no-print-directory install ACCEL=cuda VENV=$(CHECK_CUDA)
	@$(CHECK_CUDA)/bin/python -m benchmarks.check_cuda $(ARGS)

gpu-report: $(STAMP)  ## check and measure the model on this machine's GPU, an hour at most
	@$(BIN)/python -m benchmarks.gpu_report $(ARGS)

gpu-pack: $(STAMP)  ## what `gpu-report` needs on a GPU machine without a network, in pieces to copy there
	@$(UV_SETTINGS) $(BIN)/python -m benchmarks.gpu_report.packing $(ARGS)

# $(1): cpu or cuda. torch stays without a build suffix: which build it is depends on where it is fetched.
define LOCK
echo "# Every package of the $(1) environment, resolved for Python 3.11 and later: made by \`make lock\`." \
	> server/constraints/$(1).txt
$(if $(filter cpu,$(1)),$(UV),$(BIN)/uv) pip compile pyproject.toml --universal --python-version 3.11 --upgrade \
	--extra $(1) --extra dev --no-header --no-annotate \
	$(if $(filter cpu,$(1)),--overrides server/constraints/cpu-overrides.txt) \
	| sed -E $(if $(filter cpu,$(1)),'/^torch(vision|audio|codec)==/d; s/^torch==2.13.0.*/torch==2.13.0/' ,'') \
	| uniq >> server/constraints/$(1).txt
endef

lock: $(STAMP)  ## resolve both constraints files anew
	@$(call LOCK,cpu)
	@$(call LOCK,cuda)

image:  ## build the CUDA container image
	docker build --tag $(IMAGE) .

check-image:  ## build the image on a Debian in the place of vLLM's image, and look at it; as root, with buildah and debootstrap
	@server/deploy/check_image.sh

serve-image:  ## serve from the container image, on all GPUs; weights and compiled kernels stay in a volume
	docker run --rm --gpus all --ipc host --publish 8000:8000 \
		--volume phi-vision-cache:/home/phi/.cache $(IMAGE) $(ARGS)

clean:  ## remove the virtual environments and all caches of tools
	rm -rf $(VENV) $(BENCH) $(PEERS) $(CHECK_CUDA) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage*
	find . -name __pycache__ -prune -exec rm -rf {} +
