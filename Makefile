# What there is to do here; `make help` lists it. Each target gets the tools that it needs through scripts/ensure.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
# Arguments for `make serve` and `make demo`, for example: make serve ARGS="--config fencegate.toml"
ARGS ?=
# How often `make soak` kills the gate.
KILLS ?= 500
# For how many seconds it attacks the promise to HTTP services.
PROOF_SECONDS ?= 600
# For how many seconds everything fails around a mixed load.
SOAK_SECONDS ?= 1800
# How many disks it makes as a loss of power may leave them.
IMAGES ?= 3000
# How many random requests `make sanitize` sends.
SQL ?= 20000
# For how many seconds `make fuzz` runs each target, and `make soak`.
FUZZ_SECONDS ?= 60
SOAK_FUZZ_SECONDS ?= 900
# Which targets, where not all: make fuzz FUZZ="sql paths"
FUZZ ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: serve
serve: ## build the gate and run it; ARGS="..." goes to `fencegate serve`
	@scripts/ensure rust cc protoc
	$(CARGO) build --release --locked
	target/release/fencegate serve $(ARGS)

.PHONY: demo
demo: ## show what fencing is for: real processes, really frozen; ARGS="billing --report demo.html"
	@scripts/ensure rust cc protoc
	$(CARGO) build --release --locked
	target/release/fencegate demo $(ARGS)

.PHONY: build
build: ## build target/release/fencegate
	@scripts/ensure rust cc protoc
	$(CARGO) build --release --locked

# `nohup` and a script's background leave signals ignored, for whatever is started from there: tests send them. And they mostly wait, for
# processes and leases: four at once, also where there are fewer processors.
.PHONY: test
test: ## everything: format, lints, tests, docs, drivers
	@scripts/ensure rust cc protoc node python chromium nginx etcd iptables iproute2 systemd
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	@$(MAKE) test-features
	env --default-signal=HUP,INT,QUIT RUST_TEST_THREADS=$$(($$(nproc) > 4 ? $$(nproc) : 4)) $(CARGO) test --locked
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked
	@$(MAKE) deny lint-deploy
	@$(MAKE) test-drivers

# What a program that only leads and writes must not have to build.
CLIENT_WITHOUT := rusqlite libsqlite3-sys clap anyhow toml metrics memmap2 refinery tokio-rustls tracing-subscriber

.PHONY: test-features
test-features: ## each part builds by itself, and the client without what only the gate needs
	$(CARGO) clippy --lib --no-default-features --features client --locked -- -D warnings
	$(CARGO) check --lib --no-default-features --features client,etcd --locked
	$(CARGO) check --lib --no-default-features --features client,tls --locked
	$(CARGO) check --lib --no-default-features --features server --locked
	@tree=$$($(CARGO) tree --locked --edges normal --prefix none --no-default-features --features client | cut -d ' ' -f 1); \
	for crate in $(CLIENT_WITHOUT); do \
		if grep -qx "$$crate" <<<"$$tree"; then echo "the feature client pulls in $$crate" >&2; exit 1; fi; \
	done

.PHONY: test-drivers
test-drivers: ## drive the gate with real libSQL drivers (Node, Python, Rust), its console with a real browser; third-party judges
	@scripts/ensure rust cc protoc node python chromium nginx etcd
	tests/drivers/run

.PHONY: judges
judges: ## all third-party judges; those in no registry where they are: H2SPEC=program SUITE=checkout (docs/judges.md)
	@scripts/ensure rust cc protoc node python nginx
	tests/drivers/run judges more

.PHONY: soak
soak: ## the long proofs: KILLS (500) kills of the gate, PROOF_SECONDS (600) of an HTTP service, SOAK_SECONDS (1800) of everything failing, IMAGES (3000) of disks, every call of a start failing, the large models
	@scripts/ensure rust cc protoc etcd
	FENCEGATE_MODEL=large $(CARGO) test --release --locked --lib fence::drain -- --nocapture --test-threads 1
	FENCEGATE_SOAK_KILLS=$(KILLS) $(CARGO) test --release --locked --test it kill -- --nocapture
	FENCEGATE_PROOF_SECONDS=$(PROOF_SECONDS) $(CARGO) test --release --locked --test it proof -- --nocapture
	FENCEGATE_SOAK_SECONDS=$(SOAK_SECONDS) $(CARGO) test --release --locked --test it soak -- --nocapture --test-threads 1
	FENCEGATE_POWER_IMAGES=$(IMAGES) $(CARGO) test --release --locked --test it -- disk::power a_release_build --nocapture
	FENCEGATE_FAIL_ALL=1 $(CARGO) test --locked --test it -- disk::errors --nocapture
	@$(MAKE) fuzz FUZZ_SECONDS=$(SOAK_FUZZ_SECONDS)

# `make test` tries the same properties for a short while, with no tool but cargo.
.PHONY: fuzz
fuzz: ## fuzz what comes from outside with libFuzzer, FUZZ_SECONDS (60) a target; FUZZ="sql paths" only these
	@scripts/ensure rust cc cxx cargo-fuzz
	scripts/fuzz run $(FUZZ_SECONDS) $(FUZZ)

