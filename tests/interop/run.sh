#!/usr/bin/env bash
# gRPC's own client and server (`grpcio`), against the tonic examples. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cargo build --locked --all-features --example tonic-server --example tonic-client
target="${CARGO_TARGET_DIR:-target}"
export EXAMPLES="$target/debug/examples"

venv="$target/interop"
if ! cmp --silent tests/interop/requirements.txt "$venv/requirements.txt"; then
    echo "installing grpcio into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/interop/requirements.txt
    cp tests/interop/requirements.txt "$venv/"
fi
mkdir -p "$venv/stubs"
"$venv/bin/python" -m grpc_tools.protoc --proto_path=examples/tonic --python_out="$venv/stubs" --grpc_python_out="$venv/stubs" library.proto

# Everything is bounded by itself; this ends what a bug made endless.
PYTHONPATH="$venv/stubs" exec timeout --kill-after 10 300 "$venv/bin/python" -m pytest -p no:cacheprovider tests/interop "$@"
