"""Coterie's handshake, packets, frames and queries as bytes: sections 3, 5, 6 and 7 of docs/WIRE.md.

Written from that document alone; section numbers in brackets, as [3.2], are its. Nothing here holds state of a member
(that is member.py) or touches a socket (that is peer.py). The encodings, keys and signed objects below these messages
are in coterie_objects.py, and are offered from here too.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import ClassVar

from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV

from coterie_objects import *

MAX_HANDSHAKE_DATAGRAM = 1232  # UDP payload that fits an IPv6 path of 1,280
INITIATION, RESPONSE, COOKIE, PROVISIONAL, SEALED, QUESTION, ANSWER = 1, 2, 3, 4, 5, 6, 7


# ---------------------------------------------------------------------------------------------------------------------
# 3. Noise_IKpsk0_25519_AESGCM_SHA256, Noise revision 34


class Noise:
    """One handshake's symmetric state. Message 1 is read in two parts, for the checks that stand between [3.2]."""

    PROTOCOL = b"Noise_IKpsk0_25519_AESGCM_SHA256"  # exactly 32 bytes, so it is the first h itself

    def __init__(self, key: CommunityKey, responder_static: bytes):
        self.h = self.ck = self.PROTOCOL
        self.k, self.n = b"", 0
        self.mix_hash(b"coterie/1" + key.tag + u64(key.epoch))  # the prologue
        self.mix_hash(responder_static)  # pre-message: <- s
        self.psk = key.psk(responder_static)

    def mix_hash(self, data: bytes) -> None:
        self.h = sha256(self.h, data)

    def mix_key(self, ikm: bytes) -> None:
        output = hkdf(self.ck, ikm, b"", 64)
        self.ck, self.k, self.n = output[:32], output[32:], 0

    def mix_key_and_hash(self, ikm: bytes) -> None:
        output = hkdf(self.ck, ikm, b"", 96)
        self.ck, self.k, self.n = output[:32], output[64:], 0
        self.mix_hash(output[32:64])

    def mix_ephemeral(self, public: bytes) -> None:
        """The token e; where a psk is in the pattern, it enters the key too."""
        self.mix_hash(public)
        self.mix_key(public)

    def nonce(self) -> bytes:
        self.n += 1
        return bytes(4) + u64(self.n - 1)

    def encrypt_and_hash(self, text: bytes) -> bytes:
        sealed = AESGCM(self.k).encrypt(self.nonce(), text, self.h)
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes, reason: str) -> bytes:
        text = aead_open(AESGCM(self.k), self.nonce(), sealed, self.h, reason)
        self.mix_hash(sealed)
        return text

    def write_message_1(self, static: bytes, ephemeral: bytes, responder_static: bytes, payload: bytes) -> bytes:
        e = x25519_public(ephemeral)
        self.mix_key_and_hash(self.psk)  # psk
        self.mix_ephemeral(e)  # e
        self.mix_key(x25519(ephemeral, responder_static))  # es
        sealed_static = self.encrypt_and_hash(x25519_public(static))  # s
        self.mix_key(x25519(static, responder_static))  # ss
        return e + sealed_static + self.encrypt_and_hash(payload)

    def read_static(self, static: bytes, e: bytes, sealed_static: bytes) -> bytes:
        """Message 1 up to `s` [3.2 point 6]: the initiator's static key, not yet proven."""
        self.mix_key_and_hash(self.psk)
        self.mix_ephemeral(e)
        self.mix_key(x25519(static, e))
        return self.decrypt_and_hash(sealed_static, "static key does not open")

    def read_payload(self, static: bytes, initiator_static: bytes, sealed: bytes) -> bytes:
        """Message 1 from `ss` on [3.2 point 8]."""
        self.mix_key(x25519(static, initiator_static))
        return self.decrypt_and_hash(sealed, "initiation does not open")

    def write_message_2(self, ephemeral: bytes, initiator_e: bytes, initiator_static: bytes, payload: bytes) -> bytes:
        e = x25519_public(ephemeral)
        self.mix_ephemeral(e)  # e
        self.mix_key(x25519(ephemeral, initiator_e))  # ee
        self.mix_key(x25519(ephemeral, initiator_static))  # se
        return e + self.encrypt_and_hash(payload)

    def read_message_2(self, static: bytes, ephemeral: bytes, e: bytes, sealed: bytes) -> bytes:
        self.mix_ephemeral(e)
        self.mix_key(x25519(ephemeral, e))
        self.mix_key(x25519(static, e))
        return self.decrypt_and_hash(sealed, "response does not open")

    def split(self) -> tuple[bytes, bytes, bytes]:
        """`k_i | k_r | export` [3.4]."""
        output = hkdf(self.ck, b"", b"", 96)
        return output[:32], output[32:64], output[64:]


