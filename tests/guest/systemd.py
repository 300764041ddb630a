#!/usr/bin/env python3
"""The shipped coteried under a systemd that runs: two guests, each with Debian's systemd as its first process and the packaged
unit, on one wire. In guest `one` runs systemd.sh beside this file; guest `two` is the member that it speaks with.

    tests/guest/systemd.py DIRECTORY-OF-THE-SHIPPED-PROGRAMS

Needs root and QEMU (no KVM). Ends with 77 where one is missing, and says how to get it.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from guest import Bridge, Guest, alone, look
from image import Missing, image

HERE = Path(__file__).resolve().parent
UNIT = HERE.parents[1] / "packaging" / "coteried.service"
ENCLAVE = """\
version = 1
[enclave]
name = "shelf"
pools = ["10.80.0.0/24"]
lease = "1d"
[community.all]
[template.box]
communities = ["all"]
"""
MEMBERS = ("one", "two", "three", "four")
INSTALL = """\
set -eu
mount -o ro /dev/vdb /mnt
install -m 755 /mnt/coterie /mnt/coteried /usr/bin/
install -m 644 /mnt/coteried.service /etc/systemd/system/
systemctl daemon-reload
"""


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    programs = Path(sys.argv[1]).resolve()
    try:
        look()
        # Before the namespace is entered that has no way to a mirror.
        began = time.monotonic()
        disk = image()
        if (made := time.monotonic() - began) > 1:
            print(f"image made in {made:.0f} s", flush=True)
        with alone() as work:
            sys.exit(test(programs, disk, work))
    except Missing as missing:
        print(f"skipped: {missing}")
        sys.exit(77)


def test(programs, disk, work):
    began = time.monotonic()
    files = prepare(programs, work)
    bridge = Bridge("wire", "198.51.100.254/24")
    guests = []
    try:
        # One after the other: they share a core, and the second starts while the first is of use already.
        for number, name in enumerate(("two", "one")):
            guests.append(Guest(work, name, disk, bridge, f"198.51.100.{2 - number}/24", files))
            print(f"guest {name} up after {guests[-1].wait():.1f} s", flush=True)
            must(guests[-1].run(INSTALL))
        two, one = guests
        must(two.run("coterie up --bundle /mnt/two.bundle --keys /mnt/two.keys"))
        counts = [one.checks(HERE / "systemd.sh", "running")]
        for part in ("booted", "booted_with_a_damaged_bundle"):
            print(f"guest one up again after {one.reboot():.1f} s", flush=True)
            counts.append(one.checks(HERE / "systemd.sh", part))
    finally:
        for guest in guests:
            guest.close()
    passed, failed = (sum(part) for part in zip(*counts))
    print(f"took {time.monotonic() - began:.0f} s")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def prepare(programs, work):
    """The issuer's part: bundles for members one and two, who know each other. Newer bundles of `one` know three, then four."""
    files, issuer = work / "files", work / "issuer"
    files.mkdir()
    issuer.mkdir()
    text = ENCLAVE
    for number, name in enumerate(MEMBERS, 1):
        text += f'[member.{name}]\ntemplate = "box"\naddresses = ["10.80.0.{number}"]\nendpoints = ["198.51.100.{number}"]\n'
    (issuer / "enclave.toml").write_text(text)

    def hand(*arguments):
        subprocess.run([programs / "coterie", *arguments], cwd=issuer, check=True, capture_output=True)

    def issue(name, to):
        hand("bundle", "issue", "--directory", "enclave", f"{name}.request", "-o", to, "--force")

    hand("enclave", "init", "enclave.toml", "--directory", "enclave")
    for name in MEMBERS:
        hand("bundle", "request", name, "--keys", f"{name}.keys", "-o", f"{name}.request")
    for name in ("one", "two", "one", "two"):
        issue(name, f"{name}.bundle")
    for newcomer in ("three", "four"):
        issue(newcomer, f"{newcomer}.bundle")
        issue("one", f"one-knows-{newcomer}.bundle")
    wanted = ["one.bundle", "one.keys", "two.bundle", "two.keys", "one-knows-three.bundle", "one-knows-four.bundle"]
    for path in [issuer / name for name in wanted] + [programs / "coterie", programs / "coteried", UNIT]:
        shutil.copy(path, files)
    return files


def must(result):
    status, text = result
    if status != 0:
        raise RuntimeError(f"a step of the preparation ended with {status}:\n{text}")


if __name__ == "__main__":
    main()
