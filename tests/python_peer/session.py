"""What a member remembers of handshakes and sessions under way. Section numbers in brackets are docs/WIRE.md's."""

from __future__ import annotations

import copy
import ipaddress
import os
import random
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

import coterie_wire as w

Endpoint = tuple[str, int]

REPEAT_FIRST, REPEAT_GROWTH, REPEAT_MOST, REPEAT_JITTER = 0.25, 1.5, 2.0, 0.2  # [3.6]
GIVE_UP = 10.0  # [3.6]: an initiator without progress, a responder's half-open handshake
REKEY_INITIATOR, REKEY_RESPONDER, SESSION_END = 120.0, 135.0, 180.0  # [5.2]


class Bucket:
    """Token buckets by key [3.2 points 4 and 7]."""

    def __init__(self, rate: float, burst: float, most_keys: int = 8192):
        self.rate, self.burst, self.most_keys = rate, burst, most_keys
        self.levels: dict[object, tuple[float, float]] = {}

    def take(self, key: object, now: float) -> bool:
        level, at = self.levels.pop(key, (self.burst, now))
        level = min(self.burst, level + (now - at) * self.rate)
        allowed = level >= 1
        self.levels[key] = (level - allowed, now)
        if len(self.levels) > self.most_keys:
            del self.levels[next(iter(self.levels))]
        return allowed


def source_of_bucket(source: Endpoint) -> object:
    """[3.2 point 4] An IPv4 address, or the /64 of an IPv6 address."""
    address = ipaddress.ip_address(source[0])
    return address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False)


@dataclass
class Outside:
    """Handshake messages travel as datagrams of their own."""

    endpoint: Endpoint


@dataclass
class Inside:
    """Handshake messages travel as frames of a live session [6.2]."""

    session: "Session"

    @property
    def endpoint(self) -> Endpoint:
        return self.session.endpoint


Carrier = Outside | Inside


@dataclass
class Pending:
    """A handshake that this member initiated."""

    peer_static: bytes
    tag: bytes
    carrier: Carrier
    step: str = "initiation"  # then "offer", then "confirm"; at the end "done", "failed" or "forgotten"
    index: int = 0
    key: w.CommunityKey | None = None
    noise: w.Noise | None = None
    ephemeral: bytes = b""
    own_statement: w.Statement | None = None
    mac1: bytes = b""
    cookie: tuple[bytes, float] | None = None
    # From the response on:
    response: w.ResponsePayload | None = None
    peer_index: int = 0
    peer_statement: w.Statement | None = None
    k_i: bytes = b""
    k_r: bytes = b""
    export: bytes = b""
    kem: MLKEM768PrivateKey | None = None
    body: bytes = b""  # of the step that is repeated
    session: "Session | None" = None
    # Repetition:
    interval: float = REPEAT_FIRST
    next_at: float = 0.0
    give_up_at: float = 0.0

    def progress(self, step: str, now: float) -> None:
        self.step, self.interval, self.give_up_at = step, REPEAT_FIRST, now + GIVE_UP
        self.schedule(now)

    def schedule(self, now: float) -> None:
        self.next_at = now + self.interval * (1 + random.random() * REPEAT_JITTER)
        self.interval = min(self.interval * REPEAT_GROWTH, REPEAT_MOST)

    def read_response(self, static: bytes, response: w.Response) -> tuple[w.Noise, bytes]:
        """On a copy, so that a response that does not open changes nothing."""
        noise = copy.copy(self.noise)
        return noise, noise.read_message_2(static, self.ephemeral, response.ephemeral, response.sealed_payload)

    def erase(self) -> None:
        self.k_i = self.k_r = self.export = self.ephemeral = self.body = b""
        self.kem = self.noise = None


@dataclass
class HalfOpen:
    """A handshake that this member answered, until something was opened under its final keys."""

    peer_static: bytes
    key: w.CommunityKey
    carrier: Carrier
    index: int
    peer_index: int
    payload: w.InitiationPayload
    suite: int
    own_statement: w.Statement
    peer_statement: w.Statement
    created: float
    h: bytes
    k_i: bytes
    k_r: bytes
    export: bytes
    ek: bytes = b""
    ct: bytes = b""
    m: bytes = b""
    session: "Session | None" = None

    def erase(self) -> None:
        self.k_i = self.k_r = self.export = self.m = b""


@dataclass
class Incoming:
    """A difference under way [6.3]."""

    transfer: int
    total: int
    received: bytes = b""


@dataclass(eq=False)
class Session:
    index: int
    peer_index: int
    peer_static: bytes
    tag: bytes
    epoch: int
    is_initiator: bool
    suite: int
    sealing: list[w.SealingLane]
    opening: list[w.OpeningLane]
    own_statement: w.Statement
    peer_statement: w.Statement
    peer_era: int
    peer_revision: int
    endpoint: Endpoint
    made_at: float
    carries: bool = False
    used: bool = False
    probe_token: bytes = field(default_factory=lambda: os.urandom(8))
    next_lane: int = 0
    fork_opened_at: float = -1e9
    roam_token: bytes = b""
    roam_endpoint: Endpoint | None = None
    roam_at: float = -1e9
    asked_at: float = -1e9
    incoming: Incoming | None = None

    @classmethod
    def of(
        cls, handshake: Pending | HalfOpen, keys: w.FinalKeys, suite: int, era: int, revision: int, now: float
    ) -> "Session":
        is_initiator = isinstance(handshake, Pending)
        out, back = (keys.i2r, keys.r2i) if is_initiator else (keys.r2i, keys.i2r)
        return cls(
            index=handshake.index,
            peer_index=handshake.peer_index,
            peer_static=handshake.peer_static,
            tag=handshake.key.tag,
            epoch=handshake.key.epoch,
            is_initiator=is_initiator,
            suite=suite,
            sealing=[w.SealingLane(suite, n, key, iv) for n, (key, iv) in enumerate(out)],
            opening=[w.OpeningLane(suite, key, iv) for key, iv in back],
            own_statement=handshake.own_statement,
            peer_statement=handshake.peer_statement,
            peer_era=era,
            peer_revision=revision,
            endpoint=handshake.carrier.endpoint,
            made_at=now,
        )

    def seal(self, text: bytes) -> bytes:
        """Lanes take turns; the salt is drawn for each packet, a batch of one [5]."""
        lane = self.sealing[self.next_lane]
        self.next_lane = (self.next_lane + 1) % len(self.sealing)
        return lane.seal(self.peer_index, os.urandom(4), text)

    def must_rekey(self, now: float) -> bool:
        after = REKEY_INITIATOR if self.is_initiator else REKEY_RESPONDER
        worn = any(lane.counter >= w.REKEY_COUNTER for lane in self.sealing)
        return self.carries and (worn or (self.used and now - self.made_at >= after))

    def has_ended(self, now: float, protocol_time: float) -> bool:
        ends = min(self.own_statement.not_after, self.peer_statement.not_after)
        return now - self.made_at >= SESSION_END or ends <= protocol_time
