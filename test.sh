#!/usr/bin/env bash
# All that proves this crate, in one go. It stops at the first failure and skips nothing.
#
# It needs a Rust toolchain, cargo-deny, redis-server, nginx, curl, Python, Node.js and Chromium. What of it is missing it installs, the system's packages on Debian only, as
# root or through sudo; elsewhere it says what to install.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

main() {
    step "tools" tools

    step "format" cargo fmt --check
    step "lints" cargo clippy --locked --all-targets --all-features -- -D warnings
    step "lints, default features" cargo clippy --locked --all-targets -- -D warnings
    step "lints, feature by feature" each_feature
    step "dependencies" dependencies
    step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --all-features

    step "examples" cargo build --locked --examples --all-features
    step "tests" tests
    step "documentation tests" cargo test --locked --doc --all-features
    step "fuzz targets, briefly" fuzz/smoke.sh
    step "package" package
    step "official SDKs against the router" tests/sdk/run.sh
    step "gRPC's own client and server against tonic's" tests/interop/run.sh
    step "the dashboard in a browser" tests/page/run.sh

    echo "== all passed in ${SECONDS} s"
}

# What the steps need is looked for first: nobody wants to hear of it after ten minutes.
tools() {
    need cargo || die "Rust is missing: install it with rustup (https://rustup.rs)"
    cargo fmt --version && cargo clippy --version || die "rustup component add rustfmt clippy"
    need redis-server || install redis-server
    need curl || install curl
    # Debian keeps it where only root looks for programs.
    need nginx || [[ -x /usr/sbin/nginx ]] || install nginx-light
    need cargo-deny || cargo install --quiet --locked cargo-deny
    need python3 && python3 -c 'import venv, ensurepip' || install python3 python3-venv
    { need node && need npm; } || install nodejs npm
    need chromium || install chromium
    redis-server --version
    python3 --version
}

# No feature, and each alone: what a user may select. `cargo hack` would do the same and would have to be built first; under the resolver of
# edition 2024 it is not needed, for a build of the library alone takes no features from the dev-dependencies.
each_feature() {
    local feature features
    features=$(cargo metadata --locked --no-deps --format-version 1 |
        python3 -c 'import json, sys; print(*json.load(sys.stdin)["packages"][0]["features"])')
    for feature in "" $features; do
        echo "-- ${feature:-none}"
        cargo clippy --locked --lib --no-default-features --features "$feature" -- -D warnings
    done
}

# Advisories are not part of this: their database is fetched, and what it says today is no property of a commit.
dependencies() {
    tests/msrv.py
    tests/dependencies.py
    tests/minimal.sh --all-features
    cargo deny --locked --all-features check bans licenses sources
}

tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --locked --all-features
    else
        cargo test --locked --all-features --all-targets
    fi
}

# Builds the crate from the archive that would be published. In CI a file that a step left behind fails it.
package() {
    local dirty=--allow-dirty
    if [[ ${CI:-} ]]; then dirty=; fi
    cargo package --locked --all-features $dirty --list
    cargo package --locked --all-features $dirty
}

step() {
    doing=$1
    local began=$SECONDS
    echo "== $doing"
    "${@:2}"
    echo "== $doing: $((SECONDS - began)) s"
}

need() {
    command -v "$1" >/dev/null
}

# Debian packages.
install() {
    local sudo=()
    ((EUID == 0)) || sudo=(sudo -n)
    need apt-get && { ((EUID == 0)) || need sudo; } || die "install $*"
    echo "installing $*"
    # The run level keeps the package from starting a server of its own: tests start theirs.
    "${sudo[@]}" apt-get -qq update && "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq install -y --no-install-recommends "$@" ||
        die "install $*"
}

die() {
    echo "test.sh: $*" >&2
    exit 1
}

doing=start
trap 'status=$?; ((status == 0)) || echo "== FAILED: $doing (after $SECONDS s)" >&2' EXIT
exec </dev/null
main
