#!/usr/bin/env python3
"""The Debian packages under a systemd that runs: one guest as in tests/guest, in which guest.sh beside this file runs.

    tests/package/guest.py DIRECTORY-OF-THE-STATIC-PROGRAMS DIRECTORY-OF-THE-PACKAGES

Needs root and QEMU (no KVM). Ends with 77 where one is missing, and says how to get it.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "guest"))

from guest import Bridge, Guest, alone, look  # noqa: E402
from image import Missing, image  # noqa: E402

OLDER = "0.0.9"
PARTS = ("installed", "booted")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    programs, packages = (Path(argument).resolve() for argument in sys.argv[1:])
    try:
        look()
        # Before the namespace is entered that has no way to a mirror.
        disk = image()
        with alone() as work:
            sys.exit(test(programs, packages, disk, work))
    except Missing as missing:
        print(f"skipped: {missing}")
        sys.exit(77)


def test(programs, packages, disk, work):
    began = time.monotonic()
    files = work / "files"
    files.mkdir()
    for package in packages.glob("*.deb"):
        shutil.copy(package, files / f"new-{package.name.split('_')[0]}.deb")
    build = REPOSITORY / "packaging" / "deb" / "build"
    made = subprocess.run([build, "--version", OLDER, programs, work / "older"], check=True, capture_output=True, text=True)
    for package in map(Path, made.stdout.split()):
        shutil.copy(package, files / f"old-{package.name.split('_')[0]}.deb")
    guest = Guest(work, "one", disk, Bridge("wire", "198.51.100.254/24"), "198.51.100.1/24", files)
    counts = []
    try:
        print(f"guest up after {guest.wait():.1f} s", flush=True)
        for part in PARTS:
            if part != PARTS[0]:
                print(f"guest up again after {guest.reboot():.1f} s", flush=True)
            counts.append(guest.checks(HERE / "guest.sh", part, before="mount -o ro /dev/vdb /mnt"))
    finally:
        guest.close()
    passed, failed = (sum(part) for part in zip(*counts))
    print(f"{passed} passed, {failed} failed, in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    main()
