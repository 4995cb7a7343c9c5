# Two commands do it all: `make demo` and `make test`. Needs Python 3.11, make, a C compiler and git.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := examples/three-voices.flac
PROTOS := $(wildcard proto/narrative/v1/*.proto)

.DEFAULT_GOAL := help
.PHONY: help demo up down test test-unit test-integration test-e2e test-vllm test-pyannote test-s3 test-images test-slow test-triton load quality format proto models lock clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

demo: $(VENV)/.embedded ## Set up, start the ensemble, turn a sample recording into a story, say where it is
	$(BIN)/narrate story $(DEMO) --up --output stories/demo

up: $(VENV)/.embedded ## Start the ensemble on this machine (Ctrl-C stops it)
	$(BIN)/narrate up

down: ## Stop the ensemble
	$(BIN)/narrate down

models: $(VENV)/.embedded ## Fetch and verify the weights of the embedded profile
	$(BIN)/narrate models pull

test: $(VENV)/.dev $(BIN)/kubectl $(VENV)/triton ## Run the unit, integration and end-to-end tests
	$(BIN)/pytest -m "not vllm and not pyannote and not images and not s3 and not slow and not triton"

test-unit: $(VENV)/.dev $(BIN)/kubectl ## Run the unit tests (no sockets, no weights)
	$(BIN)/pytest tests/unit

test-integration: $(VENV)/.dev $(VENV)/triton ## Run the integration tests (real servers, real small weights)
	$(BIN)/pytest tests/integration -m "not vllm and not pyannote and not images and not s3 and not slow and not triton"

test-e2e: $(VENV)/.dev ## Run the end-to-end tests (the whole ensemble on real audio)
	$(BIN)/pytest tests/e2e -m "not slow"

test-vllm: $(VENV)/.dev ## Prove the prompt service against real vLLM on the CPU (own environment, 3 GB)
	tests/integration/prompt_vllm/run.sh

test-pyannote: $(VENV)/.dev ## Prove the pyannote diarizer on real weights (own environment)
	tests/integration/asr_pyannote/run.sh

test-s3: $(VENV)/.dev ## Prove the gateway on S3's protocol (own environment)
	tests/integration/objects_s3/run.sh

test-images: $(VENV)/.dev ## Install and start every container image's process the way its Dockerfile does (minutes, 5 GB)
	$(BIN)/pytest tests/images -s

test-triton: $(VENV)/.dev $(VENV)/triton ## Prove the Triton engines of asr, translation and diffusion, and their turns, against a real server (minutes on two cores)
	$(BIN)/pytest tests/integration/triton

test-slow: $(VENV)/.dev ## Run what takes minutes: a denoiser compiled for real, one training by two processes, a stopped grid, all recipes and a story on the command line
	$(BIN)/pytest tests -m slow

load: $(VENV)/.dev ## Load the ensemble and report (options: make load LOAD="--ensemble embedded --profile mixed")
	$(BIN)/python -m tests.load $(LOAD)

quality: $(VENV)/.dev ## Check style, types, imports and contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code

format: $(VENV)/.dev ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	cd proto && ../$(BIN)/buf format --write

proto: $(VENV)/.embedded ## Generate the gRPC stubs again
	$(BIN)/pip install --quiet --no-deps --editable .

lock: $(VENV)/.dev ## Write the versions installed now to requirements.lock
	@{ head -n 1 requirements.lock; \
	   $(BIN)/pip freeze --exclude colorized-narrative | grep -vE '^(pip|setuptools|wheel)==' | sed 's/+cpu$$//'; } > $(VENV)/lock
	@mv $(VENV)/lock requirements.lock

clean: ## Remove the environment and generated files (stories and pulled weights stay)
	rm -rf $(VENV) narrative/v1 .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.embedded: pyproject.toml requirements.lock hatch_build.py $(PROTOS) | $(BIN)/python
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[embedded]'
	@touch $@

$(VENV)/.dev: pyproject.toml requirements.lock hatch_build.py $(PROTOS) | $(BIN)/python
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[embedded,trainer,triton,tracing,load,dev]'
	@touch $@ $(VENV)/.embedded

$(BIN)/kubectl: deploy/tools/kubectl.py | $(VENV)/.dev
	$(BIN)/python deploy/tools/kubectl.py $@

$(VENV)/triton: deploy/tools/triton.py | $(VENV)/.dev
	$(BIN)/python deploy/tools/triton.py $@
	@touch $@
