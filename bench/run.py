#!/usr/bin/env python3
"""Measures the shipped coteried beside no tunnel at all and beside wireguard-go, round robin in one run, and prints one JSON
document: commit, command, kernel, every raw round. `--table FILE` prints the medians of such a document as Markdown.

    bench/run.py DIRECTORY-OF-THE-SHIPPED-PROGRAMS [--rounds 3] [--seconds 3] > docs/performance/NAME.json
    bench/run.py --table docs/performance/NAME.json

Needs root, iproute2, iperf3, ping; wireguard-go and wireguard-tools for the rival (left out, and said so, without them).
Two network namespaces and a veth, both ends and the load on the same cores: compare within one document only.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDES = (1, 2)
CLOCK = os.sysconf("SC_CLK_TCK")


def run(*command, check=True, **more):
    return subprocess.run([str(c) for c in command], check=check, capture_output=True, text=True, **more).stdout


class Pair:
    """Two namespaces joined by a veth, 198.51.100.1 and .2."""

    def __init__(self):
        self.names = {s: f"bench-{os.getpid()}-{s}" for s in SIDES}
        self.processes = []
        for name in self.names.values():
            run("ip", "netns", "add", name)
        run("ip", "-n", self.names[1], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.names[2])
        for side, name in self.names.items():
            for command in (["link", "set", "lo", "up"], ["addr", "add", f"198.51.100.{side}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
                run("ip", "-n", name, *command)

    def on(self, side, *command, **more):
        return run("ip", "netns", "exec", self.names[side], *command, **more)

    def start(self, side, *command):
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.names[side], *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.processes.append(process)
        return process

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for name in self.names.values():
            run("ip", "netns", "del", name, check=False)


def wait_until(what, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return
        time.sleep(0.005)
    sys.exit(f"bench: waited {seconds} s for {what.__name__}")


def plain(pair, _work):
    return "198.51.100.2", []


def coterie(programs):
    def up(pair, work):
        hand, daemon = programs / "coterie", programs / "coteried"
        enclave = 'version = 1\n[enclave]\nname = "bench"\npools = ["10.79.0.0/24"]\nlease = "1d"\n[community.all]\n[template.box]\ncommunities = ["all"]\n'
        for side in SIDES:
            enclave += f'[member.side-{side}]\ntemplate = "box"\naddresses = ["10.79.0.{side}"]\nendpoints = ["198.51.100.{side}"]\n'
        (work / "enclave.toml").write_text(enclave)
        run(hand, "enclave", "init", work / "enclave.toml", "--directory", work / "enclave")
        for side in SIDES:
            run(hand, "bundle", "request", f"side-{side}", "--keys", work / f"{side}.keys", "-o", work / f"{side}.request")
        for _ in SIDES:
            for side in SIDES:
                run(hand, "bundle", "issue", "--directory", work / "enclave", work / f"{side}.request", "-o", work / f"{side}.bundle", "--force")
        started = time.monotonic()
        for side in SIDES:
            options = {"bundle": f"{side}.bundle", "keys": f"{side}.keys", "socket": f"{side}.sock", "state": f"{side}.state"}
            pair.start(side, daemon, *[x for o, f in options.items() for x in (f"--{o}", work / f)], "--log", "warn")
        reach(pair, "10.79.0.2")
        return "10.79.0.2", [time.monotonic() - started]

    return up


def wireguard_go(pair, work):
    public = {}
    for side in SIDES:
        key = run("wg", "genkey")
        (work / f"key{side}").write_text(key)
        public[side] = run("wg", "pubkey", input=key).strip()
    for side in SIDES:
        # A socket that an earlier run left would look like one that listens.
        Path(f"/run/wireguard/bwg{side}.sock").unlink(missing_ok=True)
    started = time.monotonic()
    for side in SIDES:
        pair.start(side, "wireguard-go", "-f", f"bwg{side}")

    for side in SIDES:
        def device():
            return Path(f"/run/wireguard/bwg{side}.sock").exists()

        wait_until(device)
        other = 3 - side
        pair.on(side, "wg", "set", f"bwg{side}", "private-key", work / f"key{side}", "listen-port", "51820", "peer", public[other],
                "endpoint", f"198.51.100.{other}:51820", "allowed-ips", f"10.79.1.{other}/32")
        for command in (["addr", "add", f"10.79.1.{side}/24", "dev", f"bwg{side}"], ["link", "set", f"bwg{side}", "mtu", "1420", "up"]):
            run("ip", "-n", pair.names[side], *command)
    reach(pair, "10.79.1.2")
    return "10.79.1.2", [time.monotonic() - started]


def reach(pair, to):
    def answer():
        return subprocess.run(["ip", "netns", "exec", pair.names[1], "ping", "-c", "1", "-W", "0.2", to], capture_output=True).returncode == 0

    wait_until(answer)


def ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def resident(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def pings(pair, to, count, interval):
    out = pair.on(1, "ping", "-q", "-c", count, "-i", interval, to, check=False)
    return float(out.rsplit("=", 1)[1].split("/")[1])


def measure(pair, to, tunnel, seconds):
    """One round of one tunnel."""
    server = pair.start(2, "iperf3", "-s")
    time.sleep(0.3)
    pids = [p.pid for p in pair.processes if tunnel and p is not server]
    load = lambda *more: json.loads(pair.on(1, "iperf3", "-J", "-c", to, "-t", seconds, *more))["end"]
    figures = {"ping_ms": pings(pair, to, 200, "0.005")}
    before = sum(map(ticks, pids))
    one = load()["sum_received"]
    if pids:
        figures["cpu_s_per_gb"] = (sum(map(ticks, pids)) - before) / CLOCK / (one["bytes"] / 1e9)
    figures["tcp1_mbit"] = one["bits_per_second"] / 1e6
    figures["tcp4_mbit"] = load("-P", 4)["sum_received"]["bits_per_second"] / 1e6
    small = load("-u", "-b", "0", "-l", 64)["sum"]
    figures["udp64_delivered_pps"] = small["packets"] * (1 - small["lost_percent"] / 100) / small["seconds"]
    if pids:
        figures["resident_kib"] = max(map(resident, pids))
        before = sum(map(ticks, pids))
        time.sleep(5)
        figures["idle_cpu_percent"] = (sum(map(ticks, pids)) - before) / CLOCK / 5 / len(pids) * 100
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--table")
    options = parser.parse_args()
    if options.table:
        return table(json.loads(Path(options.table).read_text()))
    if not options.programs or os.geteuid() != 0:
        parser.error("needs root and the directory of the shipped programs")
    programs = Path(options.programs).resolve()
    tunnels = {"plain": plain, "coterie": coterie(programs)}
    left_out = [p for p in ("wireguard-go", "wg") if not shutil.which(p)]
    if not left_out:
        tunnels["wireguard_go"] = wireguard_go
    document = {
        "commit": run("git", "-C", Path(__file__).parent, "rev-parse", "HEAD").strip(),
        "command": " ".join(["bench/run.py", "DIRECTORY", f"--rounds {options.rounds}", f"--seconds {options.seconds}"]),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "coteried_bytes": (programs / "coteried").stat().st_size,
        "left_out": left_out,
        "rounds": [],
    }
    for number in range(options.rounds):
        for name, up in tunnels.items():
            print(f"round {number + 1}: {name}", file=sys.stderr)
            pair = Pair()
            with tempfile.TemporaryDirectory() as work:
                try:
                    to, started = up(pair, Path(work))
                    figures = measure(pair, to, bool(started), options.seconds)
                    if started:
                        figures["start_to_first_answer_ms"] = started[0] * 1000
                    document["rounds"].append({"tunnel": name, **figures})
                finally:
                    pair.close()
    json.dump(document, sys.stdout, indent=1)
    print()


def table(document):
    rounds = document["rounds"]
    names = list(dict.fromkeys(r["tunnel"] for r in rounds))
    keys = list(dict.fromkeys(k for r in rounds for k in r if k != "tunnel"))
    print("| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for key in keys:
        cells = []
        for name in names:
            values = [r[key] for r in rounds if r["tunnel"] == name and key in r]
            cells.append(f"{statistics.median(values):.4g} [{min(values):.4g}-{max(values):.4g}]" if values else "-")
        print(f"| {key} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
