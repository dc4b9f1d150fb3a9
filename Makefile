# The commands a newcomer needs. `make` alone lists them; docs/ has the rest.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help build up docker docker-test test test-full bench fuzz clean program filters filters-panic envoy fmt clippy unit e2e fuzz-smoke

# `make up UP_ARGS='--config my.yaml'`
UP_ARGS ?=
# Arguments for each `cargo test`; `make test-full` adds the ignored tests.
TEST_ARGS ?=
# The time for which `make fuzz` and `make test-full` run each fuzz target.
FUZZ_SECONDS ?= 60
# CI builds the committed Cargo.lock, or the build fails.
LOCKED := $(if $(filter true,$(CI)),--locked)

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
	@tests/summary.sh $(MAKE) --no-print-directory --keep-going fmt clippy unit fuzz-smoke e2e

test-full: ## The same, and the long tests
	@SALLYPORT_ALL_CLIENTS=1 OPENSSL_GIT=$$(tests/support/openssl-git.sh || true) tests/summary.sh $(MAKE) --no-print-directory --keep-going fmt clippy unit fuzz e2e docker-test TEST_ARGS='-- --include-ignored'

bench: build envoy ## The benchmark table, also as target/bench/results.json
	@envoy=$$(envoy/install.sh); ENVOY_BIN=$$envoy tests/bench/run.sh

fuzz: ## Each fuzz target for FUZZ_SECONDS=60; findings are kept in target/fuzz
	@tests/fuzz/run.sh $(FUZZ_SECONDS)

clean: ## Remove built and downloaded files
	cargo clean

program:
	cargo build --release $(LOCKED) -p control-plane

filters:
	@filters/build.sh

# The same filters with a panic, for the tests of a crash.
filters-panic:
	@FILTER_FEATURES=test-panic FILTERS_OUT=target/filters-panic filters/build.sh

envoy:
	@envoy/install.sh >/dev/null

fmt:
	cargo fmt --all --check
	cargo fmt --manifest-path tests/fuzz/Cargo.toml --check

clippy:
	cargo clippy $(LOCKED) --workspace --all-targets -- -D warnings

unit:
	cargo test $(LOCKED) --workspace --exclude e2e --no-fail-fast $(TEST_ARGS)

# Two seconds per target find few new inputs: they run the seeds and find targets that no longer build.
fuzz-smoke:
	@tests/fuzz/run.sh 2

e2e: build filters-panic envoy
	@envoy=$$(envoy/install.sh); ENVOY_BIN=$$envoy tests/run-e2e.sh $(TEST_ARGS)
