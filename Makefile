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

.PHONY: help setup demo test test-rust test-python test-torch lint docs bench wheel fuzz valgrind audit clean

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

test-torch: ## The suite with another torch, its own environment: make test-torch TORCH=2.6.0 [BORDER=tch] [TESTS="tests/test_op.py"]
	BORDER=$(BORDER) packaging/other_torch.sh "$(TORCH)" $(TESTS)

lint: setup docs ## Formatting, clippy, ruff, mypy, the extension against its stub, the documentation
	cargo fmt --check
	cargo clippy --quiet --release --all-targets -- -D warnings
	cargo clippy --quiet --release --no-default-features --features tch -- -D warnings
	ruff format --check
	ruff check
	mypy
	python -m mypy.stubtest hex_ssl._core
	check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

docs: .venv/.installed ## The documentation as a site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=true mkdocs build --strict --quiet

bench: setup ## Time and memory of the loss against its peers (needs an idle machine)
	python benches/loss.py

# As old a glibc as torch's own wheels ask for.
MANYLINUX ?= manylinux_2_28
wheel: .venv/.installed ## Wheel and sdist in dist/, each tried in a clean environment outside the tree
	pip install --quiet --group wheel
	rm -rf dist
	maturin build --release --quiet --sdist --zig --compatibility $(MANYLINUX) --out dist
	packaging/clean_install.sh dist/*.whl
	packaging/clean_install.sh dist/*.tar.gz

MINUTES ?= 60
fuzz: setup ## Feed everything that parses bytes for MINUTES=60 in all; findings stay in target/fuzz/findings
	pip install --quiet --group fuzz
	python -m fuzz.all $(MINUTES)

# Valgrind hides AVX-512, so that AVX2 code runs; the tests left out take hours there.
valgrind: .venv/.installed ## The kernel's tests under valgrind: no bad access, nothing lost (20 minutes and more)
	PROPTEST_CASES=4 CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="valgrind --error-exitcode=9 --leak-check=full \
	--errors-for-leak-kinds=definite --fair-sched=yes" cargo test --no-default-features --lib -- --test-threads=1 \
	cpu::float cpu::schedule cpu::threads cpu::select statistics problem cuda \
	cpu::tests::lengths cpu::tests::rows_without cpu::tests::duplicates cpu::tests::weights cpu::tests::any_shape

# Each part fails where it cannot ask its database: an audit that could not look is no clean one. What is left out:
# memory corruption by torch.jit.script, which is not called; torch 2.13 mends it, tch holds torch at 2.11.0.
audit: .venv/.installed ## Licences, sources and known vulnerabilities of all dependencies (needs the network)
	pip install --quiet --group audit
	cargo install --quiet --locked --root target/tools --version 0.20.2 cargo-deny
	target/tools/bin/cargo-deny check
	pip-audit --strict --no-deps --disable-pip --requirement constraints.txt --ignore-vuln PYSEC-2025-194

clean: ## Removes what was built and installed
	rm -rf .venv .venv-torch-* target dist

# The environment, and the extension in place.
.venv/.installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	pip install --quiet --upgrade pip
	pip install --quiet --group dev
	touch $@

.venv/.built: .venv/.installed $(RUST)
	maturin develop --release --quiet --extras train
	touch $@