# The sanitizer comes with stable Rust; only its flag counts as unstable. SQLite is compiled with it, too. Naming the target keeps the
# flags away from build scripts.
.PHONY: sanitize
sanitize: ## random SQL (SQL=20000 requests) with Rust and SQLite under the address sanitizer
	@scripts/ensure rust cc
	target=$$(rustc -vV | sed -n 's/^host: //p') && flags="-fsanitize=address -fno-omit-frame-pointer -g" && \
	export CFLAGS_$${target//-/_}="$$flags" RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0 && \
	FENCEGATE_RANDOM_SQL=$(SQL) $(CARGO) test --locked --target "$$target" --target-dir target/sanitize --test it -- \
		sandbox sharing hrana interactive table_fences garbage fences

.PHONY: bench
bench: ## micro-benchmarks (criterion): what every request passes, batch commits, fences, a start with many of them
	@scripts/ensure rust cc protoc
	$(CARGO) bench --locked --bench core --bench fences

.PHONY: bench-writes
bench-writes: ## durable writes against a plain loop, Redis, PostgreSQL and etcd in one run; ARGS="--clients 256" …
	@scripts/ensure rust cc protoc redis postgres etcd
	$(CARGO) bench --locked --bench writes -- $(ARGS)

.PHONY: bench-proxy
bench-proxy: ## CPU time and latency of a proxied, fenced write, and of a refusal, against others in one run; ARGS="--body 1024" …
	@scripts/ensure rust cc protoc nginx haproxy
	PATH=$$PATH:/usr/sbin $(CARGO) bench --locked --bench proxy -- $(ARGS)

.PHONY: bench-flood
bench-flood: ## how much a flood of stale writes slows the leader's own, with and without; ARGS="--rounds 9 --flood 256" …
	@scripts/ensure rust cc protoc
	$(CARGO) bench --locked --bench flood -- $(ARGS)

.PHONY: instructions
instructions: ## count instructions (whole writes, hot paths), compare with benches/instructions.toml; ARGS=--save: a new baseline
	@scripts/ensure rust cc protoc nginx python valgrind
	programs=$$(CARGO="$(CARGO)" scripts/bench-programs instructions) && \
	PATH=$$PATH:/usr/sbin scripts/instructions check "$$(sed -n 2p <<<"$$programs")" "$$(sed -n 1p <<<"$$programs")" $(ARGS)

.PHONY: bench-peers
bench-peers: ## every target in one run of ten minutes, beside nginx, HAProxy, Redis, PostgreSQL, etcd; writes the table of docs/peers.md
	@scripts/ensure rust cc protoc python
	@scripts/ensure nginx haproxy redis postgres etcd || true
	CARGO="$(CARGO)" scripts/peers $(ARGS)

.PHONY: bench-scale
bench-scale: ## what a write costs as fences, connections, batches, databases grow; writes docs/scale.md; ARGS="--only fences"
	@scripts/ensure rust cc protoc
	$(CARGO) bench --locked --bench scale -- $(ARGS)

.PHONY: bench-failover
bench-failover: ## how long nobody leads over etcd: crashes and hand-overs of `fencegate lead`, beside etcdctl; ARGS="--trials 18"
	@scripts/ensure rust cc protoc etcd
	$(CARGO) bench --locked --bench failover -- $(ARGS)

.PHONY: deps
deps: ## install the tools that the other targets need and fetch the crates
	@scripts/ensure rust cc protoc node python chromium nginx etcd iptables iproute2 systemd deny hadolint
	$(CARGO) fetch --locked

# Where scripts/ensure puts tools that the system hasn't got.
TOOLS := PATH="$$PATH:$(CURDIR)/target/tools/bin"
# A copy of RustSec's advisories (a clone of its repository), where they can't be fetched; without it `make audit` fetches them.
ADVISORY_DB ?=

.PHONY: deny
deny: ## check the crates' licences, bans and sources against deny.toml
	@scripts/ensure rust deny
	$(TOOLS) cargo-deny --locked check --hide-inclusion-graph licenses bans sources

.PHONY: audit
audit: ## look for known vulnerabilities in the crates; ADVISORY_DB=FOLDER: in this copy of the advisories
	@scripts/ensure rust audit
	$(TOOLS) cargo-audit audit --deny warnings $(if $(ADVISORY_DB),--no-fetch --stale --db $(ADVISORY_DB))

.PHONY: sbom
sbom: ## list every crate of the program in target/sbom/fencegate.cdx.json (CycloneDX)
	@scripts/ensure rust protoc cyclonedx
	mkdir -p target/sbom
	$(TOOLS) cargo-cyclonedx cyclonedx --quiet --format json --spec-version 1.5 --describe binaries
	mv fencegate_bin.cdx.json target/sbom/fencegate.cdx.json

.PHONY: lint-deploy
lint-deploy: ## look at the Dockerfile with hadolint
	@scripts/ensure hadolint
	$(TOOLS) hadolint deploy/Dockerfile

.PHONY: fmt
fmt: ## format the code
	@scripts/ensure rust
	$(CARGO) fmt

.PHONY: clean
clean: ## remove what was built
	$(CARGO) clean
