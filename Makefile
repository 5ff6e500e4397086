# make demo    runs a mesh on this machine and shows what it does
# make test    builds and runs every test
# make help    lists the rest

SHELL := /bin/bash
export PATH := $(PATH):/usr/sbin:/sbin
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)

.PHONY: help demo demo-down drill test test-jaeger test-cluster test-spire test-images conformance test-all images jaeger spire bench bench-scale bench-profile bench-instructions pgo lint fmt deny fuzz packages build release clean

help:  ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo:  ## Runs a mesh of six pods on this machine and shows what it does; KEEP=1 leaves it up
	@./examples/shop/demo.sh

demo-down:  ## Takes down what `make demo KEEP=1` left up
	@./examples/shop/demo.sh --down

drill:  ## Replaces every certificate of a mesh under load, up to the root; nothing may fail (SECS=60, SWAPS=1000)
	@./examples/shop/drill.sh

packages:  ## Installs the Debian packages that the tests use
	@./tests/packages.sh

build:  ## Builds every binary, as the tests use them
	$(CARGO) build --locked --workspace --bins

release:  ## Builds remora-proxy, remora-init and remora-certs as they are measured, by the profile of their load; target/release
	@./bench/release.sh

test: packages build  ## Builds and runs every test (root: they make network namespaces)
	REMORA_BIN_DIR=$(TARGET)/debug $(CARGO) test --locked --workspace

images: packages  ## Builds the container images (init, proxy, control) into target/images, without an engine
	@./images/build.sh

test-images: images  ## What is said of the images is true of them (root)
	@./images/test.sh

jaeger:  ## Builds the real Jaeger with its UI, once (about 6 minutes; needs Go)
	@./tests/jaeger/build.sh

test-jaeger:  ## Fetches one joined trace back from a real Jaeger (needs Go)
	@./tests/jaeger/test.sh

test-cluster: build  ## Real pods on a real Kubernetes, built once (about 13 minutes; root; needs Go)
	@REMORA_BIN_DIR=$(TARGET)/debug ./tests/cluster/test.sh

spire:  ## Builds the real SPIRE, once (about 15 minutes of processor time; needs Go)
	@./tests/spire/build.sh

conformance: packages build  ## Others' conformance suites through one sidecar and two; writes docs/conformance.md (root; Go, Node, Maven)
	@REMORA_BIN_DIR=$(TARGET)/debug WRITE=1 ./tests/conformance/run.sh

test-spire: build  ## Identities from a real SPIRE, changed under load (root; needs Go)
	@REMORA_BIN_DIR=$(TARGET)/debug ./tests/spire/test.sh

test-all: export REMORA_BULK_MIB = 1024
test-all: export REMORA_HALF_CLOSED = 300
test-all: lint test test-images test-jaeger test-cluster test-spire conformance  ## Everything

bench:  ## Measures Remora beside Envoy, HAProxy and a bare relay in one run (SECS=6 ROUNDS=3 ONLY=h1-mtls,...); bench/RESULTS.md
	@./bench/run.sh

bench-scale:  ## Measures Remora as connections, endpoints, outbound entries and workers grow; bench/scale.json
	@./bench/scale.sh

bench-profile:  ## Draws a flame graph of each scenario (SECS=4 ONLY=h1-mtls,...); target/profile
	@./bench/profile.sh

bench-instructions:  ## Counts instructions per request (valgrind) and compares them with the kept ones; RECORD=1 keeps them
	@./bench/instructions.sh

pgo:  ## Counts anew what runs under load, for the profile that releases and images are built by (root; a release build); bench/profiles
	@./bench/pgo.sh

fmt:  ## Formats the code
	$(CARGO) fmt --all

lint: deny  ## Formatting, clippy with warnings denied, dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

deny:  ## Licences, bans and sources of dependencies
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check bans licenses sources

fuzz:  ## A minute of fuzzing for each target (cargo-fuzz)
	@CARGO=$(CARGO) ./fuzz/run.sh $${SECONDS_EACH:-60}

clean:  ## Removes what was built
	$(CARGO) clean
