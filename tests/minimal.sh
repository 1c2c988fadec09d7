#!/usr/bin/env bash
# The library builds with the oldest versions of its dependencies that Cargo.toml admits.
#
# In a copy, for it changes the lock file; without what tests alone need, for two requirements of the same crate would have to agree on their oldest version.
# The resolver's option is unstable and needs no other compiler: `RUSTC_BOOTSTRAP` unlocks it for this one command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r Cargo.lock README.md src "$copy"
python3 - "$copy/Cargo.toml" <<'PYTHON'
import re
import sys

tables = re.split(r"(?m)^(?=\[)", open("Cargo.toml").read())
gone = ("[dev-dependencies]", "[[example]]", "[[bench]]")
open(sys.argv[1], "w").write("".join(table for table in tables if not table.startswith(gone)))
PYTHON
cd "$copy"
RUSTC_BOOTSTRAP=1 cargo update --quiet -Zdirect-minimal-versions
cargo check --lib "$@"
