"""What a member holds and whom it admits: its identity file, its stored counters, and the rules of section 4.

Section numbers in brackets are those of docs/WIRE.md.
"""

from __future__ import annotations

import ipaddress
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from coterie_objects import (
    REMOVAL,
    Address,
    Authority,
    CommunityKey,
    Drop,
    Head,
    Manifest,
    Revocations,
    Statement,
    x25519_public,
)

COUNTER_BLOCK = 4096  # [3.3]
ANSWERED_NONCES = 1024  # [7]
EARLY = 60  # seconds before its activation in which a responder accepts an epoch [4.2]
REMOVAL_GRACE = 10  # seconds that an epoch lives on after the removal that ended it [4.2]
MAX_COMMUNITIES = 64  # [3.2 point 2]


class Clock:
    """Running time (suspend included) and wall clock, both in seconds."""

    def running(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()


class ProtocolTime:
    """[4.4] When a stored head arrived is not stored, so a start takes the later of its time and the wall clock."""

    def __init__(self, clock: Clock):
        self.clock = clock
        self.base, self.since = clock.wall(), clock.running()

    def now(self) -> float:
        return self.base + self.clock.running() - self.since

    def take_head(self, head_time: int) -> None:
        if head_time > self.now():  # it never runs backwards
            self.base, self.since = head_time, self.clock.running()


@dataclass
class PeerEntry:
    """What the directory would say of another member."""

    name: str
    static: bytes
    addresses: list[Address]
    endpoints: list[tuple[str, int]]
    statements: list[str]


def parse_endpoint(text: str) -> tuple[str, int]:
    """`192.0.2.11:4747` or `[2001:db8::1]:4747`."""
    host, _, port = text.rpartition(":")
    return str(ipaddress.ip_address(host.strip("[]"))), int(port)


class Identity:
    """The identity file, parsed but not yet judged."""

    def __init__(self, path: Path):
        raw = json.loads(path.read_text())
        self.path = path
        self.static_private = bytes.fromhex(raw["static_private"])
        self.static = x25519_public(self.static_private)
        self.root_key = bytes.fromhex(raw["root_key"])
        self.authority = bytes.fromhex(raw["authority"])
        self.keys = [CommunityKey(bytes.fromhex(k["tag"]), k["epoch"], bytes.fromhex(k["key"])) for k in raw["keys"]]
        self.manifests = [bytes.fromhex(m) for m in raw["manifests"]]
        self.statements = [bytes.fromhex(s) for s in raw["statements"]]
        self.revocations = bytes.fromhex(raw.get("revocations") or "")
        self.head = bytes.fromhex(raw.get("head") or "")
        self.counter = raw.get("counter", 0)
        self.peers = [
            PeerEntry(
                peer["name"],
                bytes.fromhex(peer["static"]),
                [ipaddress.ip_address(a) for a in peer["addresses"]],
                [parse_endpoint(e) for e in peer["endpoints"]],
                peer["statements"],
            )
            for peer in raw["peers"]
        ]

    def peer(self, name: str) -> PeerEntry:
        for peer in self.peers:
            if peer.name == name:
                return peer
        raise SystemExit(f"no peer {name} in {self.path}; it has: {', '.join(p.name for p in self.peers)}")


class Stored:
    """What must hold after a restart, in `<identity>.counter`: written, synced and renamed before it is relied upon.

    `end` is the last counter of the reserved block [3.3]; `accepted` the highest counter of each static key
    [3.2 point 9]; `answered` the nonces of questions answered [7]; `revocations` and `head` the newest taken [4.3].
    """

    def __init__(self, identity: Identity):
        self.path = Path(f"{identity.path}.counter")
        stored = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.end: int = max(identity.counter, stored.get("end", 0))
        self.next = self.end + 1
        self.accepted: dict[str, int] = stored.get("accepted", {})
        self.answered: list[str] = stored.get("answered", [])
        self.revocations: str = stored.get("revocations", "")
        self.head: str = stored.get("head", "")

    def write(self) -> None:
        names = ("end", "accepted", "answered", "revocations", "head")
        beside = self.path.with_name(self.path.name + ".new")
        with beside.open("w") as file:
            json.dump({name: getattr(self, name) for name in names}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self.path)

    def own_counter(self) -> int:
        """The next initiation counter; a block is stored before its first counter is used."""
        if self.next > self.end:
            self.end += COUNTER_BLOCK
            self.write()
        self.next += 1
        return self.next - 1

    def accept_counter(self, static: bytes, counter: int) -> None:
        if counter <= self.accepted.get(static.hex(), 0):
            raise Drop("initiation counter not above the highest")
        self.accepted[static.hex()] = counter
        self.write()

    def answer_once(self, nonce: bytes) -> None:
        if nonce.hex() in self.answered:
            raise Drop("question answered before")
        self.answered = [*self.answered, nonce.hex()][-ANSWERED_NONCES:]
        self.write()


class Membership:
    """Section 4: authority, epochs, statements, revisions and protocol time of one member."""

    def __init__(self, identity: Identity, stored: Stored, clock: Clock):
        self.identity, self.stored = identity, stored
        self.time = ProtocolTime(clock)
        self.authority = Authority.open(identity.authority, identity.root_key)
        self.revocations: Revocations | None = None
        self.head: Head | None = None
        self.alarms: list[str] = []
        for revocations, head in [
            (identity.revocations, identity.head),
            (bytes.fromhex(stored.revocations), bytes.fromhex(stored.head)),
        ]:
            self.load_revision(revocations, head)
        self.alarms.clear()  # of the two stored, either may be the older
        self.manifests: dict[tuple[bytes, int], Manifest] = {}
        for signed in identity.manifests:
            self.load_manifest(signed)
        self.keys: dict[tuple[bytes, int], CommunityKey] = {}
        for key in identity.keys:
            manifest = self.manifests.get((key.tag, key.epoch))
            if manifest is None or manifest.commitment != key.commitment():
                raise Drop(f"key of epoch {key.epoch} without its manifest")
            self.keys[key.tag, key.epoch] = key
        self.known: dict[tuple[bytes, bytes], Statement] = {}  # by (member, community), the highest serial
        self.own: dict[bytes, Statement] = {}
        for signed in identity.statements:
            statement = self.open(Statement, signed)
            if statement.static == identity.static:
                self.take_own(statement)
        for peer in identity.peers:
            for signed in peer.statements:
                self.remember(self.open(Statement, bytes.fromhex(signed)))

    def now(self) -> float:
        return self.time.now()

    def open(self, kind, signed: bytes):
        """A signed object of this era and enclave, signed by the authority's statement key."""
        if self.authority.not_after <= self.now():
            raise Drop("the authority has ended")
        value = kind.open(signed, self.authority.statement_key)
        if value.era != self.authority.era:
            raise Drop("another era")
        if value.enclave != self.authority.enclave:
            raise Drop("another enclave")
        return value

    # 4.1 Statements

    def check_statement(self, signed: bytes, tag: bytes, static: bytes | None = None) -> Statement:
        """[3.2 point 10]; `static` is the static key that was opened, none for a direct query."""
        statement = self.open(Statement, signed)
        if statement.community != tag:
            raise Drop("statement of another community")
        if static is not None and statement.static != static:
            raise Drop("statement of another static key")
        if statement.not_after <= self.now():
            raise Drop("statement has ended")
        if self.is_revoked(statement.static):
            raise Drop("static key is revoked")
        known = self.known.get((statement.member, tag))
        if known is not None and statement.serial < known.serial and statement.prefixes != known.prefixes:
            raise Drop("superseded by a newer statement")
        self.remember(statement)
        return statement

    def remember(self, statement: Statement) -> None:
        known = self.known.get((statement.member, statement.community))
        if known is None or statement.serial > known.serial:
            self.known[statement.member, statement.community] = statement

    def take_own(self, statement: Statement) -> None:
        known = self.own.get(statement.community)
        if known is None or statement.serial > known.serial:
            self.own[statement.community] = statement

    def own_statement(self, tag: bytes) -> Statement:
        statement = self.own.get(tag)
        if statement is None or statement.not_after <= self.now():
            raise Drop("no current statement of our own")
        return statement

    def other_holds_longer(self, address: Address, member: bytes, length: int) -> bool:
        """[5.1 point 4] Whether another member's current statement has a longer prefix for the address."""
        return any(
            address in p and p.prefixlen > length
            for statement in self.known.values()
            if statement.member != member and statement.not_after > self.now()
            for p in statement.prefixes
            if p.version == address.version
        )

    # 4.2 Epochs

    def load_manifest(self, signed: bytes) -> None:
        manifest = self.open(Manifest, signed)
        known = self.manifests.get((manifest.community, manifest.epoch))
        if known is None or manifest.retires < known.retires:
            self.manifests[manifest.community, manifest.epoch] = manifest

    def retires(self, manifest: Manifest) -> int:
        """When the epoch retires: its manifest's word, or sooner if a removal made the next epoch."""
        later = [m for m in self.manifests.values() if m.community == manifest.community and m.epoch > manifest.epoch]
        following = min(later, key=lambda m: m.epoch, default=None)
        if following is not None and following.cause == REMOVAL:
            return min(manifest.retires, following.activates + REMOVAL_GRACE)
        return manifest.retires

    def epochs(self, tag: bytes, early: int) -> list[CommunityKey]:
        """Keys of the community's live epochs, newest first; from `early` seconds before activation."""
        now = self.now()
        live = [
            key
            for (community, epoch), key in self.keys.items()
            if community == tag
            and self.manifests[tag, epoch].activates - early <= now < self.retires(self.manifests[tag, epoch])
        ]
        return sorted(live, key=lambda key: key.epoch, reverse=True)

    def accepted_keys(self) -> list[CommunityKey]:
        """What a responder tries `mac1` over [3.2 point 2]."""
        return [key for tag in list(self.own)[:MAX_COMMUNITIES] for key in self.epochs(tag, EARLY)]

    def newest_key(self, tag: bytes) -> CommunityKey:
        """What an initiator uses."""
        keys = self.epochs(tag, 0)
        if not keys:
            raise Drop("no live epoch")
        return keys[0]

    def shared_with(self, peer: PeerEntry) -> list[bytes]:
        """Communities in which both hold a statement, highest priority first."""
        theirs = {Statement.open(bytes.fromhex(s), self.authority.statement_key).community for s in peer.statements}
        shared = [tag for tag in self.own if tag in theirs and self.epochs(tag, 0)]
        return sorted(shared, key=lambda tag: -self.manifests[tag, self.newest_key(tag).epoch].priority)

    # 4.3 Revisions

    @property
    def era(self) -> int:
        return self.authority.era

    @property
    def revision(self) -> int:
        return self.revocations.revision if self.revocations else 0

    def is_revoked(self, static: bytes) -> bool:
        return self.revocations is not None and any(static == entry[1] for entry in self.revocations.entries)

    def load_revision(self, revocations: bytes, head: bytes) -> None:
        if revocations:
            self.take_revocations(self.open(Revocations, revocations))
        if head:
            self.take_head(self.open(Head, head))

    def take_revocations(self, revocations: Revocations) -> None:
        if revocations.revision < self.revision:
            self.alarms.append("revocations of a lower revision")
        elif revocations.revision > self.revision:
            self.revocations = revocations

    def take_head(self, head: Head) -> None:
        if self.head is not None and head.time < self.head.time:
            self.alarms.append("head of a lower time")
            return
        if self.revocations and head.revision == self.revision:
            if head.digest != Head.digest_of(self.revocations.signed):
                raise Drop("head of other revocations")
        self.head = head
        self.time.take_head(head.time)

    def apply_difference(self, revocations: bytes, head: bytes) -> None:
        self.load_revision(revocations, head)
        self.stored.revocations = self.revocations.signed.hex() if self.revocations else ""
        self.stored.head = self.head.signed.hex() if self.head else ""
        self.stored.write()
