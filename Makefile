# What people and CI type. `make help` lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Builds and benchmarks take turns: two at once would be slower than one after the other, and measure each other.
LOCK := target/.build.lock
LOCKED := mkdir -p target && flock $(LOCK)

HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
# As shipped: one file each, which needs nothing of the machine but its kernel.
SHIPPED := target/$(HOST)/release
PACKAGES := target/deb
STATIC := env RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target $(HOST)

# Where the packages of the Python peer and of the linter of certificates are; nothing is installed outside of target/.
PYTHON_PACKAGES := target/python
PYTHON_REQUIREMENTS := tests/python_peer/requirements.txt tests/certificates/requirements.txt
export COTERIE_PYTHON_PACKAGES := $(CURDIR)/$(PYTHON_PACKAGES)

SEEDS ?= 20000
MINUTES ?= 5

.PHONY: help setup rust build static demo test test-rust test-doc test-python test-static test-guest test-member deb test-deb python lint fmt deny advisories doc sim soak fuzz bench bench-server install clean

help: ## this list
	@echo "Coterie. In the order in which a newcomer needs it:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 \2/p' Makefile | awk '{ printf "  %-5s %-12s", $$1, $$2; $$1=$$2=""; print $$0 }'

setup: ## says what is missing on this machine, and installs it (Debian; each command is shown)
	@.ci/setup

rust:
	@command -v cargo >/dev/null || { echo "Rust is missing; \`make setup\` says how to install it"; exit 1; }

build: rust ## builds everything for development
	$(LOCKED) cargo build --locked --workspace

static: rust ## builds coterie, coteried and coterie-server as they are shipped
	$(LOCKED) $(STATIC) -p coterie-cli -p coterie-node -p coterie-server --bins
	@ls -l --block-size=1 $(SHIPPED)/coterie $(SHIPPED)/coteried $(SHIPPED)/coterie-server | awk '{ printf "%s: %.1f MB\n", $$9, $$5 / 1e6 }'

demo: static ## shows an enclave at work on this machine (DEMO=--keep leaves it up)
	$(SHIPPED)/coterie demo $(DEMO)

test: test-rust test-doc test-python ## runs the tests, but for those of packages and in guests

test-rust: rust python
	@if cargo nextest --version >/dev/null 2>&1; then \
	    set -x; $(LOCKED) cargo nextest run --locked --workspace; \
	else \
	    set -x; $(LOCKED) cargo test --locked --workspace --lib --bins --tests --no-fail-fast; \
	fi
	@skipped=$$(grep -hoE 'skipped: [^<]*' target/nextest/default/junit.xml 2>/dev/null | sort | uniq -c || true); \
	if [ -n "$$skipped" ]; then echo "what this machine did not let us test:"; echo "$$skipped"; fi

test-doc: rust
	$(LOCKED) cargo test --locked --workspace --doc

test-static: static ## runs the shipped programs where only a kernel and busybox are
	tests/static/busybox.sh $(SHIPPED)

# Not being able to (77) is no failure.
test-guest: static ## runs the shipped programs under a real systemd, in two QEMU guests (as root; some five minutes)
	tests/guest/systemd.py $(SHIPPED) || [ $$? -eq 77 ]

test-member: static ## takes a real machine (QEMU) through its life as a member (as root; under a minute)
	tests/guest/member.py $(SHIPPED) || [ $$? -eq 77 ]

deb: static ## makes Debian packages of the shipped programs, into target/deb
	packaging/deb/build $(SHIPPED) $(PACKAGES)

test-deb: deb ## installs, upgrades, removes and purges the packages, in a fresh Debian and in a QEMU guest (as root; some four minutes)
	tests/package/test $(SHIPPED) $(PACKAGES) || [ $$? -eq 77 ]
	tests/package/certificates $(SHIPPED) || [ $$? -eq 77 ]
	tests/package/guest.py $(SHIPPED) $(PACKAGES) || [ $$? -eq 77 ]

test-python: python
	@if [ -d $(PYTHON_PACKAGES)/cryptography ]; then \
	    set -x; PYTHONPATH=$(PYTHON_PACKAGES) python3 tests/python_peer/selftest.py; \
	fi

python: ## fetches what the Python peer and the test of certificates stand on, into target/
	@if ! command -v python3 >/dev/null; then \
	    echo "python3 is missing, so the tests of the Python peer and of certificates are skipped; \`make setup\` installs it"; \
	elif ! cat $(PYTHON_REQUIREMENTS) | cmp -s - $(PYTHON_PACKAGES)/requirements.txt; then \
	    set -x; rm -rf $(PYTHON_PACKAGES); \
	    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target $(PYTHON_PACKAGES) \
	        $(addprefix -r ,$(PYTHON_REQUIREMENTS)) \
	        || { echo "the packages for Python cannot be had, so the tests of the Python peer and of certificates are skipped"; exit 0; }; \
	    cat $(PYTHON_REQUIREMENTS) >$(PYTHON_PACKAGES)/requirements.txt; \
	fi

lint: rust ## formatting, clippy, and the rules of xtask
	cargo fmt --all --check
	@set -x; $(LOCKED) cargo clippy --locked --workspace --all-targets -- -D warnings 2>&1 | tee target/clippy.log
	@! grep -A1 'does not refer to' target/clippy.log
	$(LOCKED) cargo run --locked --quiet -p xtask -- ci

fmt: rust ## formats the code
	cargo fmt --all

deny: rust ## licences, sources, doubles and banned crates of everything that is built in
	@cargo deny --version >/dev/null 2>&1 || { echo "cargo-deny is missing; \`make setup\` installs it"; exit 1; }
	cargo deny --locked check bans licenses sources

advisories: rust ## known holes in dependencies; needs the Internet
	cargo deny --locked check advisories

doc: rust ## the code's documentation, private items too, into target/doc
	$(LOCKED) env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

sim: rust ## simulates SEEDS worlds (20000) of each kind, lossy and hostile; a failure prints the seed that replays it
	$(LOCKED) cargo run --locked --release -p coterie-sim -- --world nodes --seeds 0..$(SEEDS)
	$(LOCKED) cargo run --locked --release -p coterie-sim -- --world served --seeds 0..$(SEEDS)

soak: rust ## the same with other worlds every day, for nights and weekends
	@set -x; first=$$(( $$(date +%s) / 86400 * 10000000 )); \
	for world in nodes served; do \
	    $(LOCKED) cargo run --locked --release -p coterie-sim -- --world $$world --seeds $$first..$$((first + $(SEEDS))); \
	done

fuzz: rust ## feeds every decoder from its corpus and beyond, MINUTES (5) each; installs nightly Rust and cargo-fuzz if missing
	@for target in $$(fuzz/run.sh --list); do \
	    echo "+ fuzz/run.sh $$target $$(( $(MINUTES) * 60 ))"; \
	    $(LOCKED) fuzz/run.sh "$$target" $$(( $(MINUTES) * 60 )); \
	done

bench: rust ## measures handshakes a second, on one core, each side by itself
	$(LOCKED) cargo run --locked --release -p coterie-proto --example handshakes

bench-server: rust ## measures the server as shipped: members that enrol, that follow, and the way of a change (some minutes)
	$(LOCKED) cargo build --locked --release -p coterie-server -p coterie-node --bins --examples
	$(LOCKED) bench/server.py --programs target/release

clean: ## removes what was built
	cargo clean