# ---------------------------------------------------------------------------------------------------------------------
# 3.1 Initiation and 3.4 response


def with_macs(before_mac1: bytes, k_mac: bytes, cookie: bytes | None = None) -> bytes:
    """Appends `mac1` and `mac2`; `mac2` is zero without a cookie."""
    before_mac2 = before_mac1 + mac(k_mac, sha256(before_mac1))
    return before_mac2 + (mac(cookie, sha256(before_mac2)) if cookie else bytes(TAG_LEN))


@dataclass
class Initiation:
    """The parts of a message of type 1, after point 1 of [3.2]."""

    sender_index: int
    ephemeral: bytes
    sealed_static: bytes
    sealed_payload: bytes
    digest: bytes
    mac1: bytes
    before_mac2: bytes
    mac2: bytes

    @staticmethod
    def header(sender_index: int) -> bytes:
        return u8(INITIATION) + bytes(3) + u32(sender_index)

    @classmethod
    def parse(cls, message: bytes) -> "Initiation":
        if not 168 <= len(message) <= MAX_HANDSHAKE_DATAGRAM:
            raise Drop("length of an initiation")
        r = Reader(message[:-32])
        if r.u8() != INITIATION:
            raise Drop("not an initiation")
        r.zeros(3)
        index = r.u32()
        if index == 0:
            raise Drop("sender index zero")
        digest = sha256(message[:-32])
        return cls(index, r.take(32), r.take(48), r.rest(), digest, message[-32:-16], message[:-16], message[-16:])

    def mac1_is_of(self, k_mac: bytes) -> bool:
        return same(mac(k_mac, self.digest), self.mac1)

    def mac2_is_of(self, cookie: bytes) -> bool:
        return same(mac(cookie, sha256(self.before_mac2)), self.mac2)


@dataclass
class InitiationPayload:
    counter: int
    lanes: int
    suites: int
    preferred: int
    era: int
    revision: int
    statement: bytes

    def encode(self) -> bytes:
        numbers = u64(self.counter) + u8(self.lanes) + u8(self.suites) + u8(self.preferred)
        return numbers + u64(self.era) + u64(self.revision) + self.statement

    @classmethod
    def parse(cls, payload: bytes) -> "InitiationPayload":
        r = Reader(payload)
        value = cls(r.u64(), r.u8(), r.u8(), r.u8(), r.u64(), r.u64(), r.rest())
        if not 1 <= value.lanes <= 16:
            raise Drop("lanes not 1-16")
        if value.suites == 0 or value.suites & ~ALL_SUITES:
            raise Drop("unknown suites")
        if value.preferred not in SUITES or not value.suites & value.preferred:
            raise Drop("unknown preferred suite")
        return value


