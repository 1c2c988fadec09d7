#!/usr/bin/env python3
"""The library builds no more crates with its default features than it is said to: whoever adds one does so knowingly.

What counts is what a user builds for the library on this platform: normal and build dependencies, of whatever depth.
"""

import subprocess
import sys

# Raised by whoever adds a dependency that is worth it, lowered by whoever takes one out. CONTRIBUTING.md compares it with others.
DEFAULT = 52

TREE = ["cargo", "tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"]


def main():
    crates = sorted({line.split(" (")[0] for line in subprocess.check_output(TREE, text=True).splitlines() if line})
    count = len(crates) - 1
    if count > DEFAULT:
        sys.exit(f"default features build {count} crates, {count - DEFAULT} more than tests/dependencies.py allows:\n" + "\n".join(crates))
    if count < DEFAULT:
        sys.exit(f"default features build {count} crates, fewer than before: let tests/dependencies.py say so")
    print(f"{count} dependencies with default features")


main()
