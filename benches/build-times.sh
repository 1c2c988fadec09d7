#!/usr/bin/env bash
# What it takes to build this crate and its peers: a package with that one dependency each, from nothing, debug profile. Processor seconds, which other work on the machine moves less
# than the clock. Each is built ROUNDS times in turns, and the least counts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ROUNDS=${ROUNDS:-2}
WORK=target/build-times

# A name and the dependency, as in a Cargo.toml.
SUBJECTS=(
    'this crate|tower-response-cache = { path = "../../.." }'
    'this crate, all features|tower-response-cache = { path = "../../..", features = ["redis-tls", "zstd", "seal", "llm", "tracing", "metrics", "dashboard", "reqwest-middleware"] }'
    'axum-response-cache|axum-response-cache = "=0.5.0"'
    'tower-http-cache|tower-http-cache = "=0.6.1"'
    'http-cache-tower|http-cache-tower = "=1.0.0-alpha.9"'
)

declare -A seconds crates
for round in $(seq "$ROUNDS"); do
    for place in "${!SUBJECTS[@]}"; do
        dir=$WORK/$place
        mkdir -p "$dir/src"
        : >"$dir/src/lib.rs"
        printf '[package]\nname = "subject"\nedition = "2024"\n[workspace]\n[dependencies]\n%s\n' "${SUBJECTS[place]#*|}" >"$dir/Cargo.toml"
        cargo fetch --quiet --manifest-path "$dir/Cargo.toml"
        tree=$(cargo tree --manifest-path "$dir/Cargo.toml" --edges normal,build --prefix none --format '{p}' | sed 's/ (.*//' | sort -u)
        # Less the package and the crate.
        crates[$place]=$(($(wc -l <<<"$tree") - 2))
        rm -rf "$dir/target"
        TIMEFORMAT='%U %S'
        spent=$({ time cargo build --quiet --offline --manifest-path "$dir/Cargo.toml" --target-dir "$dir/target"; } 2>&1 | tail -n 1 | awk '{ printf "%.1f", $1 + $2 }')
        rm -rf "$dir/target"
        seconds[$place]=$(printf '%s\n' "${seconds[$place]:-$spent}" "$spent" | sort -g | head -n 1)
        echo "round $round: ${SUBJECTS[place]%%|*}: $spent s" >&2
    done
done

echo '| | builds on | processor seconds |'
echo '|---|---|---|'
for place in "${!SUBJECTS[@]}"; do
    echo "| ${SUBJECTS[place]%%|*} | ${crates[$place]} | ${seconds[$place]} |"
done
