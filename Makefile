# fencegate: `make serve` runs it, `make test` tests it, `make help` lists the rest.

SHELL := /bin/bash
ARGS ?=
CARGO ?= cargo
# A fresh rustup or cargo installation is found without a new login.
export PATH := $(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := help
.PHONY: help serve build test check test-rust test-drivers doc soak bench fmt deps man clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

serve: ## build and run the gate (ARGS="--sqlite app.db --fence app")
	@scripts/ensure cc rust
	$(CARGO) build --release --locked
	target/release/fencegate serve $(ARGS)

build: ## build the release binary: target/release/fencegate
	@scripts/ensure cc rust
	$(CARGO) build --release --locked

test: check test-rust doc test-drivers ## everything: format, lints, tests, docs, drivers

check: ## format and lints
	@scripts/ensure cc rust
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

test-rust: ## the tests of the crate
	@scripts/ensure cc rust
	$(CARGO) test --locked

test-drivers: ## real libSQL drivers (Node, Python, Rust) through the gate
	@scripts/ensure cc rust node python
	tests/drivers/run

doc: ## the API documentation, without warnings
	@scripts/ensure cc rust
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked

soak: ## the slow tests: 1,000 kills (about 4 minutes)
	@scripts/ensure cc rust
	FENCEGATE_SOAK_KILLS=1000 $(CARGO) test --release --locked --test it kill -- --nocapture

bench: ## benchmarks: the core, and durable writes against a plain loop
	@scripts/ensure cc rust
	$(CARGO) bench --locked

fmt: ## format the code
	$(CARGO) fmt

deps: ## install what the other targets need
	@scripts/ensure cc rust node python

man: build ## write the manual pages to target/man
	target/release/fencegate man --dir target/man

clean: ## remove what was built
	$(CARGO) clean
