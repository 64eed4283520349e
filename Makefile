# `make` alone lists the targets. Each target installs what it needs into .venv if it is missing: the package itself
# (.venv/.built), and dependency groups of pyproject.toml (.venv/.group-NAME). constraints.txt has the versions of all
# tools and packages.
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

# Only one pip may run in an environment, and cargo and pytest use all cores themselves.
.NOTPARALLEL:

.PHONY: help setup dev demo test test-rust test-python test-torch lint docs bench wheel wheel-arm targets fuzz valgrind \
	audit clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: .venv/.built ## Make the environment .venv: the package with its extra `train`, the extension built in release mode

dev: setup .venv/.group-test .venv/.group-lint .venv/.group-docs ## The same, with the packages for tests, linters and documentation

demo: setup ## Pretrain on digits with and without HEX, evaluate, draw (3 minutes on 2 cores)
	hex-ssl demo

test: lint test-rust test-python ## Run everything: lint, types, Rust tests, Python tests, doctests, README, examples

test-rust: ## Run the kernel's own tests, without Python or libtorch
	cargo test --no-default-features --quiet

test-python: setup .venv/.group-test ## Run pytest over tests, docstrings and README
	pytest --numprocesses auto --maxprocesses 8 --dist loadfile

test-torch: ## Run the suite with another torch in its own environment: make test-torch TORCH=2.6.0 [BORDER=tch] [TESTS="tests/test_op.py"]
	BORDER=$(BORDER) packaging/other_torch.sh "$(TORCH)" $(TESTS)

lint: setup docs .venv/.group-lint ## Check formatting, clippy, ruff, mypy, the extension against its stub, and the documentation
	cargo fmt --check
	cargo clippy --quiet --release --all-targets -- -D warnings
	cargo clippy --quiet --release --no-default-features --features tch -- -D warnings
	ruff format --check
	ruff check
	mypy
	python -m mypy.stubtest hex_ssl._core
	check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff

docs: .venv/.group-docs docs/pictures/.drawn ## Build the documentation as a site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=true mkdocs build --strict --quiet

docs/pictures/.drawn: $(wildcard docs/pictures/*.py docs/results.jsonl benches/results/loss-*.json) | .venv/.built
	python docs/pictures/draw.py
	touch $@

bench: setup .venv/.group-peers ## Measure time and memory of the loss against its peers (needs an idle machine)
	python benches/loss.py
	python benches/towers.py

# On Linux for the oldest glibc that torch's own wheels support, linked by zig.
MANYLINUX ?= manylinux_2_28
PORTABLE := $(if $(filter Linux,$(shell uname -s)),--zig --compatibility $(MANYLINUX))
wheel: .venv/.group-wheel ## Build wheel and sdist in dist/, and try each in a clean environment outside the tree
	rm -rf dist
	maturin build --release --quiet --sdist $(PORTABLE) --out dist
	packaging/clean_install.sh dist/*.whl
	packaging/clean_install.sh dist/*.tar.gz

wheel-arm: .venv/.group-wheel ## Build the wheel for Linux on 64-bit Arm in dist/, on any Linux: it cannot be tried there
	rustup target add aarch64-unknown-linux-gnu
	maturin build --release --quiet --target aarch64-unknown-linux-gnu $(PORTABLE) --out dist

TARGETS := aarch64-apple-darwin aarch64-unknown-linux-gnu x86_64-pc-windows-msvc
targets: ## Check that the extension compiles for macOS, Linux on 64-bit Arm, and Windows
	rustup target add $(TARGETS)
	cargo check --quiet --no-default-features --features python $(TARGETS:%=--target %)

MINUTES ?= 60
fuzz: setup .venv/.group-fuzz ## Fuzz everything that parses bytes, for MINUTES=60 in total; findings stay in target/fuzz/findings
	python -m fuzz.all $(MINUTES)

# Valgrind hides AVX-512, so AVX2 code runs. The tests that are left out would take hours.
valgrind: ## Run the kernel's tests under valgrind: no bad access, no leak (20 minutes or more)
	PROPTEST_CASES=4 CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="valgrind --error-exitcode=9 --leak-check=full \
	--errors-for-leak-kinds=definite --fair-sched=yes" cargo test --no-default-features --lib -- --test-threads=1 \
	cpu::float cpu::schedule cpu::threads cpu::select statistics problem cuda \
	cpu::tests::lengths cpu::tests::rows_without cpu::tests::duplicates cpu::tests::weights cpu::tests::any_shape

# Each part fails if it cannot reach its database: an audit that could not look is not a clean one. One finding is left
# out: memory corruption by torch.jit.script, which is not called. torch 2.13 fixes it, but tch needs torch 2.11.0.
audit: .venv/.group-audit ## Check licences, sources and known vulnerabilities of all dependencies (needs the network)
	cargo install --quiet --locked --root target/tools --version 0.20.2 cargo-deny
	target/tools/bin/cargo-deny check
	pip-audit --strict --no-deps --disable-pip --requirement constraints.txt --ignore-vuln PYSEC-2025-194

clean: ## Remove everything that was built and installed
	rm -rf .venv .venv-torch-* target dist

.venv/.created: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"expected PYTHON=$(PYTHON) to be Python 3.11 or later, but got {sys.version}")'
	$(PYTHON) -m venv .venv
	pip install --upgrade pip
	touch $@

.venv/.group-%: .venv/.created pyproject.toml
	pip install --group $*
	touch $@

# Builds the extension in place, in the tree.
.venv/.built: .venv/.group-build $(RUST)
	maturin develop --release --quiet --extras train
	touch $@
