# make run     the demo: installs what is missing, builds, starts a broker if none answers, inspects
# make test    everything that must hold before a change is taken
# make soak    the promises at their full counts: hours
# make test-node  second clients of OPC UA and Sparkplug, and the guide's flow in Node-RED, which run under Node.js
# make test-clients  the model API by OpenAI's client for Node.js and by Dify's own code
# make bench-guests  a line's parts without questions of others to the model, and beside a thousand of them
# make fuzz-api  the API against its own OpenAPI document, with schemathesis in a venv of its own
# make bench-peer  this engine beside llama.cpp on the same files, into tests/bench/FIGURES.md; PEER="2b Q8_0" for others
# make test-files  files of llama.cpp's own converter and quantiser, of every type, beside llama.cpp
# make test-cluster  servers in the place of the model's files, with a real llama-server
# make test-v4l2  the V4L2 test against the kernel's virtual camera, in an emulated machine; as root
# make deb     the Debian package, in target/debian
# make bundle  the package with all that a box without a network needs, as a signed apt repository; as root
# make test-deb  the package on a bare Debian 12 that systemd boots without a network; as root
# make deb-arm64   the package for 64-bit Arm, built across; as root
# make test-deb-arm64  that package on a bare Debian 12 of arm64, whose programs qemu runs; as root
# make test-arm64  the engine's tests as arm64 programs, on three processors that qemu emulates; slow
# Everything is built in the release profile, so that the tree is compiled once for all of these.

SHELL := /bin/sh
CARGO_HOME ?= $(HOME)/.cargo
# Where rustup puts cargo, and where Debian puts mosquitto, which is not on a user's path.
export PATH := $(PATH):$(CARGO_HOME)/bin:/usr/sbin
CARGO := cargo

# The rigs of the promises at their full counts; `SOAK=100 make soak-p1` runs that many. Each prints its figures
# on one line and, at the full count, leaves them in tests/rigs/FIGURES.md.
SOAKS := soak-p1 soak-p2 soak-p3 soak-p4 soak-p5 soak-p6 soak-p7 soak-p8 soak-p10 soak-p11 soak-p13 soak-p14 soak-ledger soak-plc soak-plant soak-rest soak-splits
SOAK ?= full

.PHONY: run test soak $(SOAKS) test-node test-clients bench-guests fuzz-api bench-peer test-files test-cluster build install-deps test-v4l2 deb bundle test-deb deb-arm64 test-deb-arm64 test-arm64

run: build
	.ci/demo

# Without cargo-nextest the same tests run under cargo's own runner.
test: install-deps
	.ci/peers
	$(CARGO) fmt --check
	@if $(CARGO) clippy --version >/dev/null 2>&1; then \
	  set -x; $(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings; \
	else echo "clippy is not installed: its lints are not checked"; fi
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps --document-private-items
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	  set -x; $(CARGO) deny --locked --config .ci/deny.toml check licenses bans sources; \
	else echo "cargo-deny is not installed: licences and duplicates are not checked"; fi
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  set -x; $(CARGO) nextest run --release --locked --workspace; \
	else set -x; $(CARGO) test --release --locked --workspace --lib --bins --tests; fi

soak: $(SOAKS)

$(SOAKS): soak-%: install-deps
	SOAK=$(SOAK) $(CARGO) test --release --locked --test rigs --test faults --test daemon --test cameras -- --nocapture --test-threads=1 $*_

test-node: install-deps
	.ci/peers-node
	$(CARGO) test --release --locked --test opcua --test commands -- --ignored node_

test-clients: install-deps
	.ci/peers-clients
	$(CARGO) test --release --locked --test commands -- --ignored clients_

bench-guests: install-deps
	$(CARGO) test --release --locked --test commands -- --ignored --nocapture bench_guests_

fuzz-api: build
	.ci/schemathesis

bench-peer: build
	.ci/bench-peer $(PEER)

test-files: install-deps
	llama=$$(.ci/peers-llama) && PEERS_LLAMA=$$llama $(CARGO) test --release --locked --test files -- --ignored --nocapture --test-threads=1

test-cluster: install-deps
	llama=$$(.ci/peers-llama) && PEERS_LLAMA=$$llama $(CARGO) test --release --locked --test cluster -- --include-ignored --nocapture --test-threads=1

test-v4l2: install-deps
	.ci/test-v4l2

deb: build
	.ci/package

bundle: build
	deb=$$(.ci/package) && .ci/bundle "$$deb"

test-deb: build
	.ci/test-deb

deb-arm64: install-deps
	.ci/package-arm64

test-deb-arm64: build
	.ci/test-deb-arm64

test-arm64: install-deps
	.ci/test-arm64

build: install-deps
	$(CARGO) build --release --locked

install-deps:
	@.ci/install-deps
