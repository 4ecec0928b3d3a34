# Each target installs what it needs. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export HFDLC_STATE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/hfdlc
VENV := .venv
HFDLC := $(VENV)/bin/hfdlc
READY := $(VENV)/ready
DEMO := huggingface-pytorch-training:2.13.0*cpu-py311*

.PHONY: help setup build build-all test test-all lint demo serve clean bench-cli bench-matrix bench-publish bench-build bench-serving bench-generation bench-encoder-decoder bench-embeddings bench-training bench-commits test-differential test-engines test-releases test-clients verify-releases ci-list ci-layers ci-cell ci-publish

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name what; do printf '  make %-21s %s\n' "$$name" "$$what"; done

setup: $(READY)  ## create the virtual environment

$(READY): pyproject.toml setup.sh
	@./setup.sh $(VENV)
	@touch $@

build: $(READY)  ## build and check the default cell, and print its facts
	@$(HFDLC) build --check

build-all: $(READY)  ## build and check every cell
	@$(HFDLC) build --check '*'

test: $(READY)  ## run lint, and the tests of the builder and the toolkit
	@$(MAKE) --no-print-directory lint
	@$(VENV)/bin/pytest

test-all: test  ## the same, then test-differential and verify-releases
	@$(MAKE) --no-print-directory test-differential
	@$(MAKE) --no-print-directory verify-releases

verify-releases: $(READY)  ## build, check and use CPU cells and TensorFlow 2.4.1, on substitute bases where needed
	@$(VENV)/bin/pytest -m releases
	@$(VENV)/bin/python tools/verify_releases.py --device cpu
	@$(VENV)/bin/python tools/verify_releases.py '*:2.4.1-*-gpu-*'

test-engines: $(READY)  ## build, check, publish and clean a cell on Docker 26 and 28.5, local and remote
	@$(VENV)/bin/pytest -m engines tests/engines

test-clients: $(READY)  ## run boto3, huggingface_hub, LangChain, the SageMaker SDK and Java against the server
	@cd toolkit && ../$(VENV)/bin/pytest clients

test-releases: $(READY)  ## run the toolkit's tests on releases of transformers: all, or RELEASES="4.46.1 5.0.0"
	@$(VENV)/bin/python tools/test_releases.py $(RELEASES)

test-differential: $(READY)  ## compare the toolkit with the pipelines that transformers 5 does not have, on 4.57.6
	@$(VENV)/bin/python toolkit/tests/differential_releases.py

lint: $(READY)  ## check style, types, imports and Dockerfiles
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo --no-cache
	@cd toolkit && ../$(VENV)/bin/ruff check . && ../$(VENV)/bin/ruff format --check . && ../$(VENV)/bin/mypy
	@cd toolkit && PYTHONPATH=src ../$(VENV)/bin/lint-imports --no-logo --no-cache pyproject.toml
	@$(VENV)/bin/vermin --quiet --no-tips --target=3.6- --violations toolkit/src image/finish.py image/train.py examples
	@$(VENV)/bin/hadolint images/*/*/Dockerfile

demo: $(READY)  ## train a model with the training image, serve it with the inference image
	@$(HFDLC) build '$(DEMO)' '$(subst -training,-inference,$(DEMO))'
	@$(HFDLC) train '$(DEMO)' --script examples/train_pytorch.py --data examples/data
	@$(HFDLC) serve '$(DEMO)' model.tar.gz

serve: $(READY)  ## serve a small model with the default image until Ctrl-C
	@$(HFDLC) build
	@$(HFDLC) serve

bench-cli: $(READY)  ## measure the command line
	@$(VENV)/bin/python benchmarks/cli.py

bench-matrix: $(READY)  ## measure a matrix of 400 cells
	@$(VENV)/bin/python benchmarks/matrix.py

bench-build: $(READY)  ## measure building and pushing, compared with a Dockerfile of one stage with pip and gzip
	@$(VENV)/bin/python benchmarks/build/build.py

bench-serving: $(READY)  ## measure serving, compared with other servers and bare passes: all, or ROWS="latency start"
	@$(VENV)/bin/python benchmarks/serving/serving.py $(ROWS)

bench-generation: $(READY)  ## measure text generation, compared with transformers serve and generate
	@$(VENV)/bin/python benchmarks/generation/generation.py

bench-encoder-decoder: $(READY)  ## measure text generation by T5 and BART, compared with generate
	@$(VENV)/bin/python benchmarks/generation/encoder_decoder.py

bench-embeddings: $(READY)  ## measure embeddings, compared with infinity-emb, bare passes and SentenceTransformer.encode
	@code=0; for name in embeddings many_models; do \
		$(VENV)/bin/python benchmarks/embeddings/$$name.py || code=1; done; exit $$code

bench-training: $(READY)  ## measure training jobs, compared with the same work started by hand
	@$(VENV)/bin/python benchmarks/training.py

bench-commits: $(READY)  ## compare serving with the commit BASE: make bench-commits BASE=v1.0
	@$(VENV)/bin/python benchmarks/serving/compare_commits.py $(BASE)

bench-publish: $(READY)  ## measure publishing to registries on 127.0.0.1
	@$(VENV)/bin/python benchmarks/publish/publish.py

# The jobs of CI. Images are built for the first region of REGIONS. Unset variables of a CI service are empty.
override REGIONS := $(or $(strip $(REGIONS)),us-east-1)
WHERE = $(addprefix --region ,$(REGIONS)) $(addprefix --registry ,$(REGISTRY))

ci-list: $(READY)
	@$(HFDLC) ci --list

ci-layers: $(READY)
	@$(HFDLC) build "$(CELL)"

ci-cell: $(READY)
	@$(HFDLC) publish "$(CELL)" --build --region $(firstword $(REGIONS)) $(addprefix --registry ,$(filter $(firstword $(REGIONS))=%,$(REGISTRY)))

ci-publish: $(READY)
	@$(HFDLC) publish $(CELLS) --from $(firstword $(REGIONS)) $(WHERE)

clean:  ## remove the virtual environment and caches of tools
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
