"""A Coterie peer over one UDP socket: `ping` another member, `serve` as one, or `query` where an address is.

    peer.py ping  --identity F --peer NAME [--listen ADDR:PORT] [--count N] [--community TAG] [--rekey]
    peer.py serve --identity F --listen ADDR:PORT [--seconds N]
    peer.py query --identity F --address ADDR --to ADDR:PORT [--listen ADDR:PORT] [--community TAG]

Everything it tells is one JSON object a line. The protocol is in member.py and coterie_wire.py.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path

import coterie_wire as w
from coterie_wire import Drop
from member import Member
from membership import PeerEntry, parse_endpoint
from session import Endpoint, Pending, Session

DONT_FRAGMENT = {  # IP_MTU_DISCOVER and IPV6_MTU_DISCOVER, both to ..._PMTUDISC_DO
    socket.AF_INET: (socket.IPPROTO_IP, 10, 2),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 2),
}
TICK = 0.02  # seconds between looks at the timers
ECHO_WAIT = 2.0  # seconds for an echo reply


# ---------------------------------------------------------------------------------------------------------------------
# ICMP echo, inside

ECHO = {4: (8, 0, 1), 6: (128, 129, 58)}  # by IP version: request, reply, protocol number


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def echo_packet(kind: int, source: w.Address, destination: w.Address, rest: bytes) -> bytes:
    """An IP packet with an ICMP message of `kind`, code 0; `rest` is identifier, sequence number and data."""
    protocol = ECHO[source.version][2]
    icmp = bytes([kind, 0, 0, 0]) + rest
    pseudo = (
        b"" if source.version == 4 else source.packed + destination.packed + struct.pack(">II", len(icmp), protocol)
    )
    icmp = icmp[:2] + w.u16(checksum(pseudo + icmp)) + icmp[4:]
    if source.version == 4:
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(icmp), 0, 0x4000, 64, protocol, 0)
        header += source.packed + destination.packed
        header = header[:10] + w.u16(checksum(header)) + header[12:]
    else:
        header = struct.pack(">IHBB", 6 << 28, len(icmp), protocol, 64) + source.packed + destination.packed
    return header + icmp


def parse_echo(packet: bytes) -> tuple[int, bytes] | None:
    """(kind, rest) of an unfragmented packet with an ICMP message, none for any other."""
    version = packet[0] >> 4
    header = (packet[0] & 15) * 4 if version == 4 else 40
    protocol = packet[9] if version == 4 else packet[6]
    fragment = version == 4 and int.from_bytes(packet[6:8], "big") & 0x3FFF
    if protocol != ECHO[version][2] or fragment or len(packet) < header + 8:
        return None
    return packet[header], packet[header + 4 :]


# ---------------------------------------------------------------------------------------------------------------------


class Peer:
    """A member with its UDP socket. It answers echo requests as a kernel behind a tunnel device would."""

    def __init__(self, identity: Path, listen: Endpoint, tell=lambda event: None, **member_options):
        family = socket.AF_INET if ipaddress.ip_address(listen[0]).version == 4 else socket.AF_INET6
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setsockopt(*DONT_FRAGMENT[family])
        if family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.socket.bind(listen)
        self.tell = tell
        self.transmitted: list[tuple[bytes, Endpoint]] = []  # the last few, for whoever watches the wire
        self.received = 0
        self.replies: dict[bytes, float] = {}  # echo replies: by their data, when
        self.member = Member(
            identity,
            self.transmit,
            self.deliver,
            lambda name, **detail: self.tell({"event": name, **detail}),
            **member_options,
        )

    @property
    def endpoint(self) -> Endpoint:
        return self.socket.getsockname()[:2]

    def transmit(self, datagram: bytes, endpoint: Endpoint) -> None:
        self.transmitted = [*self.transmitted[-255:], (datagram, endpoint)]
        try:
            self.socket.sendto(datagram, endpoint)
        except OSError as error:  # it is lost, as any datagram may be; handshakes repeat
            self.tell({"event": "not sent", "endpoint": f"{endpoint[0]}:{endpoint[1]}", "error": str(error)})

    def deliver(self, session: Session, packet: bytes) -> None:
        echo = parse_echo(packet)
        if echo is None:
            self.tell({"event": "packet", "bytes": len(packet)})
            return
        kind, rest = echo
        _, source, destination = w.inside_packet(packet)
        request, reply, _ = ECHO[source.version]
        if kind == request:
            self.tell({"event": "echo request", "source": str(source), "bytes": len(packet)})
            self.member.send_packet(session, echo_packet(reply, destination, source, rest))
        elif kind == reply:
            self.replies[rest] = time.monotonic()

    def run_once(self, timeout: float = TICK) -> None:
        """Takes what has arrived, or waits for it up to `timeout` seconds; then looks at the timers."""
        if select.select([self.socket], [], [], timeout)[0]:
            try:
                datagram, source = self.socket.recvfrom(65535)
                self.received += 1
                self.member.receive(datagram, source[:2])
            except OSError:
                pass  # an ICMP error of an earlier datagram; nothing arrived
        self.member.tick()

    def run_until(self, reached, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() >= deadline:
                return False
            self.run_once()
        return True

    def close(self) -> None:
        for session in list(self.member.current.values()):
            self.member.close(session)
        self.socket.close()


class StepFailed(Exception):
    """A command could not be carried out; says at which step."""

    def __init__(self, step: str, why: str):
        super().__init__(f"{step}: {why}")
        self.step, self.why = step, why


def own_address(statement: w.Statement, version: int) -> w.Address:
    """An inside address of our own: the prefix of one address, else the first host of a longer one."""
    prefixes = [p for p in statement.prefixes if p.version == version]
    if not prefixes:
        raise StepFailed("address", f"no IPv{version} prefix in our own statement")
    longest = max(prefixes, key=lambda p: p.prefixlen)
    return longest[0] if longest.num_addresses == 1 else longest[1]


def wait_session(peer: Peer, pending: Pending) -> Session:
    """A session with the other member, whoever of the two initiated it in the end."""
    member, static, tag = peer.member, pending.peer_static, pending.tag
    peer.run_until(lambda: pending.step.startswith(("done", "failed")) or member.session_with(static, tag), 40)
    session = member.session_with(static, tag)
    if session is None:
        raise StepFailed(pending.step.removeprefix("failed: "), f"no progress within 10 s; drops: {dict(member.drops)}")
    return session


def connect(peer: Peer, entry: PeerEntry, tag: bytes) -> Session:
    """Tries one endpoint after the other."""
    failure = StepFailed("endpoint", "the peer has none")
    for endpoint in entry.endpoints:
        try:
            return wait_session(peer, peer.member.connect(entry.static, tag, endpoint))
        except StepFailed as failed:
            failure = failed
    raise failure


def echo(peer: Peer, session: Session, destination: w.Address, sequence: int) -> None:
    source = own_address(session.own_statement, destination.version)
    rest = struct.pack(">HH", os.getpid() & 0xFFFF, sequence) + os.urandom(48)
    started = time.monotonic()
    peer.member.send_packet(session, echo_packet(ECHO[source.version][0], source, destination, rest))
    if not peer.run_until(lambda: rest in peer.replies, ECHO_WAIT):
        raise StepFailed("echo", f"no reply to {sequence} in {ECHO_WAIT} s; drops: {dict(peer.member.drops)}")
    rtt = round((peer.replies.pop(rest) - started) * 1000, 3)
    suite = w.SUITE_NAMES[session.suite]
    peer.tell({"echo": sequence, "from": str(destination), "rtt_ms": rtt, "suite": suite, "epoch": session.epoch})


def community(peer: Peer, entry: PeerEntry, wanted: str | None) -> bytes:
    membership = peer.member.membership
    shared = membership.shared_with(entry) if entry.statements else list(membership.own)
    if wanted is not None:
        return bytes.fromhex(wanted)
    if not shared:
        raise StepFailed("community", f"none shared with {entry.name}")
    return shared[0]


def ping(peer: Peer, arguments) -> None:
    entry = peer.member.identity.peer(arguments.peer)
    tag = community(peer, entry, arguments.community)
    session = connect(peer, entry, tag)
    for sequence in range(1, arguments.count + 1):
        if arguments.rekey and sequence == arguments.count // 2 + 1:
            older = session
            pending = peer.member.rekey(session)
            peer.run_until(lambda: pending.step.startswith(("done", "failed")), 40)
            session = peer.member.session_with(entry.static, tag)
            if session is None or session is older:
                raise StepFailed("rekey", pending.step.removeprefix("failed: "))
            peer.tell({"rekey": "done", "epoch": session.epoch})
        session = peer.member.session_with(entry.static, tag)
        if session is None:
            raise StepFailed("session", "it ended")
        echo(peer, session, entry.addresses[0], sequence)


def serve(peer: Peer, arguments) -> None:
    peer.tell({"listening": f"{peer.endpoint[0]}:{peer.endpoint[1]}"})
    peer.run_until(lambda: False, arguments.seconds if arguments.seconds is not None else float("inf"))


def query(peer: Peer, arguments) -> None:
    own = peer.member.membership.own
    tag = bytes.fromhex(arguments.community) if arguments.community else next(iter(own))
    peer.member.ask(ipaddress.ip_address(arguments.address), tag, parse_endpoint(arguments.to))
    if not peer.run_until(lambda: peer.member.answers, 5):
        raise StepFailed("answer", f"none within 5 s; drops: {dict(peer.member.drops)}")
    statement, source = peer.member.answers[0]
    peer.tell(
        {"member": statement.member_name, "static": statement.static.hex(), "endpoint": f"{source[0]}:{source[1]}"}
    )


def parse_arguments():
    parser = argparse.ArgumentParser(description="A second implementation of the Coterie protocol")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("ping", ping), ("serve", serve), ("query", query)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--identity", type=Path, required=True)
        command.add_argument("--listen", type=parse_endpoint, required=name == "serve")
        command.add_argument("--prefer", choices=w.SUITE_NAMES.values(), default=w.SUITE_NAMES[w.AES_256_GCM])
        command.add_argument("--lanes", type=int, choices=range(1, 17), default=1)
        command.add_argument("--verbose", action="store_true", help="tell every event, drops with their reasons too")
        if name == "serve":
            command.add_argument("--seconds", type=float, help="stop after so long; without it, run on")
        else:
            command.add_argument("--community", help="its tag in hex; else the first, or the first that both share")
    commands.choices["ping"].add_argument("--peer", required=True)
    commands.choices["ping"].add_argument("--count", type=int, default=3)
    commands.choices["ping"].add_argument("--rekey", action="store_true", help="rekey inside the session half-way")
    commands.choices["query"].add_argument("--address", required=True)
    commands.choices["query"].add_argument("--to", required=True)
    return parser.parse_args()


def default_listen(arguments) -> Endpoint:
    """Any port, of the family of where the command sends first."""
    if arguments.command == "query":
        target = parse_endpoint(arguments.to)[0]
    else:
        endpoints = [p["endpoints"] for p in json.loads(arguments.identity.read_text())["peers"]
                     if p["name"] == arguments.peer]  # fmt: skip
        target = parse_endpoint(endpoints[0][0])[0] if endpoints and endpoints[0] else "0.0.0.0"
    return ("0.0.0.0" if ipaddress.ip_address(target).version == 4 else "::", 0)


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like an interrupt: sessions are closed

    def tell(event: dict) -> None:
        if "event" not in event or arguments.verbose or arguments.command == "serve":
            print(json.dumps(event), flush=True)

    preferred = next(bit for bit, name in w.SUITE_NAMES.items() if name == arguments.prefer)
    peer = None
    try:
        listen = arguments.listen or default_listen(arguments)
        peer = Peer(arguments.identity, listen, tell, lanes=arguments.lanes, preferred=preferred)
        arguments.run(peer, arguments)
    except StepFailed as failed:
        tell({"failed": failed.step, "why": failed.why})
        return 1
    except Drop as drop:
        tell({"failed": "identity" if peer is None else arguments.command, "why": drop.reason})
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        if peer is not None:
            peer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
