#!/usr/bin/env python3
"""The life of a real machine as a member. A guest with Debian's kernel and nothing but busybox gets the shipped coteried and a
join token by a seed drive, enrols through a door, because there is no other way, and is brought through restart, upgrade,
reboot, return by ticket, and a copy of its disk.

    config --- gate-1 ---+--- vm-1, vm-2, copies of them (QEMU)        config and gate-1 are network namespaces
    server     the door  wire

    tests/guest/member.py DIRECTORY-OF-THE-SHIPPED-PROGRAMS

Needs root and QEMU (no KVM). Ends with 77 where one is missing, and says how to get it; with COTERIE_LAB_REQUIRED in the
environment that is a failure.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from guest import Bridge, Guest, alone, ip, look
from image import Missing, disk, require
from kernel import kernel

SERVER = "203.0.113.1"
DOOR = "198.51.100.2"
FILES_PORT = 8080
ENCLAVE = """\
version = 1
[enclave]
name = "shelf"
pools = ["10.80.0.0/24"]
lease = "1h"
[community.all]
[template.gate]
communities = ["all"]
door = true
[template.sourced]
communities = ["all"]
return = "source"
[template.ticketed]
communities = ["all"]
return = "ticket"
"""
# How long what takes milliseconds on an idle machine may take under emulation on a busy one.
DEADLINE = 60


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    programs = Path(sys.argv[1]).resolve()
    try:
        look()
        require({"genisoimage": "genisoimage", "ping": "iputils-ping"})
        # Before the namespace is entered that has no way to a mirror.
        image = kernel()
        with alone() as work:
            sys.exit(test(programs, image, work))
    except Missing as missing:
        print(f"skipped: {missing}")
        sys.exit(1 if "COTERIE_LAB_REQUIRED" in os.environ else 77)


def test(programs, image, work):
    began = time.monotonic()
    report = Report()
    # Names of namespaces and sockets are this test's alone, and end with its mounts.
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(Site(programs, work))
        print(f"server and door up after {time.monotonic() - began:.1f} s", flush=True)
        machines = [Machine(site, image, name, number) for number, name in enumerate(("vm-1", "vm-2"), 1)]
        for machine in machines:
            stack.callback(machine.off)
        try:
            by_source(site, machines[0], report)
            by_ticket(site, machines[1], report)
        except (Failed, RuntimeError) as failure:
            report.failed(failure)
            for machine in machines:
                print(machine.said())
            print("\n".join(f"  {line}" for line in site.log("gate-1").splitlines()[-20:]))
            print("\n".join(f"  {entry}" for entry in site.audit()[-12:]))
    print(f"{report.passed} passed, {report.failures} failed, in {time.monotonic() - began:.0f} s")
    return 1 if report.failures else 0


def by_source(site, vm, report):
    """A machine whose template says `return = "source"`: a new token lets it in again, and nothing else."""
    token = site.token("sourced", vm.name)
    vm.on(token)
    report.ok(f"enrols by a token from its seed drive, through the door: {vm.time_to_answer()}")
    inside = vm.reached()
    entry = site.newest("member.enrol", vm.name)
    expect(entry["detail"]["door"] == "gate-1" and entry["detail"]["how"] == "new", f"the audit log says {entry}")
    routes = vm.must("ip route show table main").splitlines()
    expect(all("dev coterie0" in route or route.startswith("198.51.100.0/24 dev eth0") for route in routes), f"it has {routes}")
    status, text = vm.guest.run(f"nc -w 2 {SERVER} 4750 </dev/null")
    expect(status == 1 and "can't connect" in text, f"it has a way to the server: {text}")
    report.ok("has no way to the server; the audit log says by which door it came")
    vm.is_dark()
    report.ok("answers nothing in clear")

    before = vm.pid()
    took = vm.restarted("kill -9 $(pidof coteried)", before)
    vm.is_who_it_was(inside, entry)
    report.ok(f"kill -9 of the agent: recovered by itself, reached again {took:.1f} s later, the same member")

    before = vm.pid()
    # Over the enclave, as a package from a mirror would come.
    site.offer()
    # nc must not see an end of its input, of which it would tell the other side.
    vm.must(f"""cd /disk/bin; mkfifo /run/quiet; tries=0
        until nc {site.door} {FILES_PORT} 0<>/run/quiet >coteried.new; do tries=$((tries + 1)); [ $tries -lt 200 ] || exit 1; done
        chmod 755 coteried.new; echo '{site.newer}  coteried.new' | sha256sum -c""")
    took = vm.restarted("mv /disk/bin/coteried.new /disk/bin/coteried && kill $(pidof coteried)", before)
    runs = vm.must("sha256sum /proc/$(pidof coteried)/exe").split()[0]
    expect(runs == site.newer, f"another file runs: {runs}")
    vm.is_who_it_was(inside, entry)
    report.ok(f"upgrade of the agent, fetched through the enclave: the new file runs, reached {took:.1f} s later, the same member")

    vm.reboot()
    said = vm.ended()
    expect(vm.must("test -e /disk/state/identity") == "" and "no identity" in said, f"it says {said}")
    vm.is_not_reached(inside)
    report.ok("reboot without a token: the old keys, though on its disk, let it in nowhere")

    vm.must(f"rm /run/ended; echo '{token}' >/run/token; sh /run/serve >/dev/null 2>&1 3>&- &")
    said = vm.ended()
    expect("refuses this machine" in said, f"it says {said}")
    refusal = site.newest("member.refuse")
    expect("used" in refusal["detail"]["reason"] and refusal["detail"]["door"] == "gate-1", f"the audit log says {refusal}")
    expect(site.newest("member.enrol", vm.name)["seq"] == entry["seq"], "it has enrolled")
    vm.is_not_reached(inside)
    report.ok(f"the spent token: refused; the audit log says: {refusal['detail']['reason']}")

    vm.reboot(site.token("sourced", vm.name))
    report.ok(f"reboot with a new token: {vm.time_to_answer()}")
    vm.reached()
    again = site.newest("member.enrol", vm.name)
    expect(again["detail"]["how"] == "replaced", f"the audit log says {again}")
    expect(again["detail"]["key"] != entry["detail"]["key"], "it came back with its old keys")
    report.ok("it has new keys, and its name again")
    # By which it is known that the wire would have carried an answer.
    vm.is_dark()
    vm.must("coterie unlock")
    until("it answers in clear", lambda: pinged([], vm.outside))
    report.ok("it answers in clear only once it is unlocked")
    vm.off()


def by_ticket(site, vm, report):
    """A machine whose template says `return = "ticket"`: what is on its disk lets it in again, once."""
    vm.on(site.token("ticketed", vm.name))
    vm.time_to_answer()
    inside = vm.reached()
    entry = site.newest("member.enrol", vm.name)
    old = vm.must("sha256sum /disk/state/ticket")
    # The machine stands still while its disk is copied.
    vm.stop()
    copy = Machine(site, vm.image, "vm-2-copy", 3, called=vm.name)
    shutil.copyfile(vm.disk, copy.disk)
    vm.on()
    report.ok(f"returns by its ticket, without token and seed drive: {vm.time_to_answer()}")
    expect(vm.must("sha256sum /disk/state/ticket") != old, "it still has the old ticket")
    again = site.newest("member.enrol", vm.name)
    expect(again["seq"] != entry["seq"] and again["detail"]["how"] == "replaced", f"the audit log says {again}")
    expect(again["detail"]["key"] != entry["detail"]["key"], "it came back with its old keys")
    report.ok("with new keys, and another ticket for the next time")

    copy.on()
    try:
        said = copy.ended()
        expect("refuses this machine" in said, f"it says {said}")
        refusal = site.newest("member.refuse")
        expect("cloned" in refusal["detail"]["reason"], f"the audit log says {refusal}")
        copy.is_dark()
    finally:
        copy.off()
    report.ok(f"a cold clone, with the ticket that was used: refused; the audit log says: {refusal['detail']['reason']}")
    expect(vm.reached() == inside, "it has another address")
    vm.is_who_it_was(inside, again)
    report.ok("the machine that was copied goes on")


class Failed(Exception):
    """Something is not as it should be."""


def expect(condition, what):
    if not condition:
        raise Failed(what)


class Report:
    def __init__(self):
        self.passed = self.failures = 0

    def ok(self, what):
        self.passed += 1
        print(f"ok     {what}", flush=True)

    def failed(self, what):
        self.failures += 1
        print(f"FAILED {what}", flush=True)


def until(what, probe, seconds=DEADLINE):
    """Polls until `probe` gives something. What it gave."""
    deadline = time.monotonic() + seconds
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(0.02)
    return found


def pinged(start, address):
    return subprocess.run([*start, "ping", "-q", "-c", "1", "-W", "1", address], capture_output=True).returncode == 0


class Site:
    """The server in namespace `config`, and the door in namespace `gate-1` in front of it."""

    def __init__(self, programs, work):
        self.programs, self.work = programs, work
        self.processes = {}
        self.bridge = Bridge("wire", "198.51.100.254/24")
        for namespace in ("config", "gate-1"):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        ip("link", "add", "gate", "type", "veth", "peer", "name", "eth0", "netns", "gate-1")
        ip("link", "set", "gate", "master", "wire", "up")
        ip("-n", "gate-1", "address", "add", f"{DOOR}/24", "dev", "eth0")
        ip("-n", "gate-1", "link", "set", "eth0", "up")
        # The door has one outside address; the cable to the server needs none of its own.
        ip("-n", "gate-1", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", "config")
        ip("-n", "config", "address", "add", f"{SERVER}/32", "dev", "eth0")
        for namespace, interface, there, source in (("gate-1", "eth1", SERVER, DOOR), ("config", "eth0", DOOR, SERVER)):
            ip("-n", namespace, "link", "set", interface, "up")
            ip("-n", namespace, "route", "add", f"{there}/32", "dev", interface, "src", source)

    def __enter__(self):
        directory = self.work / "server"
        key = self.run("config", "coterie-server", "init", "--directory", directory)
        key = next(line for line in key.splitlines() if line.startswith("coterie-key-1."))
        self.spawn("config", "coterie-server", "serve", "--directory", directory, "--listen", f"{SERVER}:4750", "--advertise",
                   f"{SERVER}:4750", "--name", SERVER, "--health", "127.0.0.1:4751")
        until("the server is ready", lambda: " ready " in self.log("config"))
        self.person = {"COTERIE_SERVER": f"https://{SERVER}:4750", "COTERIE_CA": str(directory / "ca.pem"), "COTERIE_KEY": key}
        self.person["COTERIE_KEY"] = self.coterie("tenant", "create", "acme").strip()
        (self.work / "enclave.toml").write_text(ENCLAVE)
        self.coterie("apply", "-f", self.work / "enclave.toml", "--yes")
        (self.work / "token").write_text(self.token("gate", "gate-1"))
        (self.work / "token").chmod(0o600)
        (self.work / "gate-1").mkdir(mode=0o700)
        self.socket = self.work / "gate-1.sock"
        self.spawn("gate-1", "coteried", "--token", self.work / "token", "--name", "gate-1", "--state", self.work / "gate-1",
                   "--socket", self.socket, "--outside", "eth0")
        until("the door is ready", lambda: " ready " in self.log("gate-1"))
        self.door = self.member("gate-1")["addresses"][0]
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.kill()
            process.wait()

    def offer(self):
        """Members can fetch a newer coteried from the door, once. It differs from the first by what comes after the program."""
        newer = self.work / "coteried.new"
        newer.write_bytes((self.programs / "coteried").read_bytes() + b"newer")
        self.newer = hashlib.sha256(newer.read_bytes()).hexdigest()
        command = ["ip", "netns", "exec", "gate-1", "busybox", "nc", "-l", "-p", str(FILES_PORT)]
        self.processes["files"] = subprocess.Popen(command, stdin=newer.open("rb"), stdout=subprocess.DEVNULL)

    def spawn(self, namespace, program, *arguments):
        with (self.work / f"{namespace}.log").open("w") as log:
            command = ["ip", "netns", "exec", namespace, self.programs / program, *arguments]
            self.processes[namespace] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def log(self, namespace):
        process = self.processes[namespace]
        text = (self.work / f"{namespace}.log").read_text(errors="replace")
        expect(process.poll() is None, f"{process.args[4]} ended:\n{text}")
        return text

    def run(self, namespace, program, *arguments, env=None):
        command = ["ip", "netns", "exec", namespace, self.programs / program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})})
        expect(done.returncode == 0, f"{program} {arguments[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def coterie(self, *arguments):
        return self.run("config", "coterie", *arguments, env=self.person)

    def token(self, template, name):
        return self.coterie("token", "create", "--template", template, "--name", name).strip()

    def member(self, name):
        found = json.loads(self.coterie("get", "members", name, "--output", "json"))
        return found[0] if isinstance(found, list) else found

    def audit(self):
        lines = self.coterie("audit", "tail", "--lines", "100", "--output", "json").splitlines()
        return [json.loads(line) for line in lines]

    def newest(self, action, name=""):
        entries = [entry for entry in self.audit() if entry["action"] == action and entry["object"].endswith(name)]
        expect(entries, f"the audit log has no {action} of {name}")
        return max(entries, key=lambda entry: entry["seq"])

    def ping(self, address):
        """From the door; not in clear, which would not leave it."""
        return pinged(["ip", "netns", "exec", "gate-1"], address)


class Bare(Guest):
    """A guest whose QEMU ends where it would start anew."""

    def __init__(self, *arguments):
        self.start(*arguments, memory=160, more=["-no-reboot"])


class Machine:
    """A machine with a disk of its own, which is on or off."""

    def __init__(self, site, image, name, number, called=None):
        self.site, self.image, self.name = site, image, name
        self.called, self.outside = called or name, f"198.51.100.{10 + number}"
        self.disk = site.work / f"{name}.raw"
        empty = site.work / f"{name}.empty"
        empty.mkdir()
        disk(empty, self.disk, "96M", "machine")
        self.guest, self.starts = None, 0

    def on(self, token=None):
        """Starts it; with a token, which comes by a seed drive that has the agent too."""
        self.starts += 1
        drives = [f"file={self.disk},format=raw,if=virtio"]
        if token:
            drives.append(f"file={self.seed(token)},format=raw,if=virtio,readonly=on")
        append = f"guest.name={self.called} guest.address={self.outside}/24 guest.peer={self.site.door} panic=-1"
        self.guest = Bare(self.site.work, f"{self.name}.{self.starts}", self.image, self.site.bridge, append, drives)

    def seed(self, token):
        """A drive as cloud-init's, with the label that it looks for."""
        files, drive = (self.site.work / f"{self.name}.{self.starts}.{what}" for what in ("seed", "iso"))
        files.mkdir()
        for program in ("coteried", "coterie"):
            shutil.copy(self.site.programs / program, files)
        (files / "token").write_text(token)
        (files / "meta-data").write_text(f"instance-id: {self.name}.{self.starts}\nlocal-hostname: {self.called}\n")
        (files / "user-data").write_text("#cloud-config\n")
        subprocess.run(["genisoimage", "-quiet", "-output", drive, "-volid", "cidata", "-rock", files], check=True)
        return drive

    def stop(self):
        """Starts it anew as far as the point where QEMU ends instead."""
        self.guest.run("(usleep 100000; sync; reboot -f) >/dev/null 2>&1 3>&- &")
        self.guest.process.wait(DEADLINE)
        self.guest = None

    def reboot(self, token=None):
        self.stop()
        self.on(token)

    def off(self):
        if self.guest:
            self.guest.close()
            self.guest = None

    def must(self, script):
        status, text = self.guest.run(script)
        expect(status == 0, f"{self.name}: {script} ended with {status}: {text}")
        return text

    def time_to_answer(self):
        until(f"{self.name} has had an answer", lambda: self.guest.run("test -e /run/answered")[0] == 0)
        began, answered = map(float, self.must("cat /run/began /run/answered").split())
        return f"{answered - began:.2f} s from the start of user space to an answered ping ({began:.2f} s after the kernel's start)"

    def pid(self):
        return self.must("pidof coteried")

    def reached(self):
        """Its inside address, at which it answers the door."""
        inside = self.site.member(self.called)["addresses"][0]
        until(f"{self.name} answers at {inside}", lambda: self.site.ping(inside))
        return inside

    def is_not_reached(self, inside):
        for _ in range(3):
            expect(not self.site.ping(inside), f"{self.name} answers at {inside}")

    def is_dark(self):
        """A neighbour on its wire, who is no member, gets no answer in clear."""
        expect(not pinged([], self.outside), f"{self.name} answers at {self.outside}")

    def restarted(self, script, before):
        """Does what ends the agent. Seconds until another one runs and is reached."""
        began = time.monotonic()
        self.must(script)
        until("another agent runs", lambda: self.guest.run("pidof coteried")[1] not in ("", before))
        until("the agent is ready", lambda: self.guest.run("coterie status")[0] == 0)
        self.reached()
        return time.monotonic() - began

    def is_who_it_was(self, inside, enrolled):
        """No enrolment since, and the same address."""
        newest = self.site.newest("member.enrol", self.called)
        expect(newest["seq"] == enrolled["seq"], f"it has enrolled anew: {newest}")
        expect(self.site.member(self.called)["addresses"][0] == inside, "it has another address")

    def ended(self):
        """What coteried said, once it has ended for good."""
        until(f"coteried of {self.name} ends", lambda: self.guest.run("test -e /run/ended")[0] == 0)
        return self.must("cat /run/log")

    def said(self):
        if self.guest is None:
            return f"{self.name} is off"
        try:
            text = self.guest.run("uptime; ip address; tail -n 40 /run/log", seconds=10)[1]
            return f"{self.name}:\n{text}\n{self.guest.end_of_console()}"
        except RuntimeError as error:
            return str(error)


if __name__ == "__main__":
    main()