@dataclass
class Response:
    """The parts of a message of type 2."""

    sender_index: int
    receiver_index: int
    ephemeral: bytes
    sealed_payload: bytes
    digest: bytes
    mac1: bytes

    @staticmethod
    def header(sender_index: int, receiver_index: int) -> bytes:
        return u8(RESPONSE) + bytes(3) + u32(sender_index) + u32(receiver_index)

    @classmethod
    def parse(cls, message: bytes) -> "Response":
        if not 12 + 32 + TAG_LEN + 32 <= len(message) <= MAX_HANDSHAKE_DATAGRAM:
            raise Drop("length of a response")
        r = Reader(message[:-32])
        if r.u8() != RESPONSE:
            raise Drop("not a response")
        r.zeros(3)
        if any(message[-16:]):
            raise Drop("mac2 of a response not zero")
        value = cls(r.u32(), r.u32(), r.take(32), r.rest(), sha256(message[:-32]), message[-32:-16])
        if value.sender_index == 0:
            raise Drop("sender index zero")
        return value

    def mac1_is_of(self, k_mac: bytes) -> bool:
        return same(mac(k_mac, self.digest), self.mac1)


@dataclass
class ResponsePayload:
    lanes: int
    suite: int
    era: int
    revision: int
    statement: bytes

    def encode(self) -> bytes:
        return u8(self.lanes) + u8(self.suite) + u64(self.era) + u64(self.revision) + self.statement

    @classmethod
    def parse(cls, payload: bytes) -> "ResponsePayload":
        r = Reader(payload)
        value = cls(r.u8(), r.u8(), r.u64(), r.u64(), r.rest())
        if not 1 <= value.lanes <= 16:
            raise Drop("lanes not 1-16")
        if value.suite not in SUITES:
            raise Drop("unknown suite")
        return value


# ---------------------------------------------------------------------------------------------------------------------
# 3.5 Cookie


def cookie_key(k_mac: bytes) -> bytes:
    return hkdf(b"", k_mac, b"coterie/1 cookie", 32)


def cookie_for(secret: bytes, address: Address, port: int) -> bytes:
    return mac(secret, mapped(address) + u16(port))


def seal_cookie(k_mac: bytes, receiver_index: int, nonce: bytes, cookie: bytes, mac1: bytes) -> bytes:
    sealed = AESGCMSIV(cookie_key(k_mac)).encrypt(nonce, cookie, mac1)
    return u8(COOKIE) + bytes(3) + u32(receiver_index) + nonce + sealed


def cookie_receiver(message: bytes) -> int:
    if len(message) != 52:
        raise Drop("length of a cookie")
    r = Reader(message[1:])
    r.zeros(3)
    return r.u32()


def open_cookie(message: bytes, k_mac: bytes, mac1: bytes) -> bytes:
    cipher = AESGCMSIV(cookie_key(k_mac))
    return aead_open(cipher, message[8:20], message[20:], mac1, "cookie does not open")


# ---------------------------------------------------------------------------------------------------------------------
# 3.6 Offer, answer, confirm, and the final keys

OFFER, ANSWER_STEP, CONFIRM = 0, 1, 2
STEP_BODY = {OFFER: 1184, ANSWER_STEP: 1088, CONFIRM: 40}


def seal_step(key: bytes, step: int, receiver_index: int, body: bytes) -> bytes:
    """A provisional frame: `key` is `k_i` for offer and confirm, `k_r` for the answer."""
    header = u8(PROVISIONAL) + u8(step) + bytes(2) + u32(receiver_index)
    return header + AESGCMSIV(key).encrypt(bytes(11) + u8(step), body, header)


def step_header(message: bytes) -> tuple[int, int]:
    """(step, receiver index) of a provisional frame."""
    r = Reader(message[1:])
    step = r.u8()
    r.zeros(2)
    if step not in STEP_BODY or len(message) != 8 + STEP_BODY[step] + TAG_LEN:
        raise Drop("length or step of a provisional frame")
    return step, r.u32()


def open_step(key: bytes, message: bytes) -> bytes:
    return aead_open(AESGCMSIV(key), bytes(11) + message[1:2], message[8:], message[:8], "provisional frame does not open")


