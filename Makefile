# The commands a newcomer needs. `make` alone lists them; docs/ has the rest.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build up docker docker-test test test-full bench fuzz schema clean program filters filters-panic envoy fmt clippy \
	built tests-built unit e2e needs

# `make up UP_ARGS='--config my.yaml'`
UP_ARGS ?=
# Arguments for each `cargo test`; `make test-full` adds the ignored tests.
TEST_ARGS ?=
# The time for which `make fuzz` and `make test-full` run each fuzz target.
FUZZ_SECONDS ?= 60
# CI builds the committed Cargo.lock, or the build fails.
LOCKED := $(if $(filter true,$(CI)),--locked)
# CLIPPY=1 builds the tests with clippy as the compiler of our crates, in the way of `cargo clippy`, but to the end: linted
# code is tested code, and dependencies are built once for both. A warning is an error.
LINTED = $(if $(CLIPPY),RUSTC_WORKSPACE_WRAPPER=$$(rustc --print sysroot)/bin/clippy-driver \
	CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__)
# Everything is built first, two builds at once: each of them ends with a crate that uses one core. Each step is taken
# although an earlier one failed; where the builds failed, the tests are built without clippy.
CHECKS = clippy=1 status=0; \
	$(MAKE) --no-print-directory --keep-going --jobs=2 CLIPPY=1 fmt built tests-built || clippy= status=1; \
	$(MAKE) --no-print-directory CLIPPY=$$clippy unit || status=1; \
	$(MAKE) --no-print-directory CLIPPY=$$clippy e2e || status=1

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: program filters ## target/release/sallyport and target/filters/*.wasm

up: build ## Build all, then run the gateway in the foreground (UP_ARGS=… goes to sallyport up)
	@envoy=$$(envoy/install.sh); ENVOY_BIN=$$envoy exec target/release/sallyport up $(UP_ARGS)

docker: ## Build the control plane's image from source (docker-compose.yml then runs it)
	docker build -f Dockerfile.control -t sallyport-control-plane .

docker-test: build envoy ## Start docker-compose.yml with the built files, and test it from sandboxes
	@envoy=$$(envoy/install.sh); ENVOY_BIN=$$envoy tests/docker/smoke.sh

test: ## Format, lint, unit and end-to-end tests with the release build and real Envoy
	@.ci/needs test
	+@tests/summary.sh bash -c '$(CHECKS); exit $$status'

test-full: ## The same, and the long tests
	@SALLYPORT_ALL_CLIENTS=1 OPENSSL_GIT=$$(tests/support/openssl-git.sh || true) tests/summary.sh bash -c 'export TEST_ARGS="-- --include-ignored"; \
		$(CHECKS); $(MAKE) --no-print-directory --keep-going fuzz docker-test || status=1; exit $$status'

bench: build envoy ## The benchmark table, also as target/bench/results.json
	@envoy=$$(envoy/install.sh); ENVOY_BIN=$$envoy tests/bench/run.sh

fuzz: ## Each fuzz target for FUZZ_SECONDS=60; findings are kept in target/fuzz
	@tests/fuzz/run.sh $(FUZZ_SECONDS)

# Status 1 of the script means that the report has news, status 2 that there is no report. Make itself ends with 2 for both.
schema: ## Compare the tables of GitHub's API with its newest descriptions, from PyPI
	@python3 -B filters/policy/schema/main.py target/schema

clean: ## Remove built and downloaded files
	cargo clean

# The first words of a build name what the machine lacks.
needs:
	@.ci/needs build

program: | needs
	env -u MAKEFLAGS cargo build --release $(LOCKED) -p control-plane

filters: | needs
	@filters/build.sh

# The same filters with a panic, for the tests of a crash. The first build installs what both need.
filters-panic: | filters
	@filters/build.sh panic

envoy:
	@envoy/install.sh >/dev/null

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings

built: build filters-panic envoy

tests-built:
	$(LINTED) env -u MAKEFLAGS cargo test $(LOCKED) --workspace --all-targets --no-run

unit:
	$(LINTED) cargo test $(LOCKED) --workspace --exclude e2e --no-fail-fast $(TEST_ARGS)

e2e: built
	@envoy=$$(envoy/install.sh); $(LINTED) ENVOY_BIN=$$envoy tests/run-e2e.sh $(TEST_ARGS)
