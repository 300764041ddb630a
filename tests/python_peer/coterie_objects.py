"""Coterie's primitives, encodings [1], community keys [2] and signed objects [4].

Written from docs/WIRE.md alone; section numbers in brackets are that document's.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import struct
from dataclasses import dataclass, field
from typing import Callable, ClassVar

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV, ChaCha20Poly1305

TAG_LEN = 16  # of every AEAD here, and of MAC()

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Drop(Exception):
    """What arrived does not match the document, or must not be accepted now. Nothing is answered."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


# ---------------------------------------------------------------------------------------------------------------------
# Primitives


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac_sha256(salt, ikm)


def hkdf_expand(prk: bytes, info: bytes, n: int) -> bytes:
    output, block = b"", b""
    for number in range(1, -(-n // 32) + 1):
        block = hmac_sha256(prk, block + info + bytes([number]))
        output += block
    return output[:n]


def hkdf(salt: bytes, ikm: bytes, info: bytes, n: int) -> bytes:
    """`HKDF(salt, ikm, info, n)`: extract, then expand to n bytes."""
    return hkdf_expand(hkdf_extract(salt, ikm), info, n)


def mac(key: bytes, message: bytes) -> bytes:
    """`MAC(k, m)`."""
    return hmac_sha256(key, message)[:TAG_LEN]


def same(a: bytes, b: bytes) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(a, b)


def x25519(private: bytes, public: bytes) -> bytes:
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise Drop("X25519 gave zero") from None


def x25519_public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def aead_open(cipher, nonce: bytes, sealed: bytes, aad: bytes, reason: str) -> bytes:
    try:
        return cipher.decrypt(nonce, sealed, aad)
    except (InvalidTag, ValueError):
        raise Drop(reason) from None


# The suites [3.1], by their bit.
AES_256_GCM, CHACHA20_POLY1305, AES_256_GCM_SIV = 1, 2, 4
ALL_SUITES = AES_256_GCM | CHACHA20_POLY1305 | AES_256_GCM_SIV
SUITES: dict[int, Callable] = {
    AES_256_GCM: AESGCM,
    CHACHA20_POLY1305: ChaCha20Poly1305,
    AES_256_GCM_SIV: AESGCMSIV,
}
SUITE_NAMES = {AES_256_GCM: "aes-256-gcm", CHACHA20_POLY1305: "chacha20-poly1305", AES_256_GCM_SIV: "aes-256-gcm-siv"}


def choose_suite(offered: int, offered_preferred: int, own: int, own_preferred: int) -> int:
    """[3.4] The responder's choice; each rule counts only if its suite is one that both have."""
    both = offered & own
    preferred = offered_preferred | own_preferred
    only_siv = AES_256_GCM_SIV in (offered, own)
    if both & AES_256_GCM_SIV and (only_siv or preferred & AES_256_GCM_SIV):
        return AES_256_GCM_SIV
    if both & CHACHA20_POLY1305 and preferred & CHACHA20_POLY1305:
        return CHACHA20_POLY1305
    for suite in (AES_256_GCM, CHACHA20_POLY1305, AES_256_GCM_SIV):
        if both & suite:
            return suite
    raise Drop("no common suite")


# ---------------------------------------------------------------------------------------------------------------------
# 1. Encoding of fields


def u8(value: int) -> bytes:
    return struct.pack(">B", value)


def u16(value: int) -> bytes:
    return struct.pack(">H", value)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def name(value: str) -> bytes:
    return u8(len(value)) + value.encode("ascii")


def prefix(value: Prefix) -> bytes:
    return u8(value.version) + u8(value.prefixlen) + value.network_address.packed


def mapped(address: Address) -> bytes:
    """An address in 16 bytes, IPv4 mapped into IPv6 ([3.5], [7])."""
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def unmapped(packed: bytes) -> Address:
    address = ipaddress.IPv6Address(packed)
    return address.ipv4_mapped or address


NAME = re.compile(rb"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Reader:
    """Takes fields from the front of an encoding; whatever does not fit is refused."""

    def __init__(self, encoding: bytes):
        self.left = encoding

    def take(self, n: int) -> bytes:
        if len(self.left) < n:
            raise Drop("encoding too short")
        taken, self.left = self.left[:n], self.left[n:]
        return taken

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def zeros(self, n: int) -> None:
        if any(self.take(n)):
            raise Drop("reserved bytes not zero")

    def name(self) -> str:
        value = self.take(self.u8())
        if not NAME.fullmatch(value):
            raise Drop("not a name")
        return value.decode("ascii")

    def prefix(self) -> Prefix:
        family, length = self.u8(), self.u8()
        if family not in (4, 6):
            raise Drop("unknown address family")
        network = ipaddress.IPv4Network if family == 4 else ipaddress.IPv6Network
        try:
            value = network((self.take(4 if family == 4 else 16), length))
        except ValueError:
            raise Drop("not a prefix") from None
        if family == 6 and value.network_address.ipv4_mapped is not None:
            raise Drop("IPv4-mapped prefix")
        return value

    def rest(self) -> bytes:
        return self.take(len(self.left))

    def end(self) -> None:
        if self.left:
            raise Drop("bytes left over")


# ---------------------------------------------------------------------------------------------------------------------
# 2. Keys of a community


@dataclass(frozen=True)
class CommunityKey:
    """`K` of one community in one epoch, and what comes of it. `S` is the static key of who checks the message."""

    tag: bytes
    epoch: int
    K: bytes = field(repr=False)

    def derive(self, label: bytes, *context: bytes) -> bytes:
        return hkdf(b"", self.K, label + self.tag + u64(self.epoch) + b"".join(context), 32)

    def psk(self, S: bytes) -> bytes:
        return self.derive(b"coterie/1 psk", S)

    def k_mac(self, S: bytes) -> bytes:
        return self.derive(b"coterie/1 mac", S)

    def k_wrap(self, S: bytes, h: bytes) -> bytes:
        return self.derive(b"coterie/1 wrap", S, h)

    def k_query(self) -> bytes:
        return self.derive(b"coterie/1 query")

    def k_query_mac(self) -> bytes:
        return self.derive(b"coterie/1 query mac")

    def commitment(self) -> bytes:
        return sha256(b"coterie/1 commitment", self.tag, u64(self.epoch), self.K)


# ---------------------------------------------------------------------------------------------------------------------
# 4. Signed objects: `body | signature(64)`, the signature over `label | 0x00 | body`


class Signed:
    label: ClassVar[bytes]
    kind: ClassVar[int]
    signed: bytes  # as it was signed; set by `sign` and `open`

    def fields(self) -> bytes:
        raise NotImplementedError

    @classmethod
    def parse(cls, reader: Reader) -> "Signed":
        raise NotImplementedError

    def sign(self, private: Ed25519PrivateKey) -> bytes:
        body = u8(self.kind) + self.fields()
        self.signed = body + private.sign(self.label + b"\0" + body)
        return self.signed

    @classmethod
    def open(cls, signed: bytes, signer: bytes):
        """The object, after its signature was checked under `signer`, an Ed25519 public key."""
        if len(signed) < 65:
            raise Drop("signed object too short")
        body, signature = signed[:-64], signed[-64:]
        try:
            Ed25519PublicKey.from_public_bytes(signer).verify(signature, cls.label + b"\0" + body)
        except (InvalidSignature, ValueError):
            raise Drop(f"bad signature on a {cls.__name__.lower()}") from None
        reader = Reader(body)
        if reader.u8() != cls.kind:
            raise Drop("wrong kind of signed object")
        value = cls.parse(reader)
        reader.end()
        value.signed = signed
        return value


@dataclass
class Authority(Signed):
    label, kind = b"coterie/1 authority", 1
    era: int
    enclave: bytes
    name: str
    statement_key: bytes
    not_after: int

    def fields(self) -> bytes:
        return u64(self.era) + self.enclave + name(self.name) + self.statement_key + u64(self.not_after)

    @classmethod
    def parse(cls, r: Reader) -> "Authority":
        return cls(r.u64(), r.take(16), r.name(), r.take(32), r.u64())


@dataclass
class Statement(Signed):
    label, kind = b"coterie/1 statement", 2
    era: int
    enclave: bytes
    community: bytes
    member: bytes
    member_name: str
    static: bytes
    prefixes: list[Prefix]
    serial: int
    not_after: int

    def fields(self) -> bytes:
        head = u64(self.era) + self.enclave + self.community + self.member + name(self.member_name) + self.static
        prefixes = u8(len(self.prefixes)) + b"".join(map(prefix, self.prefixes))
        return head + prefixes + u64(self.serial) + u64(self.not_after)

    @classmethod
    def parse(cls, r: Reader) -> "Statement":
        era, enclave, community, member = r.u64(), r.take(16), r.take(16), r.take(16)
        member_name, static, count = r.name(), r.take(32), r.u8()
        if count > 16:
            raise Drop("more than 16 prefixes")
        prefixes = [r.prefix() for _ in range(count)]
        return cls(era, enclave, community, member, member_name, static, prefixes, r.u64(), r.u64())

    def holds(self, address: Address) -> bool:
        return any(address in p for p in self.prefixes if p.version == address.version)


SCHEDULED, REMOVAL = 0, 1


@dataclass
class Manifest(Signed):
    label, kind = b"coterie/1 manifest", 3
    era: int
    enclave: bytes
    community: bytes
    community_name: str
    priority: int
    epoch: int
    commitment: bytes
    activates: int
    retires: int
    cause: int  # the body's "kind": SCHEDULED or REMOVAL
    holders: int

    def fields(self) -> bytes:
        community = u64(self.era) + self.enclave + self.community + name(self.community_name) + u16(self.priority)
        epoch = u64(self.epoch) + self.commitment + u64(self.activates) + u64(self.retires)
        return community + epoch + u8(self.cause) + u32(self.holders)

    @classmethod
    def parse(cls, r: Reader) -> "Manifest":
        community = (r.u64(), r.take(16), r.take(16), r.name(), r.u16())
        value = cls(*community, r.u64(), r.take(32), r.u64(), r.u64(), r.u8(), r.u32())
        if value.cause not in (SCHEDULED, REMOVAL):
            raise Drop("unknown kind of manifest")
        return value


@dataclass
class Revocations(Signed):
    label, kind = b"coterie/1 revocations", 4
    era: int
    enclave: bytes
    revision: int
    entries: list[tuple[bytes, bytes, int]]  # member id, static key, until

    def fields(self) -> bytes:
        entries = b"".join(member + static + u64(until) for member, static, until in self.entries)
        return u64(self.era) + self.enclave + u64(self.revision) + u16(len(self.entries)) + entries

    @classmethod
    def parse(cls, r: Reader) -> "Revocations":
        era, enclave, revision, count = r.u64(), r.take(16), r.u64(), r.u16()
        if count > 900:
            raise Drop("more than 900 revocations")
        entries = [(r.take(16), r.take(32), r.u64()) for _ in range(count)]
        statics = [static for _, static, _ in entries]
        if any(a >= b for a, b in zip(statics, statics[1:])):
            raise Drop("revocations not sorted")
        return cls(era, enclave, revision, entries)


@dataclass
class Head(Signed):
    label, kind = b"coterie/1 head", 5
    era: int
    enclave: bytes
    revision: int
    time: int
    digest: bytes

    def fields(self) -> bytes:
        return u64(self.era) + self.enclave + u64(self.revision) + u64(self.time) + self.digest

    @classmethod
    def parse(cls, r: Reader) -> "Head":
        return cls(r.u64(), r.take(16), r.u64(), r.u64(), r.take(32))

    @staticmethod
    def digest_of(revocations_signed: bytes) -> bytes:
        return sha256(b"coterie/1 head", revocations_signed)
