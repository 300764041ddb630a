"""An enclave for the selftest: issues authority, statements, manifests, keys and revocations [4] as identity files."""

from __future__ import annotations

import ipaddress
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import coterie_objects as o

LEASE = 3600
FAR = 10 * 365 * 86400


@dataclass
class Issued:
    """A member as its authority knows it."""

    name: str
    prefixes: list[o.Prefix]
    private: bytes = field(default_factory=lambda: os.urandom(32), repr=False)
    member: bytes = field(default_factory=lambda: os.urandom(16))

    @property
    def static(self) -> bytes:
        return o.x25519_public(self.private)


class Enclave:
    def __init__(self, directory: Path):
        self.directory = directory
        self.root, self.signer = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.now = int(time.time())
        self.era, self.id = 3, os.urandom(16)
        statement_key = self.signer.public_key().public_bytes_raw()
        self.authority = o.Authority(self.era, self.id, "selftest", statement_key, self.now + FAR).sign(self.root)
        self.keys: list[o.CommunityKey] = []
        self.manifests: list[bytes] = []

    def community(self, name: str = "web", epoch: int = 1) -> bytes:
        tag = os.urandom(16)
        self.epoch(tag, epoch, name=name)
        return tag

    def epoch(
        self, tag: bytes, epoch: int, activates: int = -LEASE, retires: int = FAR, cause: int = o.SCHEDULED, name="web"
    ) -> o.CommunityKey:
        """A new epoch; the times are seconds from now."""
        key = o.CommunityKey(tag, epoch, os.urandom(32))
        times = self.now + activates, self.now + retires
        manifest = o.Manifest(self.era, self.id, tag, name, 10, epoch, key.commitment(), *times, cause, 2)
        self.manifests.append(manifest.sign(self.signer))
        self.keys.append(key)
        return key

    def statement(self, issued: Issued, tag: bytes, serial: int = 1, lease: int = LEASE, **changed) -> o.Statement:
        fields = dict(
            era=self.era,
            enclave=self.id,
            community=tag,
            member=issued.member,
            member_name=issued.name,
            static=issued.static,
            prefixes=issued.prefixes,
            serial=serial,
            not_after=self.now + lease,
        )
        statement = o.Statement(**(fields | changed))
        statement.sign(self.signer)
        return statement

    def revocations(self, revision: int, revoked: list[Issued]) -> o.Revocations:
        entries = sorted(((r.member, r.static, self.now + FAR) for r in revoked), key=lambda entry: entry[1])
        value = o.Revocations(self.era, self.id, revision, entries)
        value.sign(self.signer)
        return value

    def head(self, revocations: o.Revocations, time_from_now: int = 0) -> o.Head:
        digest = o.Head.digest_of(revocations.signed)
        value = o.Head(self.era, self.id, revocations.revision, self.now + time_from_now, digest)
        value.sign(self.signer)
        return value

    def identity(
        self,
        issued: Issued,
        statements: list[o.Statement],
        peers: list[tuple[Issued, list[o.Statement], list[str]]] = (),
        keys: list[o.CommunityKey] | None = None,
        revocations: o.Revocations | None = None,
        head: o.Head | None = None,
    ) -> Path:
        path = self.directory / f"{issued.name}.json"
        path.write_text(
            json.dumps(
                {
                    "static_private": issued.private.hex(),
                    "authority": self.authority.hex(),
                    "root_key": self.root.public_key().public_bytes_raw().hex(),
                    "keys": [
                        {"tag": key.tag.hex(), "epoch": key.epoch, "key": key.K.hex()}
                        for key in (self.keys if keys is None else keys)
                    ],
                    "manifests": [manifest.hex() for manifest in self.manifests],
                    "statements": [statement.signed.hex() for statement in statements],
                    "peers": [
                        {
                            "name": peer.name,
                            "static": peer.static.hex(),
                            "addresses": [str(p.network_address) for p in peer.prefixes],
                            "endpoints": endpoints,
                            "statements": [statement.signed.hex() for statement in theirs],
                        }
                        for peer, theirs, endpoints in peers
                    ],
                    "revocations": revocations.signed.hex() if revocations else None,
                    "head": head.signed.hex() if head else None,
                    "counter": 0,
                },
                indent=1,
            )
        )
        return path


def prefixes(*texts: str) -> list[o.Prefix]:
    return [ipaddress.ip_network(text) for text in texts]
