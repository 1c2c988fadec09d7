#!/usr/bin/env python3
"""No dependency of the library needs a newer Rust than the `rust-version` that Cargo.toml declares.

There may be one toolchain only, and a newer one at that; what the dependencies declare is known without building with the oldest.
That the crate's own code keeps to it is clippy's `incompatible_msrv`.
"""

import json
import subprocess
import sys


def main():
    metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--locked", "--all-features", "--format-version", "1"]))
    packages = {package["id"]: package for package in metadata["packages"]}
    root = packages[metadata["resolve"]["root"]]
    library = reached(root["id"], {node["id"]: node["deps"] for node in metadata["resolve"]["nodes"]})
    newer = sorted(
        f"{package['name']} {package['version']} needs Rust {package['rust_version']}"
        for package in map(packages.get, library)
        if version(package) > version(root)
    )
    if newer:
        sys.exit("\n".join([f"rust-version is {root['rust_version']}, but", *newer]))
    print(f"{len(library) - 1} dependencies build with Rust {root['rust_version']}")


def reached(root, deps):
    """What is built for the library: normal and build dependencies, of whatever depth."""
    seen, todo = set(), [root]
    while todo:
        package = todo.pop()
        if package not in seen:
            seen.add(package)
            todo += [dep["pkg"] for dep in deps[package] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])]
    return seen


def version(package):
    return tuple(map(int, (package["rust_version"] or "0").split(".")))


main()
