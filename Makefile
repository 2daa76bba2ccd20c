# What people and CI run alike. `make demo` and `make test` do all the set-up themselves, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-rust test-python test-gpu fuzz lint format bench bench-rust bench-loader bench-gpu docs notebooks setup clean

demo: setup ## synthesise tiles and train a small Siamese damage model on them
	$(BIN)/rarepixel demo

test: test-rust test-python ## every test

test-rust:
	cargo test --all-targets

test-python: setup
	$(BIN)/pytest -q

test-gpu: setup ## the CUDA tests on the GPU at hand, and a few under compute-sanitizer where that is installed
	$(BIN)/python -c 'import torch; assert torch.cuda.is_available(), "torch sees no GPU"'
	$(BIN)/pytest -q tests/cuda
	@command -v compute-sanitizer >/dev/null || echo "make: compute-sanitizer is not on PATH: not run" >&2
	@! command -v compute-sanitizer >/dev/null || for tool in memcheck racecheck synccheck; do \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
			$(BIN)/pytest -q tests/cuda/test_parity.py -k "whole_vectors and float32 and uint8" || exit 1; \
	done

fuzz: ## every fuzz target for a minute; new inputs stay out of the kept corpus unless they find something
	@for target in png label wkt pack_tile pack_list; do \
		mkdir -p target/fuzz/$$target; \
		cargo +nightly fuzz run --fuzz-dir tests/fuzz $$target target/fuzz/$$target tests/fuzz/corpus/$$target -- \
			-max_total_time=60 || exit 1; \
	done

lint: setup ## formats, lints and types, all as errors
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --features python -- -D warnings
	$(BIN)/ruff format --check python tests benches notebooks/*.py
	$(BIN)/ruff check python tests benches notebooks/*.py
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest rarepixel._core

format: setup
	cargo fmt
	$(BIN)/ruff format python tests benches notebooks/*.py
	$(BIN)/ruff check --fix python tests benches notebooks/*.py

bench: setup $(VENV)/.peers ## ours against torch and its peers: a CSV in benches/results, and from it the README's tables and picture
	$(BIN)/python benches/losses.py
	$(BIN)/python benches/readme.py

bench-rust: ## the Rust core alone, by instruction set and dtype
	cargo bench --bench core

# The libraries that `make bench` compares with.
$(VENV)/.peers: $(VENV)/.requirements
	$(BIN)/pip install --quiet --editable ".[bench]"
	touch $@

bench-loader: setup ## XBDLoader against DataLoader and torchgeo (where it is installed); a CSV in benches/results
	$(BIN)/python benches/loader.py

bench-gpu: setup ## ours against torch on the GPU at hand: a CSV in benches/results, and from it the table in the README
	$(BIN)/python benches/gpu.py
	$(BIN)/python benches/readme.py

docs: setup ## the pages, in site/; warnings are errors, and it needs no network
	$(BIN)/mkdocs build --strict --config-file notebooks/mkdocs.yml

notebooks: setup ## run the notebooks again and keep their outputs; notebooks/run.py --measure takes new times too
	$(BIN)/python notebooks/run.py

setup: $(VENV)/.extension

# The Python side: the package's own declared needs, once for each change of pyproject.toml.
$(VENV)/.requirements: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: Python is missing: install Python 3.10 or later (Debian: apt-get install python3 python3-venv), or say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: $$($(PYTHON) --version) is too old: rarepixel needs Python 3.10 or later; say make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: Python has no venv module: install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "make: cargo is missing: install a Rust toolchain of 1.89 or later with rustup (Debian 13 or later: apt-get install rustup; then rustup default stable)" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "make: a C compiler is missing: install one (Debian: apt-get install build-essential)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[dev]"
	@# The oldest NVRTC that the kernels are held to, beside torch's own: tests/cuda/test_nvrtc.py.
	-$(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/nvrtc nvidia-cuda-nvrtc-cu12==12.1.105
	touch $@

# The Rust side: built again when a source has changed.
$(VENV)/.extension: $(VENV)/.requirements Cargo.toml $(shell find src -type f)
	$(BIN)/maturin develop --quiet --release
	touch $@

clean:
	cargo clean
	rm -rf $(VENV) demo-output site
