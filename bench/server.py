#!/usr/bin/env python3
"""Measures coterie-server as it is shipped: members that enrol, each a coteried process of its own with its own keys, request and
TLS connection; members that follow; and how fast a change reaches them. Prints one JSON object, with every round.

    bench/server.py [--programs target/release] [--agents 1000] [--streams 5000] [--rounds 3]

Everything shares this machine's cores. Traffic goes over loopback.
"""

import argparse
import concurrent.futures
import json
import os
import platform
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

ADDRESS = "127.86.19.1"
PORT = 4750


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", default="target/release", help="where coterie-server, coteried and examples/agents are")
    parser.add_argument("--agents", type=int, default=1000, help="members that enrol as separate processes")
    parser.add_argument("--at-once", type=int, default=16, help="processes at one time")
    parser.add_argument("--groups", type=int, default=50, help="communities that the members are spread over")
    parser.add_argument("--streams", type=int, default=5000, help="members that follow")
    parser.add_argument("--changes", type=int, default=10, help="changes whose way to everybody is measured")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


class Server:
    """A server with a tenant, made anew."""

    def __init__(self, programs):
        self.directory = tempfile.mkdtemp(prefix="coterie-bench-")
        self.state = os.path.join(self.directory, "server")
        program = os.path.join(programs, "coterie-server")
        out = subprocess.run([program, "init", "-d", self.state], check=True, capture_output=True, text=True).stdout
        operator = next(line for line in out.splitlines() if line.startswith("coterie-key-"))
        at = f"{ADDRESS}:{PORT}"
        self.log = open(os.path.join(self.directory, "log"), "w")
        self.process = subprocess.Popen(
            [program, "serve", "-d", self.state, "--listen", at, "--advertise", at, "--name", ADDRESS, "--log", "warn"],
            stderr=self.log,
        )
        self.context = ssl.create_default_context(cafile=os.path.join(self.state, "ca.pem"))
        for _ in range(200):
            try:
                made = self.call("POST", "/v1/tenants", {"name": "acme"}, operator)
                break
            except OSError:
                time.sleep(0.02)
        self.key = made["owner"]["key"]

    def call(self, method, path, body=None, key=None, content="application/json"):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        request = urllib.request.Request(f"https://{ADDRESS}:{PORT}{path}", data=data, method=method)
        request.add_header("authorization", f"Bearer {key or self.key}")
        request.add_header("content-type", content)
        with urllib.request.urlopen(request, context=self.context) as answer:
            return json.load(answer)

    def resident_mb(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024 / 1e6

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory)


def enclave(groups):
    text = 'version = 1\n[enclave]\nname = "load"\npools = ["10.0.0.0/8"]\n'
    for n in range(groups):
        text += f'[community.group-{n}]\n[template.group-{n}]\ncommunities = ["group-{n}"]\n'
    return text


def enrol(server, options):
    """Each agent is a process; gives how many enrolled a second."""
    server.call("PUT", "/v1/enclaves/load", enclave(options.groups), content="application/toml")
    tokens = []
    for n in range(options.groups):
        wanted = {"template": f"group-{n}", "uses": options.agents, "ttl_seconds": 3600}
        path = os.path.join(server.directory, f"token-{n}")
        with open(path, "w") as file:
            file.write(server.call("POST", "/v1/enclaves/load/tokens", wanted)["text"])
        tokens.append(path)
    coteried = os.path.join(options.programs, "coteried")

    def agent(n):
        place = os.path.join(server.directory, f"agent-{n}")
        os.mkdir(place, 0o700)
        command = [coteried, "--enrol-only", "--name", f"agent-{n}", "--token", tokens[n % options.groups], "--log", "error"]
        for option in ("bundle", "keys", "state", "socket"):
            command += [f"--{option}", os.path.join(place, option)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"agent-{n}: {done.stderr}")

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        for _ in pool.map(agent, range(options.agents)):
            pass
    took = time.monotonic() - began
    return {"per_second": options.agents / took, "seconds": took, "server_resident_mb": server.resident_mb()}


def follow(server, options):
    command = [os.path.join(options.programs, "examples", "agents"), "--server", f"{ADDRESS}:{PORT}"]
    command += ["--authority", os.path.join(server.state, "ca.pem"), "--pid", str(server.process.pid)]
    command += ["--streams", str(options.streams), "--groups", str(max(1, options.streams // 50))]
    command += ["--changes", str(options.changes)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "COTERIE_KEY": server.key})
    return json.loads(out.stdout)


def commit():
    out = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return out.stdout.strip() or "unknown"


def main():
    options = arguments()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rounds = {"enrol": [], "follow": []}
    for n in range(options.rounds):
        for what, measure in (("enrol", enrol), ("follow", follow)):
            server = Server(options.programs)
            try:
                rounds[what].append(measure(server, options))
            finally:
                server.end()
            print(f"round {n + 1}: {what}: {json.dumps(rounds[what][-1])}", file=sys.stderr)
    report = {
        "commit": commit(),
        "command": " ".join(sys.argv),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "load_at_end": os.getloadavg(),
        "rounds": rounds,
    }
    print(json.dumps(report, indent=2))


main()
