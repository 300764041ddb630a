"""Two members over loopback and somebody on the wire between them, for the selftest."""

from __future__ import annotations

import ipaddress
import json
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import coterie_wire as w
import peer as peer_program
from coterie_wire import Drop
from enclave import Enclave, Issued, prefixes
from membership import Clock
from peer import Peer

HERE = Path(__file__).resolve().parent
LOOPBACK = ("127.0.0.1", 0)


class StillClock(Clock):
    """Stands still until it is moved, so that nothing repeats or ends by itself."""

    def __init__(self):
        self.at, self.wall_at = 1000.0, time.time()

    def running(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.wall_at

    def advance(self, seconds: float) -> None:
        self.at += seconds
        self.wall_at += seconds


class Wire:
    """A socket of somebody who is no member: sends what it likes, and sees what is answered."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(LOOPBACK)

    @property
    def endpoint(self):
        return self.socket.getsockname()

    def give(self, peer: Peer, datagram: bytes) -> list[bytes]:
        """Lets the peer take one datagram; what it sent then."""
        before, sent = peer.received, []
        transmit = peer.member.transmit
        peer.member.transmit = lambda datagram, endpoint: (sent.append(datagram), transmit(datagram, endpoint))
        try:
            self.socket.sendto(datagram, peer.endpoint)
            assert peer.run_until(lambda: peer.received > before, 5), "the datagram was not taken"
        finally:
            peer.member.transmit = transmit
        return sent

    def silent(self, peer: Peer, datagram: bytes, reason: str | None = None) -> None:
        """The peer drops the datagram, for that reason, and sends nothing."""
        before = peer.member.drops.copy()
        sent = self.give(peer, datagram)
        assert sent == [], f"answered with {len(sent)} datagrams"
        reasons = list((peer.member.drops - before).keys())
        assert reasons, "taken, not dropped"
        assert reason is None or reasons == [reason], f"dropped for {reasons}, not for {reason}"


class World:
    """An enclave with two members of one community, "a" and "b", and a wire."""

    def __init__(self, directory: str):
        self.enclave = Enclave(Path(directory))
        self.tag = self.enclave.community()
        self.clock = StillClock()
        self.wire = Wire()
        self.open: list[Peer] = []
        self.issued = {
            "a": Issued("a", prefixes("10.77.1.1/32", "fd77::1/128")),
            "b": Issued("b", prefixes("10.77.1.2/32", "fd77::2/128")),
        }

    def peer(self, name: str, statement: w.Statement | None = None, keys=None, revocations=None, head=None, **options):
        issued = self.issued[name]
        statement = statement or self.enclave.statement(issued, self.tag)
        path = self.enclave.identity(issued, [statement], keys=keys, revocations=revocations, head=head)
        return self.start(path, **options)

    def start(self, path: Path, **options) -> Peer:
        options.setdefault("clock", self.clock)
        self.open.append(Peer(path, LOOPBACK, **options))
        return self.open[-1]

    def pair(self, a=(), b=()) -> tuple[Peer, Peer]:
        return self.peer("a", **dict(a)), self.peer("b", **dict(b))

    def pump(self, reached, *peers: Peer, seconds: float = 5) -> None:
        """Runs the peers until `reached()`."""
        peers = peers or tuple(self.open)
        deadline = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < deadline, f"not reached; drops: {[dict(p.member.drops) for p in peers]}"
            ready = select.select([p.socket for p in peers], [], [], 0.02)[0]
            for peer in peers:
                peer.run_once(0) if peer.socket in ready else peer.member.tick()

    def settle(self, *peers: Peer) -> None:
        """Runs the peers until nothing is on its way between them."""
        peers = peers or tuple(self.open)
        while ready := select.select([p.socket for p in peers], [], [], 0)[0]:
            for peer in peers:
                if peer.socket in ready:
                    peer.run_once(0)

    def session(self, one: Peer, other: Peer):
        return one.member.session_with(other.member.static, self.tag)

    def handshake(self, one: Peer, other: Peer):
        """(session at `one`, session at `other`)."""
        older = self.session(other, one)
        pending = one.member.connect(other.member.static, self.tag, other.endpoint)
        self.pump(lambda: pending.step == "done" and self.session(other, one) is not older, one, other)
        return self.session(one, other), self.session(other, one)

    def captured(self, one: Peer, other: Peer) -> bytes:
        """An initiation of `one` to `other`, taken off the wire."""
        one.member.connect(other.member.static, self.tag, self.wire.endpoint)
        return one.transmitted[-1][0]

    def captured_packet(self, one: Peer, other: Peer) -> bytes:
        """A sealed echo request of `one` to `other`, taken off the wire."""
        session = self.session(one, other)
        kept, session.endpoint = session.endpoint, self.wire.endpoint
        source, destination = (peer_program.own_address(s, 4) for s in (session.own_statement, session.peer_statement))
        one.member.send_packet(session, peer_program.echo_packet(8, source, destination, os.urandom(32)))
        session.endpoint = kept
        return one.transmitted[-1][0]

    def echo(self, one: Peer, other: Peer, destination: str) -> None:
        address = ipaddress.ip_address(destination)
        session = self.session(one, other)
        source = peer_program.own_address(session.own_statement, address.version)
        rest = os.urandom(40)
        kind = peer_program.ECHO[address.version][0]
        one.member.send_packet(session, peer_program.echo_packet(kind, source, address, rest))
        self.pump(lambda: rest in one.replies, one, other)

    def close(self) -> None:
        for peer in self.open:
            peer.socket.close()
        self.wire.socket.close()


@contextmanager
def dropped(reason: str | None = None):
    try:
        yield
    except Drop as drop:
        assert reason is None or drop.reason == reason, f"dropped for {drop.reason}, not for {reason}"
    else:
        raise AssertionError("not dropped")


def flips(datagram: bytes, start: int = 0, end: int | None = None):
    """The datagram with one bit flipped, for every byte of the range; the bit differs from byte to byte."""
    for at in range(start, len(datagram) if end is None else end):
        yield datagram[:at] + bytes([datagram[at] ^ 1 << at % 8]) + datagram[at + 1 :]


def with_mac1_again(initiation: bytes, key: w.CommunityKey, responder: bytes) -> bytes:
    """As somebody who holds the community's key could: a changed initiation with a right `mac1`."""
    return w.with_macs(initiation[:-32], key.k_mac(responder))


def run_program(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(HERE / "peer.py"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def program_identities(world: World, endpoint: str) -> tuple[Path, Path]:
    enclave, (a, b) = world.enclave, world.issued.values()
    statements = {issued.name: enclave.statement(issued, world.tag) for issued in (a, b)}
    return (
        enclave.identity(a, [statements["a"]], [(b, [statements["b"]], [endpoint])]),
        enclave.identity(b, [statements["b"]], [(a, [statements["a"]], [])]),
    )


@contextmanager
def serving(world: World, host: str):
    """`peer.py serve` as b on a port of its choice; gives the identity file of a, which knows that port."""
    _, b = program_identities(world, f"{host}:1")
    server = run_program("serve", "--identity", str(b), "--listen", f"{host}:0", "--seconds", "50")
    try:
        port = json.loads(server.stdout.readline())["listening"].rpartition(":")[2]
        yield program_identities(world, f"{host}:{port}")[0], f"{host}:{port}"
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=10)
        assert errors == "", errors
