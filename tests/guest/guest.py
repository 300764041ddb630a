"""Guests on QEMU, without KVM: started on a bridge, spoken to by a virtio-serial port.

    with alone() as work:                       # namespaces of our own: whatever is made there ends with them
        bridge = Bridge("br0")
        one = Guest(work, "one", image(), bridge, "198.51.100.1/24", files=directory)
        status, text = one.run("uname -r")

The guest has `files`, a directory, as a read-only disk at /dev/vdb. Its own disk is the image; what it writes is thrown away.
"""

import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from image import CACHE, Missing, disk, require

CHECKS = Path(__file__).resolve().parent / "checks.sh"

INSIDE = "GUEST_TEST_INSIDE"
PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "unshare": "util-linux", "ip": "iproute2", "mkfs.ext4": "e2fsprogs",
            "taskset": "util-linux", "setpriv": "util-linux"}
# A guest that takes longer hangs; on a busy machine a start takes most of a minute.
STARTED = 240


def look():
    """Says by an exception what of all this is missing here."""
    if os.geteuid() != 0:
        raise Missing("this needs root: for namespaces, and for making the disk")
    require(PROGRAMS)


@contextlib.contextmanager
def alone():
    """Runs the program that calls it once more, as the first process of new network, mount and process namespaces, and there
    gives it a directory. When either ends, by itself, by a signal or by SIGKILL, nothing is left but that directory's name."""
    if INSIDE in os.environ:
        yield Path(os.environ[INSIDE])
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="run-") as work:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
        child = subprocess.Popen(command + [sys.executable, *sys.argv], env={**os.environ, INSIDE: work})
        try:
            status = child.wait()
        except KeyboardInterrupt:
            status = 130
        finally:
            child.kill()
            child.wait()
    sys.exit(status)


class Bridge:
    """The wire between guests, in the network namespace that this runs in."""

    def __init__(self, name, address=None):
        self.name = name
        self.ports = 0
        ip("link", "add", name, "type", "bridge", "stp_state", "0", "forward_delay", "0")
        if address:
            ip("address", "add", address, "dev", name)
        ip("link", "set", name, "up")

    def port(self):
        """A tap interface on the bridge, and its number."""
        self.ports += 1
        tap = f"{self.name}-{self.ports}"
        ip("tuntap", "add", tap, "mode", "tap")
        ip("link", "set", tap, "master", self.name, "up")
        return tap, self.ports


class Guest:
    """A guest that has been started. `wait` until it is up; `run` waits by itself."""

    def __init__(self, work, name, image, bridge, address, files=None, memory=384):
        append = f"root=/dev/vda rw net.ifnames=0 systemd.hostname={name} guest.address={address}"
        drives = [f"file={image}/root.raw,format=raw,if=virtio,snapshot=on"]
        if files is not None:
            payload = work / f"{name}.files"
            size = sum(f.stat().st_size for f in files.rglob("*") if f.is_file())
            disk(files, payload, f"{size // 2**20 * 5 // 4 + 16}M", "files")
            drives.append(f"file={payload},format=raw,if=virtio,readonly=on")
        self.start(work, name, image, bridge, append, drives, memory)

    def start(self, work, name, image, bridge, append, drives, memory, more=()):
        """Starts it from the directory `image` with `vmlinuz` and `initrd.img`; `drives` and `more` are words for QEMU."""
        self.name = name
        self.console = work / f"{name}.console"
        tap, number = bridge.port()
        channel = work / f"{name}.agent"
        command = [
            *("taskset", "-c", str(max(os.sched_getaffinity(0))), "nice", "-n", "5"),
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-name", name),
            *("-machine", "q35", "-accel", "tcg,tb-size=96", "-cpu", "max", "-smp", "1", "-m", str(memory)),
            *("-kernel", image / "vmlinuz", "-initrd", image / "initrd.img", "-append", f"console=ttyS0 quiet {append}"),
            *("-serial", f"file:{self.console}", *more),
            *(word for drive in drives for word in ("-drive", drive)),
            *("-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:77:00:{number:02x},romfile="),
            *("-device", "virtio-serial-pci,id=serial", "-chardev", f"socket,id=agent,path={channel},server=on,wait=off"),
            *("-device", "virtserialport,bus=serial.0,id=agent,chardev=agent,name=guest.agent"),
        ]
        self.log = work / f"{name}.qemu"
        # Once the guest holds the port open, whatever the host wrote is delivered; so the host connects first.
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stderr=self.log.open("w"))
        self.lines = self.connect(channel)
        self.started = time.monotonic()
        self.boot = None

    def connect(self, channel):
        self.socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.socket.connect(str(channel))
                break
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError(f"QEMU of guest {self.name} ended: {self.log.read_text()}") from None
                time.sleep(0.02)
        return self.socket.makefile("rb")

    def wait(self):
        """Waits until the guest's agent says that it is there; again after `reboot`. Gives back how many seconds that took."""
        if self.boot is None:
            self.boot = self.line(self.started + STARTED)[1:]
            self.seconds = time.monotonic() - self.started
        return self.seconds

    def run(self, script, seconds=120, show=None):
        """Runs a script of bash as root. Gives back its exit status and what it printed; `show` is called with each line."""
        self.wait()
        deadline = time.monotonic() + seconds
        self.socket.settimeout(None)
        self.socket.sendall(base64.b64encode(script.encode()) + b"\n")
        printed = []
        while (line := self.line(deadline))[0] == "|":
            printed.append(line[1:])
            if show:
                show(line[1:])
        if line[0] != "=":
            raise RuntimeError(f"guest {self.name} started anew while a script ran; {self.end_of_console()}")
        return int(line[1:]), "\n".join(printed)

    def checks(self, script, part, before=""):
        """Runs one part of a script of checks behind checks.sh, showing its lines as they come. Gives back how many checks passed
        and how many failed; a script that ends in the middle is one of them."""
        text = "\n".join((before, f"set -- {part}", CHECKS.read_text(), script.read_text()))
        status, printed = self.run(text, seconds=300, show=lambda line: print(line, flush=True))
        lines = printed.splitlines()
        passed, failed = (sum(line.startswith(word) for line in lines) for word in ("ok ", "FAILED "))
        if status != 0:
            print(f"FAILED {part}: the script ended with {status}")
            failed += 1
        return passed, failed

    def reboot(self):
        """Starts the guest anew, as its own administrator would; what it has written stays."""
        self.run("systemd-run --quiet --on-active=100ms --timer-property=AccuracySec=1ms systemctl reboot")
        self.boot, self.started = None, time.monotonic()
        return self.wait()

    def line(self, deadline):
        self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            line = self.lines.readline()
        except TimeoutError:
            raise RuntimeError(f"guest {self.name} does not answer; {self.end_of_console()}") from None
        if not line:
            raise RuntimeError(f"guest {self.name} ended; {self.end_of_console()}")
        return line.decode(errors="replace").rstrip("\r\n")

    def end_of_console(self):
        lines = self.console.read_text(errors="replace").splitlines() if self.console.exists() else []
        return "the end of its console:\n  " + "\n  ".join(lines[-20:])

    def close(self):
        self.process.kill()
        self.process.wait()


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
