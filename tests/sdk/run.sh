#!/usr/bin/env bash
# The official SDKs, as clients of the real router. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cargo build --locked --all-features --example router
export ROUTER="${CARGO_TARGET_DIR:-target}/debug/examples/router"

if ! cmp --silent tests/sdk/requirements.txt .venv/requirements.txt; then
    echo "installing the SDKs into .venv"
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --requirement tests/sdk/requirements.txt
    cp tests/sdk/requirements.txt .venv/
fi

# Everything is bounded by itself; this ends what a bug made endless.
exec timeout --kill-after 10 600 .venv/bin/python -m pytest -p no:cacheprovider tests/sdk "$@"