def encapsulate(ek: bytes) -> tuple[bytes, bytes]:
    """(m, ct) for an ML-KEM-768 encapsulation key."""
    try:
        return MLKEM768PublicKey.from_public_bytes(ek).encapsulate()
    except ValueError:
        raise Drop("not an ML-KEM-768 key") from None


def decapsulate(private: MLKEM768PrivateKey, ct: bytes) -> bytes:
    try:
        return private.decapsulate(ct)
    except ValueError:
        raise Drop("not an ML-KEM-768 ciphertext") from None


def wrap(k_wrap: bytes, secret: bytes) -> bytes:
    return keywrap.aes_key_wrap(k_wrap, secret)


def unwrap(k_wrap: bytes, wrapped: bytes) -> bytes:
    try:
        return keywrap.aes_key_unwrap(k_wrap, wrapped)
    except (keywrap.InvalidUnwrap, ValueError):
        raise Drop("session secret does not unwrap") from None


@dataclass
class FinalKeys:
    """(key, iv) of each lane, in both directions; lanes are numbered from 0."""

    i2r: list[tuple[bytes, bytes]]
    r2i: list[tuple[bytes, bytes]]


def final_keys(
    export: bytes, h: bytes, m: bytes, secret: bytes, ek: bytes, ct: bytes, wrapped: bytes, lanes_i: int, lanes_r: int
) -> FinalKeys:
    t = sha256(ek, ct, wrapped)
    root = hkdf_extract(export, m + secret)
    i2r = hkdf_expand(root, b"coterie/1 i2r" + h + t, 32)
    r2i = hkdf_expand(root, b"coterie/1 r2i" + h + t, 32)

    def lane(direction: bytes, number: int) -> tuple[bytes, bytes]:
        output = hkdf_expand(direction, b"coterie/1 lane" + u8(number), 44)
        return output[:32], output[32:]

    return FinalKeys([lane(i2r, n) for n in range(lanes_i)], [lane(r2i, n) for n in range(lanes_r)])


# ---------------------------------------------------------------------------------------------------------------------
# 5. Sealed packets

SEALED_HEADER = 16
WINDOW = 8192
COUNTER_END = 1 << 32
REKEY_COUNTER = 1 << 28
RECENT = 64


def packet_nonce(iv: bytes, salt: bytes, counter: int) -> bytes:
    return bytes(a ^ b for a, b in zip(iv, salt + bytes(2) + counter.to_bytes(6, "big")))


@dataclass(frozen=True)
class SealedHeader:
    lane: int
    receiver_index: int
    salt: bytes
    counter: int

    def encode(self) -> bytes:
        index = u8(SEALED) + u8(self.lane) + u32(self.receiver_index)
        return index + self.salt + self.counter.to_bytes(6, "big")

    @classmethod
    def parse(cls, datagram: bytes) -> "SealedHeader":
        if len(datagram) < SEALED_HEADER + TAG_LEN + 1:
            raise Drop("length of a sealed packet")
        r = Reader(datagram[1:SEALED_HEADER])
        return cls(r.u8(), r.u32(), r.take(4), int.from_bytes(r.take(6), "big"))


class SealingLane:
    def __init__(self, suite: int, lane: int, key: bytes, iv: bytes):
        self.cipher, self.lane, self.iv = SUITES[suite](key), lane, iv
        self.counter = 0

    def seal(self, receiver_index: int, salt: bytes, text: bytes) -> bytes:
        if self.counter >= COUNTER_END:
            raise Drop("lane is used up")
        header = SealedHeader(self.lane, receiver_index, salt, self.counter)
        self.counter += 1
        nonce, aad = packet_nonce(self.iv, salt, header.counter), header.encode()
        return aad + self.cipher.encrypt(nonce, text, aad)


