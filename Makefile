# The only list of tasks; CI calls the same targets. `make help` prints them.
#
# A fresh Debian machine with git, make, python3 and a Rust toolchain needs nothing else: missing Debian packages are
# installed here when we are root, and named with the one command that installs them when we are not.
# IRONPOST_CACHE=DIR keeps build output and tools outside the checkout.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

CACHE := $(abspath $(or $(IRONPOST_CACHE),.cache))
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
TOOLS := $(CACHE)/tools
DIST := $(CURDIR)/dist
LLVM := /usr/lib/llvm-22
export CARGO_TARGET_DIR := $(CACHE)/target
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(BIN):$(TOOLS)/bin:$(PATH)
# The one of the toolchain in use: Debian's BPF toolchain brings a rustdoc of another version.
export RUSTDOC := $(shell rustc --print sysroot 2>/dev/null)/bin/rustdoc

RUST_SOURCES := $(shell find rust ebpf/ironpost-ebpf-common ebpf/prebuilt -type f -not -name '*.md') Cargo.toml Cargo.lock
PYTHON_SOURCES := $(shell find python -type f -not -name '*.pyc' -not -name '*.so')

.PHONY: help run install wheel test check format lint types stubs test-rust test-python test-long bench bench-sigma ebpf ebpf-check \
        system-run system-test system-ebpf system-bench-sigma clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: install ## build, install into .venv and watch this host until Ctrl-C
	@exec $(BIN)/ironpost start $(ARGS)

install: $(VENV)/.wheel ## build the wheel and install it into .venv

wheel: $(DIST)/.built ## build dist/ironpost-*.whl: installs anywhere with pip, without Rust or BPF tools

test: system-test check ebpf-check test-rust test-python ## install what tests need and run everything

check: format lint types ## formatting, lint, types, import arrows, stubs, licences

# --- pieces -------------------------------------------------------------------------------------------------------

system-run:
	@scripts/system-packages run

system-test: system-run
	@scripts/system-packages test

system-ebpf: system-run
	@scripts/system-packages ebpf

system-bench-sigma: system-run
	@scripts/system-packages bench-sigma

$(VENV)/.created: pyproject.toml constraints.txt | system-run
	@test -x $(BIN)/python || python3 -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt 'maturin>=1.16,<2'
	@touch $@

$(VENV)/.tools: $(VENV)/.created
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	@touch $@

$(DIST)/.built: $(VENV)/.created $(RUST_SOURCES) $(PYTHON_SOURCES) README.md
	@mkdir -p $(DIST) && rm -f $(DIST)/*.whl
	@$(BIN)/maturin build --release --locked --out $(DIST)
	@touch $@

$(VENV)/.wheel: $(DIST)/.built
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt $(DIST)/ironpost-*.whl
	@$(BIN)/python -m pip install --quiet --force-reinstall --no-deps $(DIST)/ironpost-*.whl
	@touch $@

$(TOOLS)/bin/cargo-deny:
	@cargo install --quiet --locked --root $(TOOLS) cargo-deny@0.20.2

$(TOOLS)/bin/bpf-linker: | system-ebpf
	@LLVM_PREFIX=$(LLVM) cargo install --quiet --locked --root $(TOOLS) bpf-linker@0.13.0 --no-default-features --features llvm-22

format: $(VENV)/.tools
	cargo fmt --all --check
	$(BIN)/ruff format --check python tests benches

lint: $(VENV)/.tools $(TOOLS)/bin/cargo-deny
	cargo clippy --workspace --all-targets --locked --quiet -- --deny warnings
	cargo deny --log-level error check bans licenses sources
	@! cargo tree --workspace --exclude ironpost-py --edges normal --prefix none --locked | grep -E '^pyo3 ' || { echo 'error: only ironpost-py may depend on pyo3'; exit 1; }
	$(BIN)/ruff check python tests benches
	PYTHONPATH=python $(BIN)/lint-imports

types: $(VENV)/.wheel $(VENV)/.tools
	$(BIN)/mypy
	@$(BIN)/maturin generate-stubs --profile release --locked --quiet --out $(CACHE)/stubs && diff -u python/ironpost/_core.pyi $(CACHE)/stubs/ironpost/_core.pyi || { echo 'hint: make stubs'; exit 1; }
	$(BIN)/python -m mypy.stubtest ironpost._core

stubs: $(VENV)/.created ## regenerate python/ironpost/_core.pyi from the native module
	$(BIN)/maturin generate-stubs --profile release --locked --out $(CACHE)/stubs && cp $(CACHE)/stubs/ironpost/_core.pyi python/ironpost/_core.pyi

test-rust: | system-run ## Rust tests; random cases are the same every time
	PROPTEST_RNG_SEED=1 cargo test --workspace --locked --quiet

test-python: $(VENV)/.wheel $(VENV)/.tools | system-test ## Python, kernel, Docker, sshd and end-to-end tests, on the installed wheel
	$(BIN)/pytest $(ARGS)

test-long: $(VENV)/.wheel $(VENV)/.tools | system-test ## hour-long rounds with new random cases: properties, soak, many kills
	IRONPOST_FLOOD_KEYS=10000000 cargo test --workspace --locked --quiet
	$(BIN)/pytest --timeout 0 -m long $(ARGS)

fuzz: ## run each fuzz target for FUZZ_SECONDS (180); needs nightly Rust and cargo-fuzz
	cd fuzz && for target in $$(cargo +nightly fuzz list); do \
	  cargo +nightly fuzz run $$target -- -max_total_time=$(or $(FUZZ_SECONDS),180) -timeout=20 -rss_limit_mb=2048; done

bench: $(VENV)/.wheel $(VENV)/.tools | system-test ## measure: throughput, latency, packet path; prints min and median
	benches/run $(ARGS)

bench-sigma: $(VENV)/.wheel | system-bench-sigma ## the rule engine beside rsigma's on the public rules; ARGS='--quick win_mixed'
	@$(BIN)/python benches/sigma/run.py $(ARGS)

ebpf: $(TOOLS)/bin/bpf-linker ## rebuild ebpf/prebuilt/ (maintainers; users never need it)
	ebpf/build.sh

ebpf-check: $(TOOLS)/bin/bpf-linker ## prove that ebpf/prebuilt/ corresponds to its source
	ebpf/build.sh --check

clean: ## remove what the build made
	rm -rf $(VENV) $(DIST) .cache target
