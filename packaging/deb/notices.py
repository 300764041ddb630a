#!/usr/bin/env python3
"""Prints the licences of everything that is built into a program of a crate, and their texts.

    packaging/deb/notices.py REPOSITORY CRATE
"""

import json
import subprocess
import sys
from pathlib import Path

NAMES = ("licen", "copying", "copyright", "notice", "unlicense")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    repository, crate = Path(sys.argv[1]), sys.argv[2]
    host = next(line.split()[1] for line in run("rustc", "-vV").splitlines() if line.startswith("host:"))
    metadata = json.loads(run("cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host,
                              "--manifest-path", repository / "Cargo.toml"))
    own = set(metadata["workspace_members"])
    packages = {package["id"]: package for package in metadata["packages"]}
    foreign = sorted((packages[i] for i in linked(metadata, crate, packages) - own), key=lambda p: (p["name"], p["version"]))
    print(f"{crate} is built from these crates besides its own:\n")
    users = {}
    for package in foreign:
        name = f"{package['name']} {package['version']}"
        print(f"{name}: {package['license'] or 'see below'}")
        directory = Path(package["manifest_path"]).parent
        for path in sorted(directory.iterdir()):
            if path.is_file() and path.name.lower().startswith(NAMES):
                text = path.read_text(errors="replace").replace("\r\n", "\n").strip()
                users.setdefault(text, []).append(f"{name} ({path.name})")
    for text, names in users.items():
        print(f"\n{'=' * 80}\n{', '.join(names)}:\n\n{text}")


def linked(metadata, crate, packages):
    """Ids of all packages that the crate's programs are linked with, or made by: no tests, no build scripts."""
    edges = {node["id"]: node["deps"] for node in metadata["resolve"]["nodes"]}
    rest = [i for i in metadata["workspace_members"] if packages[i]["name"] == crate]
    if not rest:
        sys.exit(f"there is no crate {crate} in the workspace")
    seen = set(rest)
    while rest:
        for edge in edges[rest.pop()]:
            if edge["pkg"] not in seen and any(kind["kind"] is None for kind in edge["dep_kinds"]):
                seen.add(edge["pkg"])
                rest.append(edge["pkg"])
    return seen


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
