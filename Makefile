# `make` alone says what there is. Versions of every tool and package: constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_QUIET := 1

# Waiting workers sleep instead of spinning: tests and the demo share the cores among processes.
demo test-python: export OMP_WAIT_POLICY := PASSIVE

RUST := Cargo.toml Cargo.lock .cargo/config.toml $(shell find src -type f)

.PHONY: help setup demo test test-rust test-python lint docs bench clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: .venv/.built ## The environment .venv with the extension built in release mode

demo: setup ## Pretrain on digits with and without HEX, evaluate, draw (3 minutes on 2 cores)
	hex-ssl demo

test: lint test-rust test-python ## Everything: lint, types, Rust tests, Python tests, doctests, README, examples

test-rust: .venv/.installed ## The kernel's own tests, without Python or libtorch
	cargo test --no-default-features --quiet

test-python: setup ## pytest over tests, docstrings and README
	pytest

lint: setup docs ## Formatting, clippy, ruff, mypy, the extension against its stub, the documentation
	cargo fmt --check
	cargo clippy --quiet --release --all-targets -- -D warnings
	cargo clippy --quiet --release --no-default-features --features dynamic -- -D warnings
	ruff format --check
	ruff check
	mypy
	python -m mypy.stubtest hex_ssl._core
	check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

docs: .venv/.installed ## The documentation as a site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=true mkdocs build --strict --quiet

bench: setup ## Time and memory of the loss against its peers (needs an idle machine)
	python benches/loss.py

clean: ## Removes what was built and installed
	rm -rf .venv target

# The environment. torch is installed once, here; the extension is built against it in place, never in isolation.
.venv/.installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	pip install --quiet --upgrade pip
	pip install --quiet --group dev
	touch $@

.venv/.built: .venv/.installed $(RUST)
	maturin develop --release --quiet --extras train
	touch $@
