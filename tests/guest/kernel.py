"""The smallest guest that is a real one: Debian's kernel for virtual machines, and an initial file system with busybox, the
kernel's modules that are named here, and `member.init` beside this file as the first process. Kept in target/guest/.

Kernel and modules come out of Debian's package by apt and dpkg-deb; nothing is installed.
"""

import fcntl
import gzip
import lzma
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from image import CACHE, Missing, require

PACKAGE = "linux-image-cloud-amd64"
# What the guest's devices and coteried's work need; what these need in turn is found out. Kernels build some of it in.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "isofs", "ext4", "tun", "nf_tables", "nft_ct",
           "nft_reject_inet", "nft_reject_netdev", "nft_counter")
# Not found as symbols, but asked for by name at run time.
ALSO = ("crc32c_intel", "crc32c_generic")
PROGRAMS = {"apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg", "busybox": "busybox-static"}


def kernel():
    """The directory with `vmlinuz` and `initrd.img`."""
    require(PROGRAMS)
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "kernel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unpacked = fetch()
        initial(unpacked, unpacked / "initrd.img")
    return unpacked


def fetch():
    try:
        return fetched()
    except Missing:
        # Lists that are old name what mirrors have no more.
        subprocess.run(["apt-get", "update"], capture_output=True)
        return fetched()


def fetched():
    known = subprocess.run(["apt-cache", "depends", PACKAGE], capture_output=True, text=True, check=False).stdout
    names = [line.split()[1] for line in known.splitlines() if "Depends:" in line and "linux-image-" in line]
    if not names:
        raise Missing(f"apt of this machine knows no package {PACKAGE}; its mirrors have to be Debian's")
    made = CACHE / names[0].replace("linux-image", "kernel")
    if made.is_dir():
        return made
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="new-") as work:
        tree = Path(work, "tree")
        got = subprocess.run(["apt-get", "download", names[0]], cwd=work, capture_output=True, text=True)
        if got.returncode != 0:
            raise Missing(f"apt cannot fetch {names[0]}: {got.stderr.strip()}")
        package = next(Path(work).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
        fresh = Path(work, "kernel")
        fresh.mkdir()
        shutil.move(next((tree / "boot").glob("vmlinuz-*")), fresh / "vmlinuz")
        library = next((path for path in (tree / "lib/modules", tree / "usr/lib/modules") if path.is_dir()))
        shutil.move(next(library.iterdir()), fresh / "modules")
        fresh.rename(made)
    return made


def initial(unpacked, to):
    """Writes the initial file system."""
    files = {}
    order = closure(unpacked / "modules")
    for name, bytes_ in order.items():
        files[f"modules/{name}.ko"] = (0o644, bytes_)
    files["modules/order"] = (0o644, "".join(f"{name}\n" for name in order).encode())
    busybox = Path(shutil.which("busybox"))
    files["bin/busybox"] = (0o755, busybox.read_bytes())
    files["init"] = (0o755, (Path(__file__).parent / "member.init").read_bytes())
    fresh = to.with_suffix(".new")
    with gzip.open(fresh, "wb", compresslevel=1) as out:
        archive(out, files)
    fresh.rename(to)


def closure(modules):
    """The modules that are to be loaded, in order, with their bytes."""
    paths = {path.name.split(".ko")[0].replace("-", "_"): path for path in (modules / "kernel").rglob("*.ko*")}
    order = {}

    def add(name):
        path = paths.get(name.replace("-", "_"))
        if path is None or name in order:
            return
        bytes_ = path.read_bytes()
        if path.suffix == ".xz":
            bytes_ = lzma.decompress(bytes_)
        for needed in field(bytes_, "depends").split(","):
            add(needed.replace("-", "_"))
        order[name] = bytes_

    for name in ALSO + MODULES:
        add(name)
    return order


def field(module, key):
    """One of the words that a module says of itself (section .modinfo: strings that end with a zero byte)."""
    start = module.find(f"\0{key}=".encode())
    if start < 0:
        return ""
    start += len(key) + 2
    return module[start:module.index(b"\0", start)].decode()


def archive(out, files):
    """Writes a cpio archive (newc) with these files, and the directories that they and the kernel need."""
    entries = {"dev/console": (stat.S_IFCHR | 0o600, b"", (5, 1))}
    for name, (mode, bytes_) in files.items():
        entries[name] = (stat.S_IFREG | mode, bytes_, (0, 0))
    for parent in {str(parent) for name in entries for parent in Path(name).parents} - {"."}:
        entries[parent] = (stat.S_IFDIR | 0o755, b"", (0, 0))
    # A directory comes before what is in it.
    entries = dict(sorted(entries.items()))
    entries["TRAILER!!!"] = (0, b"", (0, 0))
    for number, (name, (mode, bytes_, device)) in enumerate(entries.items(), 1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(bytes_), 0, 0, *device, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + path
        out.write(head + bytes(-len(head) % 4) + bytes_ + bytes(-len(bytes_) % 4))
