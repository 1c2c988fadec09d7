#!/usr/bin/env bash
# Draws the pictures of the dashboard in docs/ anew: a quarter of an hour of traffic of three tenants through the router, to simulated providers. Not a test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cargo build --locked --all-features --example router
export ROUTER="${CARGO_TARGET_DIR:-target}/debug/examples/router"
# Where run.sh has installed playwright-core.
export PAGE="${CARGO_TARGET_DIR:-target}/page"
export CHROMIUM="${CHROMIUM:-$(command -v chromium)}"
node tests/page/pictures.mjs
# Debian's pngquant: a fifth of the size.
pngquant --force --ext .png --speed 1 --skip-if-larger docs/{dashboard,entries}-wide.png docs/{dashboard,tables,entries}-narrow.png
