# Every chore of the project. `just` alone lists them.

# A Python with torch, transformers, peft, safetensors, numpy, scikit-learn, scipy and pyarrow (fixtures/README.md).
python := env("RETUNE_PYTHON", "python3")

[private]
default:
    @just --list --unsorted

# Everything CI checks but the tests: format, lints, licences, spelling, documentation
check: && docs
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo deny check licenses bans sources
    typos

# All tests, as the README has it; `just test -p retune-data` for one crate
test *arguments:
    cargo test {{ if arguments == "" { "--workspace" } else { arguments } }}

# API documentation, without warnings
docs *arguments:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps {{ arguments }}

# docs/recipe.md from the types
recipe-reference:
    RETUNE_WRITE_DOCS=1 cargo test -p retune-train recipe_reference

# Beside PyTorch on this machine, into BENCHMARKS.md (bench/README.md says what it needs)
bench *arguments:
    cargo build --release
    {{ python }} bench/compare.py {{ arguments }}

# One kernel after the other, beside PyTorch's
bench-kernels *arguments:
    cargo run --release -p retune-kernels --example kernel_bench -- {{ arguments }}

# The golden files anew. Look at the diff: a number that changed is a question
fixtures:
    {{ python }} fixtures/counter.py > fixtures/counter.json
    {{ python }} fixtures/models/make_golden.py
    {{ python }} fixtures/bf16/make_golden.py
    {{ python }} fixtures/norms/make_golden.py
    {{ python }} fixtures/checkpoint/make_checkpoints.py
    {{ python }} fixtures/tokenize/make_golden.py
    {{ python }} fixtures/data/make_tables.py
    {{ python }} fixtures/metrics/make_metrics_golden.py
    {{ python }} fixtures/schedules/make_schedules_golden.py > fixtures/schedules/schedules_golden.json
    {{ python }} fixtures/optimizers/make_golden.py
    {{ python }} fixtures/transferability/make_golden.py > fixtures/transferability/golden.json
    ruff check fixtures bench
    ruff format --check fixtures bench

# The kernels under Miri (portable path) and AddressSanitizer (every path the machine has); needs a nightly compiler
memory-safety *checks:
    .ci/memory-safety {{ checks }}

# The kernels' tests on the AVX-512 paths in an emulated processor; needs what the script's head says
emulate-avx512 *test:
    .ci/emulate-avx512 {{ test }}

# Look for crashes in a reader (csv, picture, picture_file, pickle, recipe, safetensors); needs a nightly compiler and cargo-fuzz
fuzz target seconds="60":
    cargo +nightly fuzz run {{ target }} -- -malloc_limit_mb=512 -max_total_time={{ seconds }}
