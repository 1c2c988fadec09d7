#!/usr/bin/env bash
# The dashboard in a real browser: Debian's chromium, driven by playwright-core. Screenshots go to target/page.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PLAYWRIGHT=1.65.1

cargo build --locked --all-features --example router
export ROUTER="${CARGO_TARGET_DIR:-target}/debug/examples/router"
export PAGE="${CARGO_TARGET_DIR:-target}/page"
export CHROMIUM="${CHROMIUM:-$(command -v chromium)}"
mkdir -p "$PAGE"

if [[ ! -e $PAGE/node_modules/playwright-core-$PLAYWRIGHT ]]; then
    echo "installing playwright-core into $PAGE"
    rm -rf "$PAGE/node_modules"
    npm install --prefix "$PAGE" --no-save --no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error "playwright-core@$PLAYWRIGHT"
    touch "$PAGE/node_modules/playwright-core-$PLAYWRIGHT"
fi

# Everything is bounded by itself; this ends what a bug made endless.
exec timeout --kill-after 10 300 node --test --test-reporter spec tests/page/page.test.mjs