class OpeningLane:
    """Opens the peer's lane: window of [5.1], and the last 64 packets' counters, salts and tags for [5.4]."""

    def __init__(self, suite: int, key: bytes, iv: bytes):
        self.cipher, self.iv = SUITES[suite](key), iv
        self.highest = -1
        self.seen = 0  # bit n: the counter `highest - n` was seen
        self.recent: dict[int, tuple[bytes, bytes]] = {}

    def is_fresh(self, counter: int) -> bool:
        if counter >= COUNTER_END:
            return False
        behind = self.highest - counter
        return behind < 0 or (behind < WINDOW and not self.seen >> behind & 1)

    def authentic_text(self, header: SealedHeader, datagram: bytes) -> bytes:
        nonce = packet_nonce(self.iv, header.salt, header.counter)
        sealed, aad = datagram[SEALED_HEADER:], datagram[:SEALED_HEADER]
        return aead_open(self.cipher, nonce, sealed, aad, "packet does not open")

    def open(self, header: SealedHeader, datagram: bytes) -> bytes:
        """Only for a counter that is fresh: only an authentic packet moves the window."""
        text = self.authentic_text(header, datagram)
        ahead = header.counter - self.highest
        if ahead > 0:
            self.seen = (self.seen << min(ahead, WINDOW) | 1) & ((1 << WINDOW) - 1)
            self.highest = header.counter
        else:
            self.seen |= 1 << -ahead
        self.recent[header.counter] = (header.salt, datagram[-TAG_LEN:])
        if len(self.recent) > RECENT:
            del self.recent[next(iter(self.recent))]
        return text

    def may_be_fork(self, header: SealedHeader, datagram: bytes) -> bool:
        """[5.4] A counter of the last 64 under another tag; `authentic_text` then tells whether it is one."""
        known = self.recent.get(header.counter)
        return known is not None and not same(known[1], datagram[-TAG_LEN:])

    def is_fork(self, header: SealedHeader) -> bool:
        return self.recent[header.counter][0] != header.salt


def inside_packet(text: bytes) -> tuple[bytes, Address, Address]:
    """(packet, source, destination) of an inside IP packet, cut to its own length [5.1 point 4]."""
    version = text[0] >> 4
    if version == 4 and len(text) >= 20:
        header, length = (text[0] & 15) * 4, int.from_bytes(text[2:4], "big")
        source, destination = ipaddress.IPv4Address(text[12:16]), ipaddress.IPv4Address(text[16:20])
    elif version == 6 and len(text) >= 40:
        header, length = 40, 40 + int.from_bytes(text[4:6], "big")
        source, destination = ipaddress.IPv6Address(text[8:24]), ipaddress.IPv6Address(text[24:40])
    else:
        raise Drop("not an IP packet")
    if header < 20 or not header <= length <= len(text):
        raise Drop("IP length does not fit")
    return text[:length], source, destination


# ---------------------------------------------------------------------------------------------------------------------
# 6. Control frames: the first byte of the text, then the body

KEEPALIVE, PROBE, PROBE_REPLY, CLOSE = 1, 2, 3, 4
REKEY_INITIATION, REKEY_RESPONSE, REKEY_OFFER, REKEY_ANSWER, REKEY_CONFIRM = 5, 6, 7, 8, 9
DIFFERENCE_REQUEST, DIFFERENCE, STATEMENT = 10, 11, 12
FIRST_NOT_A_FRAME = 0x10

REKEY_FRAME_OF_STEP = {OFFER: REKEY_OFFER, ANSWER_STEP: REKEY_ANSWER, CONFIRM: REKEY_CONFIRM}
STEP_OF_REKEY_FRAME = {frame: step for step, frame in REKEY_FRAME_OF_STEP.items()}
FRAME_BODY = {KEEPALIVE: 0, PROBE: 8, PROBE_REPLY: 8, CLOSE: 0, DIFFERENCE_REQUEST: 16} | {
    frame: 4 + STEP_BODY[step] for step, frame in REKEY_FRAME_OF_STEP.items()
}


