"""The disk of a guest: Debian 12 with systemd 252 and Debian's kernel for virtual machines, made once and kept in target/guest/.

Beside Debian's packages the disk has two units of ours. guest-network.service sets the address that the kernel's command line
names (guest.address=198.51.100.1/24). guest-agent.service runs what comes by the virtio-serial port `guest.agent`: a script
in base64 a line; back come its lines, each behind a `|`, and `=` with its exit status.

Debian comes from the mirror that apt of this machine uses, or from $GUEST_MIRROR.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SUITE = "bookworm"
PACKAGES = ("systemd-sysv", "udev", "dbus", "kmod", "linux-image-cloud-amd64", "iproute2", "iputils-ping", "nftables", "procps")
SIZE = "1500M"
CACHE = Path(__file__).resolve().parents[2] / "target" / "guest"

# What keeps a guest busy after its start and has no part in any test.
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
          "fstrim.timer", "systemd-pstore.service", "systemd-networkd-wait-online.service", "getty@tty1.service",
          "serial-getty@ttyS0.service")

FILES = {
    "etc/systemd/system/guest-network.service": (0o644, """\
[Unit]
Description=Address of this guest, from the kernel's command line
DefaultDependencies=no
Wants=network-pre.target
After=network-pre.target systemd-udev-settle.service
Requires=systemd-udev-settle.service
Before=network.target network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/guest-network

[Install]
WantedBy=network-online.target multi-user.target
"""),
    "usr/local/sbin/guest-network": (0o755, """\
#!/bin/bash
set -euo pipefail
for word in $(</proc/cmdline); do
    case $word in
    guest.address=*)
        ip address add "${word#*=}" dev eth0
        ip link set eth0 up
        ;;
    esac
done
"""),
    "etc/systemd/system/guest-agent.service": (0o644, """\
[Unit]
Description=Runs what comes by the virtio-serial port
Requires=dev-virtio\\x2dports-guest.agent.device
After=dev-virtio\\x2dports-guest.agent.device

[Service]
ExecStart=/usr/local/sbin/guest-agent
KillMode=process

[Install]
WantedBy=multi-user.target
"""),
    "usr/local/sbin/guest-agent": (0o755, """\
#!/bin/bash
# What runs here sees the environment of a login as root.
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec 3<>/dev/virtio-ports/guest.agent
echo "@$(</proc/sys/kernel/random/boot_id)" >&3
while read -r line <&3; do
    base64 -d <<<"$line" >/run/guest-script
    bash /run/guest-script </dev/null 3>&- 2>&1 | sed -u 's/^/|/' >&3
    echo "=${PIPESTATUS[0]}" >&3
done
"""),
    "usr/sbin/policy-rc.d": (0o755, "#!/bin/sh\nexit 101\n"),
    "etc/fstab": (0o644, "/dev/vda / ext4 defaults 0 0\n"),
    # Empty: another one at every first start, and no presets applied.
    "etc/machine-id": (0o444, ""),
}


class Missing(Exception):
    """This machine lacks something; the message says what, and how to get it."""


def image(more=()):
    """The directory with `root.raw`, `vmlinuz` and `initrd.img` of a guest with these Debian packages too."""
    packages = PACKAGES + tuple(more)
    recipe = Path(__file__).read_bytes() + " ".join(packages).encode()
    made = CACHE / hashlib.sha256(recipe).hexdigest()[:16]
    if made.is_dir():
        return made
    require({"debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs", "unshare": "util-linux"})
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=CACHE, prefix="new-") as work:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.is_dir():
            return made
        build(Path(work), packages)
        fresh = Path(work, "image")
        fresh.rename(made)
    return made


def build(work, packages):
    root, log, fresh = work / "root", CACHE / "build.log", work / "image"
    fresh.mkdir()
    address = mirror()
    bootstrap = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", SUITE, str(root), address]
    finish = f"systemctl enable guest-network.service guest-agent.service; systemctl mask {' '.join(MASKED)}"
    with log.open("w") as out:
        # In namespaces of its own: neither a mount nor a process is left of it, however it ends.
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        if subprocess.run(alone + bootstrap, stdout=out, stderr=out).returncode != 0:
            raise RuntimeError(f"debootstrap failed; the end of {log}:\n" + "".join(log.read_text().splitlines(True)[-15:]))
        shutil.rmtree(root / "var/cache/apt")
        (root / "var/cache/apt/archives/partial").mkdir(parents=True)
        for name, (mode, text) in FILES.items():
            path = root / name
            path.unlink(missing_ok=True)
            path.write_text(text)
            path.chmod(mode)
        subprocess.run(["chroot", root, "sh", "-ec", finish], check=True, stdout=out, stderr=out)
        for name in ("vmlinuz", "initrd.img"):
            shutil.copyfile(next((root / "boot").glob(f"{name}-*")), fresh / name)
        disk(root, fresh / "root.raw", SIZE, "root")


def disk(tree, to, size, label):
    """Makes a file with an ext4 file system out of a directory; needs no mount."""
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", label, "-d", tree, to, size], check=True, capture_output=True)


def mirror():
    if "GUEST_MIRROR" in os.environ:
        return os.environ["GUEST_MIRROR"]
    wanted = ["Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main"]
    known = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted], capture_output=True, text=True)
    if not known.stdout:
        raise Missing("apt of this machine knows no mirror of Debian; name one in $GUEST_MIRROR")
    return known.stdout.split()[0]


def require(programs):
    """`programs`: name to Debian package."""
    found = os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin:/sbin"
    missing = sorted({package for program, package in programs.items() if not shutil.which(program, path=found)})
    if missing:
        raise Missing(f"as root: apt-get install --no-install-recommends {' '.join(missing)}")
    os.environ["PATH"] = found
