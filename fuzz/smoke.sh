#!/bin/sh
# Builds every fuzz target on a stable toolchain and runs each for SECONDS_EACH (default 20), with what past runs and the tests have found.
# Fails on the first crash, whose input is left in artifacts/.
set -eu
cd "$(dirname "$0")"

# What `cargo fuzz run --sanitizer none` passes: coverage, which stable compilers have; no sanitizer, which they have not.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
# With a target named, build scripts are built without these flags.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --locked --target "$host"

run() {
    target=$1
    shift
    mkdir -p "corpus/$target" "artifacts/$target"
    "target/$host/release/$target" -max_total_time="${SECONDS_EACH:-20}" -timeout=10 -rss_limit_mb=1024 -max_len=4096 \
        -print_final_stats=1 -artifact_prefix="artifacts/$target/" "corpus/$target" "$@"
}

run canonicalize seeds/canonicalize
run record ../tests/golden
run http seeds/http