def frame(kind: int, body: bytes = b"") -> bytes:
    return u8(kind) + body


def parse_frame(text: bytes) -> tuple[int, bytes]:
    """(frame, body); a frame of fixed length has just that length, for padding may follow no frame."""
    kind, body = text[0], text[1:]
    if not KEEPALIVE <= kind <= STATEMENT:
        raise Drop("unknown frame")
    if kind in FRAME_BODY and len(body) != FRAME_BODY[kind]:
        raise Drop("length of a frame")
    return kind, body


@dataclass
class Difference:
    """One chunk of [6.3]."""

    transfer: int
    offset: int
    total: int
    chunk: bytes

    MAX_CHUNK: ClassVar[int] = 1024

    def encode(self) -> bytes:
        return u32(self.transfer) + u32(self.offset) + u32(self.total) + self.chunk

    @classmethod
    def parse(cls, body: bytes) -> "Difference":
        r = Reader(body)
        value = cls(r.u32(), r.u32(), r.u32(), r.rest())
        if not 1 <= len(value.chunk) <= cls.MAX_CHUNK or value.total > 65535:
            raise Drop("size of a difference")
        if value.offset + len(value.chunk) > value.total:
            raise Drop("difference beyond its total")
        return value


def encode_difference(revocations: bytes, head: bytes) -> bytes:
    """All bytes of a difference; an empty part is none."""
    return u16(len(revocations)) + revocations + u16(len(head)) + head


def parse_difference(whole: bytes) -> tuple[bytes, bytes]:
    r = Reader(whole)
    parts = r.take(r.u16()), r.take(r.u16())
    r.end()
    return parts


# ---------------------------------------------------------------------------------------------------------------------
# 7. Direct query

QUESTION_LEN = MAX_ANSWER_LEN = 1200
QUERY_OVERHEAD = 4 + 12 + TAG_LEN + TAG_LEN


def seal_query(kind: int, key: CommunityKey, nonce: bytes, text: bytes) -> bytes:
    header = u8(kind) + bytes(3)
    before_mac = header + nonce + AESGCMSIV(key.k_query()).encrypt(nonce, text, header)
    return before_mac + mac(key.k_query_mac(), sha256(before_mac))


def query_is_of(datagram: bytes, key: CommunityKey) -> bool:
    return same(mac(key.k_query_mac(), sha256(datagram[:-TAG_LEN])), datagram[-TAG_LEN:])


def open_query(datagram: bytes, key: CommunityKey) -> bytes:
    cipher = AESGCMSIV(key.k_query())
    return aead_open(cipher, datagram[4:16], datagram[16:-TAG_LEN], datagram[:4], "query does not open")


def query_header(datagram: bytes) -> bytes:
    """Checks length and reserved bytes of a question or answer; gives its nonce."""
    fits = len(datagram) == QUESTION_LEN if datagram[0] == QUESTION else len(datagram) <= MAX_ANSWER_LEN
    if not fits or len(datagram) < QUERY_OVERHEAD:
        raise Drop("length of a query")
    r = Reader(datagram[1:])
    r.zeros(3)
    return r.take(12)


def question_text(sought: Address, statement: bytes) -> bytes:
    text = mapped(sought) + u16(len(statement)) + statement
    return text.ljust(QUESTION_LEN - QUERY_OVERHEAD, b"\0")


def parse_question(text: bytes) -> tuple[Address, bytes]:
    r = Reader(text)
    sought, statement = unmapped(r.take(16)), r.take(r.u16())
    r.zeros(len(r.left))
    return sought, statement


def answer_text(question_nonce: bytes, statement: bytes) -> bytes:
    return question_nonce + u16(len(statement)) + statement


def parse_answer(text: bytes) -> tuple[bytes, bytes]:
    r = Reader(text)
    nonce, statement = r.take(12), r.take(r.u16())
    r.end()
    return nonce, statement
