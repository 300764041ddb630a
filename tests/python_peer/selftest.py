"""Python to Python over loopback: every rule of docs/WIRE.md that two peers and somebody on the wire between can show.

python3 selftest.py [name of a test …]      prints `N passed, N failed`
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import coterie_wire as w
import peer as peer_program
from enclave import LEASE, Issued, prefixes
from membership import Clock
from peer import Peer
from world import Wire, World, dropped, flips, program_identities, run_program, serving, with_mac1_again

# ---------------------------------------------------------------------------------------------------------------------
# Encodings, keys, choices


def test_hkdf_is_that_of_rfc_5869(world):
    prk = w.hkdf_extract(bytes(range(13)), b"\x0b" * 22)
    assert prk.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    okm = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert w.hkdf_expand(prk, bytes(range(0xF0, 0xFA)), 42).hex() == okm


def test_noise_of_fixed_keys(world):
    """The expected values come from another Noise library, not from this one."""
    key = w.CommunityKey(b"\x11" * 16, 7, b"\x22" * 32)
    static_i, static_r, ephemeral_i, ephemeral_r = (bytes([n]) * 32 for n in (1, 2, 3, 4))
    S, static = w.x25519_public(static_r), w.x25519_public(static_i)
    initiator, responder = w.Noise(key, S), w.Noise(key, S)
    message_1 = initiator.write_message_1(static_i, ephemeral_i, S, b"one")
    assert responder.read_static(static_r, message_1[:32], message_1[32:80]) == static
    assert responder.read_payload(static_r, static, message_1[80:]) == b"one"
    message_2 = responder.write_message_2(ephemeral_r, message_1[:32], static, b"two")
    assert initiator.read_message_2(static_i, ephemeral_i, message_2[:32], message_2[32:]) == b"two"
    assert initiator.h == responder.h and initiator.split() == responder.split()
    messages = "cbc61111380503e7f0d09fe1e95bd41748b42a404ab132b7657f24e3a60ca31f"
    handshake_hash = "e7155a9ca35d3a7cb9b056b2a3bb977f044bfbd8a67b87b48ae924d20892443a"
    k_i_and_k_r = "355fc5f29a046f8a4308eb5bc6a1ac972d2206b3f4e166d8111cd027c1689b34"
    assert w.sha256(message_1, message_2).hex() == messages
    assert initiator.h.hex() == handshake_hash
    assert w.sha256(*initiator.split()[:2]).hex() == k_i_and_k_r


def test_signed_objects_round_trip_and_refuse_every_flipped_byte(world):
    enclave, key = world.enclave, world.enclave.signer.public_key().public_bytes_raw()
    statement = enclave.statement(world.issued["a"], world.tag)
    revocations = enclave.revocations(4, list(world.issued.values()))
    head = enclave.head(revocations)
    manifest = w.Manifest.open(enclave.manifests[0], key)
    for value in (statement, manifest, revocations, head):
        opened = type(value).open(value.signed, key)
        assert opened == value and b"\x01\x02\x03\x04\x05".find(value.signed[:1]) == value.kind - 1
        for flipped in flips(value.signed):
            with dropped():
                type(value).open(flipped, key)
    with dropped("bad signature on a head"):  # the label is under the signature
        w.Head.open(revocations.signed, key)


def test_encodings_that_do_not_match_are_refused(world):
    enclave, issued = world.enclave, world.issued["a"]
    key = enclave.signer.public_key().public_bytes_raw()

    def refused(reason: str, **changed):
        with dropped(reason):
            w.Statement.open(enclave.statement(issued, world.tag, **changed).signed, key)

    refused("not a name", member_name="")
    refused("not a name", member_name="-a")
    refused("not a name", member_name="a-")
    refused("not a name", member_name="A")
    refused("not a name", member_name="a" * 64)
    refused("IPv4-mapped prefix", prefixes=prefixes("::ffff:10.0.0.1/128"))
    refused("more than 16 prefixes", prefixes=prefixes("10.0.0.1/32") * 17)
    w.Statement.open(enclave.statement(issued, world.tag, member_name="a" * 63).signed, key)
    for encoded, reason in (
        (b"\x04\x18\x0a\x00\x00\x01", "not a prefix"),  # host bits
        (b"\x04\x21\x0a\x00\x00\x01", "not a prefix"),  # longer than the address
        (b"\x05\x08\x0a\x00\x00\x00", "unknown address family"),
        (b"\x06\x08\x0a\x00\x00\x00", "encoding too short"),
    ):
        with dropped(reason):
            w.Reader(encoded).prefix()
    backwards = w.Revocations(3, enclave.id, 1, [(bytes(16), b"\2" * 32, 9), (bytes(16), b"\1" * 32, 9)])
    with dropped("revocations not sorted"):
        w.Revocations.open(backwards.sign(enclave.signer), key)
    longer = enclave.signer.sign(
        w.Statement.label + b"\0" + b"\2" + enclave.statement(issued, world.tag).fields() + b"0"
    )
    with dropped("bytes left over"):
        w.Statement.open(b"\2" + enclave.statement(issued, world.tag).fields() + b"0" + longer, key)


def test_suite_choice(world):
    gcm, chacha, siv, every = w.AES_256_GCM, w.CHACHA20_POLY1305, w.AES_256_GCM_SIV, w.ALL_SUITES
    assert w.choose_suite(every, gcm, every, gcm) == gcm
    assert w.choose_suite(every, chacha, every, gcm) == chacha
    assert w.choose_suite(every, gcm, every, chacha) == chacha
    assert w.choose_suite(every, siv, every, chacha) == siv
    assert w.choose_suite(siv, siv, every, gcm) == siv
    assert w.choose_suite(every, gcm, siv, siv) == siv
    assert w.choose_suite(gcm | chacha, gcm, chacha | siv, siv) == chacha
    with dropped("no common suite"):
        w.choose_suite(gcm, gcm, chacha, chacha)


# ---------------------------------------------------------------------------------------------------------------------
# First contact


def suite_handshake(world, suite: int) -> None:
    a, b = world.pair(a={"preferred": suite})
    for one, other in ((a, b), (b, a)):
        mine, theirs = world.handshake(one, other)
        assert mine.suite == theirs.suite
        assert mine.is_initiator and not theirs.is_initiator
        assert mine.suite == suite
        for peer, name in ((a, "10.77.1.2"), (a, "fd77::2")):
            world.echo(peer, b, name)
        world.echo(b, a, "10.77.1.1")
        world.echo(b, a, "fd77::1")
    assert not a.member.pending and not b.member.half_open
    assert not a.member.drops and not b.member.drops, (a.member.drops, b.member.drops)


def test_handshake_both_ways_with_aes_256_gcm(world):
    suite_handshake(world, w.AES_256_GCM)


def test_handshake_both_ways_with_chacha20_poly1305(world):
    suite_handshake(world, w.CHACHA20_POLY1305)


def test_handshake_both_ways_with_aes_256_gcm_siv(world):
    suite_handshake(world, w.AES_256_GCM_SIV)


def test_lanes_of_both_sides(world):
    a, b = world.pair(a={"lanes": 4}, b={"lanes": 16})
    mine, theirs = world.handshake(a, b)
    assert (len(mine.sealing), len(mine.opening), len(theirs.sealing), len(theirs.opening)) == (4, 16, 16, 4)
    for _ in range(20):
        world.echo(a, b, "10.77.1.2")
    assert all(lane.counter >= 5 for lane in mine.sealing) and all(lane.counter >= 1 for lane in theirs.sealing)


def test_sizes_on_the_wire(world):
    a, b = world.pair()
    world.handshake(a, b)
    sent = [datagram for peer in (a, b) for datagram, _ in peer.transmitted]
    by_type = {datagram[0]: datagram for datagram in sent}
    steps = {datagram[1]: len(datagram) for datagram in sent if datagram[0] == w.PROVISIONAL}
    assert steps == {w.OFFER: 8 + 1184 + 16, w.ANSWER_STEP: 8 + 1088 + 16, w.CONFIRM: 8 + 40 + 16}
    assert len(by_type[w.SEALED]) == 16 + 1 + 8 + 16
    assert all(len(datagram) <= 1232 for datagram in sent)
    for secret in (world.tag, world.issued["a"].static, world.issued["b"].static):
        assert not any(secret in datagram for datagram in sent)


def test_replayed_initiation_gets_silence(world):
    a, b = world.pair()
    initiation = world.captured(a, b)
    assert world.wire.give(b, initiation)[0][0] == w.RESPONSE
    world.wire.silent(b, initiation, "mac1 seen before")
    again = with_mac1_again(initiation[:4] + w.u32(77) + initiation[8:], world.enclave.keys[0], b.member.static)
    world.wire.silent(b, again, "initiation counter not above the highest")


def test_replay_after_a_restart_gets_silence(world):
    a, b = world.pair()
    earlier, initiation = world.captured(a, b), world.captured(a, b)
    assert world.wire.give(b, initiation)
    restarted = world.start(b.member.identity.path)
    for replayed in (initiation, earlier):
        world.wire.silent(restarted, replayed, "initiation counter not above the highest")
    assert world.wire.give(restarted, world.captured(a, b))


def test_own_counters_go_on_from_the_stored_block(world):
    a = world.peer("a")
    assert [a.member.stored.own_counter() for _ in range(3)] == [1, 2, 3]
    restarted = world.start(a.member.identity.path)
    assert restarted.member.stored.own_counter() == 4097
    for _ in range(4095):
        restarted.member.stored.own_counter()
    assert json.loads(Path(f"{a.member.identity.path}.counter").read_text())["end"] == 8192
    assert restarted.member.stored.own_counter() == 8193


def test_wrong_community_key_gets_silence(world):
    a, b = world.pair()
    right = world.enclave.keys[0]
    noise_1 = os.urandom(32 + 48 + 250)
    for key in (
        w.CommunityKey(right.tag, right.epoch, os.urandom(32)),
        w.CommunityKey(right.tag, right.epoch + 1, right.K),
        w.CommunityKey(os.urandom(16), right.epoch, right.K),
    ):
        message = w.with_macs(w.Initiation.header(5) + noise_1, key.k_mac(b.member.static))
        world.wire.silent(b, message, "mac1 of no community")
    to_another = w.with_macs(w.Initiation.header(5) + noise_1, right.k_mac(a.member.static))
    world.wire.silent(b, to_another, "mac1 of no community")
    noise = w.with_macs(w.Initiation.header(5) + noise_1, right.k_mac(b.member.static))
    world.wire.silent(b, noise, "static key does not open")


def test_flipped_bits_in_an_initiation_get_silence(world):
    a, b = world.pair()
    initiation = world.captured(a, b)
    for flipped in flips(initiation, end=len(initiation) - 16):
        world.wire.silent(b, flipped)
    for flipped in flips(initiation, 8, len(initiation) - 32):  # by one who holds the community's key
        world.clock.advance(1)
        world.wire.silent(b, with_mac1_again(flipped, world.enclave.keys[0], b.member.static))
    for length in (0, 1, 7, 167, len(initiation) - 1):
        world.wire.silent(b, initiation[:length])
    world.wire.silent(b, initiation + b"\0")
    world.clock.advance(1)
    assert world.wire.give(b, initiation)[0][0] == w.RESPONSE


def test_flipped_bits_in_every_later_message_get_silence(world):
    a, b = world.pair()
    initiation = world.captured(a, b)
    (response,) = world.wire.give(b, initiation)
    for flipped in flips(response):
        world.wire.silent(a, flipped)
    (offer,) = world.wire.give(a, response)
    for flipped in flips(offer):
        world.wire.silent(b, flipped)
    (answer,) = world.wire.give(b, offer)
    assert world.wire.give(b, offer) == [answer], "a repeated offer is answered with the same answer"
    for flipped in flips(answer):
        world.wire.silent(a, flipped)
    confirm, probe = world.wire.give(a, answer)
    world.wire.silent(b, probe, "no such session")  # nothing under final keys before confirm
    for flipped in flips(confirm):
        world.wire.silent(b, flipped)
    assert world.wire.give(b, confirm) == []
    world.wire.silent(b, confirm, "repeated confirm")
    for flipped in flips(probe):
        world.wire.silent(b, flipped)
    assert world.session(b, a) is None
    (reply,) = world.wire.give(b, probe)
    assert world.session(b, a).carries
    for flipped in flips(reply):
        world.wire.silent(a, flipped)
    assert world.session(a, b) is None
    assert world.wire.give(a, reply) == []
    assert world.session(a, b).carries


def test_lost_messages_are_repeated(world):
    a, b = world.pair()
    pending = a.member.connect(b.member.static, world.tag, world.wire.endpoint)
    first = a.transmitted[-1][0]
    seen = []
    for _ in range(3):
        world.clock.advance(2.5)
        a.member.tick()
        seen.append(a.transmitted[-1][0])
    assert len({first[4:8], *(s[4:8] for s in seen)}) == 4, "each repetition is a new initiation"
    (late,) = world.wire.give(b, first)
    world.wire.silent(a, late, "no such handshake")  # the initiator has replaced it
    (response,) = world.wire.give(b, seen[-1])
    assert len(b.member.half_open) == 1, "a newer initiation replaces the older"
    (offer,) = world.wire.give(a, response)
    world.clock.advance(0.31)
    before = len(a.transmitted)
    a.member.tick()
    assert [d for d, _ in a.transmitted[before:]] == [offer], "repeating a step repeats the same bytes"
    (answer,) = world.wire.give(b, offer)
    confirm, probe = world.wire.give(a, answer)
    before = len(a.transmitted)
    world.clock.advance(0.31)
    a.member.tick()
    again = [d for d, _ in a.transmitted[before:]]
    assert again[0] == confirm and again[1] != probe and w.SealedHeader.parse(again[1]).counter == 1
    world.clock.advance(10.1)
    a.member.tick()
    b.member.tick()
    assert pending.step == "failed: confirm" and not a.member.pending and not a.member.sessions
    assert not b.member.half_open


def test_simultaneous_initiations_leave_one_session(world):
    a, b = world.pair()
    pending = {
        peer: peer.member.connect(other.member.static, world.tag, other.endpoint) for peer, other in ((a, b), (b, a))
    }
    low, high = sorted((a, b), key=lambda peer: peer.member.static)
    world.pump(lambda: world.session(a, b) and world.session(b, a))
    world.settle()
    assert pending[low].step == "done" and pending[high].step == "forgotten"
    assert world.session(low, high).is_initiator and not world.session(high, low).is_initiator
    assert len(a.member.sessions) == len(b.member.sessions) == 1
    world.echo(a, b, "10.77.1.2")


def test_initiations_of_one_static_key_are_limited(world):
    a, b = world.pair()
    initiations = [world.captured(a, b) for _ in range(10)]
    for initiation in initiations[:8]:
        assert world.wire.give(b, initiation)
    world.wire.silent(b, initiations[8], "too many initiations of this static key")
    world.clock.advance(0.25)
    assert world.wire.give(b, initiations[9])


def test_cookie_under_load(world):
    a, b = world.pair(b={"cookies_above": 0})
    cookie = world.wire.give(b, world.captured(a, b))[0]
    assert cookie[0] == w.COOKIE and len(cookie) == 52
    for flipped in flips(cookie):
        world.wire.silent(a, flipped)
    pending = next(iter(a.member.pending.values()))
    assert world.wire.give(a, cookie) == [] and pending.cookie
    world.clock.advance(0.31)
    a.member.tick()
    with_cookie = a.transmitted[-1][0]
    assert any(with_cookie[-16:])
    wrong = with_cookie[:-16] + bytes([with_cookie[-16] ^ 1]) + with_cookie[-15:]
    assert world.wire.give(b, wrong)[0][0] == w.COOKIE
    stranger = Wire()
    other = with_mac1_again(with_cookie[:4] + w.u32(9) + with_cookie[8:], world.enclave.keys[0], b.member.static)
    assert stranger.give(b, other[:-16] + with_cookie[-16:])[0][0] == w.COOKIE
    stranger.socket.close()
    world.clock.advance(0.5)
    a.member.tick()
    assert not any(a.transmitted[-1][0][-16:]), "a cookie is used for the next initiation only"


def test_handshake_through_a_cookie(world):
    a, b = world.pair(a={"clock": Clock()}, b={"cookies_above": 0, "clock": Clock()})
    world.handshake(a, b)
    assert a.member.session_with(b.member.static, world.tag).carries
    assert b.member.drops["asked for a cookie"] == 1
    world.echo(a, b, "10.77.1.2")


# ---------------------------------------------------------------------------------------------------------------------
# Membership


def refused_at_b(world, reason: str, a=(), b=()) -> None:
    one, other = world.pair(a, b)
    world.wire.silent(other, world.captured(one, other), reason)


def test_statement_of_a_stranger_gets_silence(world):
    statement = world.enclave.statement(world.issued["a"], world.tag)
    a, b = world.pair()
    statement.sign(Ed25519PrivateKey.generate())
    a.member.membership.own[world.tag] = statement
    world.wire.silent(b, world.captured(a, b), "bad signature on a statement")


def test_statement_of_another_member_gets_silence(world):
    a, b = world.pair()
    a.member.membership.own[world.tag] = world.enclave.statement(world.issued["b"], world.tag)
    world.wire.silent(b, world.captured(a, b), "statement of another static key")


def test_statement_of_another_community_or_enclave_gets_silence(world):
    a, b = world.pair()
    for reason, changed in (
        ("statement of another community", {"community": os.urandom(16)}),
        ("another enclave", {"enclave": os.urandom(16)}),
        ("another era", {"era": 2}),
    ):
        a.member.membership.own[world.tag] = world.enclave.statement(world.issued["a"], world.tag, **changed)
        world.wire.silent(b, world.captured(a, b), reason)


def test_ended_statement_gets_silence(world):
    a, b = world.pair()
    initiation = world.captured(a, b)
    world.clock.advance(LEASE)
    b.member.membership.own[world.tag] = world.enclave.statement(world.issued["b"], world.tag, 2, 2 * LEASE)
    world.wire.silent(b, initiation, "statement has ended")


def test_superseded_statement_gets_silence(world):
    a, b = world.pair()
    other = world.issued["b"].prefixes
    b.member.membership.remember(world.enclave.statement(world.issued["a"], world.tag, serial=2, prefixes=other))
    world.wire.silent(b, world.captured(a, b), "superseded by a newer statement")


def test_statement_that_says_the_same_as_a_newer_one_is_good(world):
    a, b = world.pair()
    b.member.membership.remember(world.enclave.statement(world.issued["a"], world.tag, serial=2))
    world.handshake(a, b)


def test_revoked_static_key_gets_silence(world):
    revocations = world.enclave.revocations(1, [world.issued["a"]])
    head = world.enclave.head(revocations)
    refused_at_b(world, "static key is revoked", b={"revocations": revocations, "head": head})


def test_epochs(world):
    enclave, tag = world.enclave, world.tag
    enclave.epoch(tag, 2, activates=60)
    enclave.epoch(tag, 3, activates=61)
    enclave.epoch(tag, 4, activates=-LEASE, retires=0)
    a, b = world.pair()
    clock = world.clock
    clock.wall_at = enclave.now
    for peer in (a, b):
        peer.member.membership.time.base = enclave.now
    assert [key.epoch for key in b.member.membership.accepted_keys()] == [2, 1]
    assert a.member.membership.newest_key(tag).epoch == 1
    clock.advance(60)
    assert [key.epoch for key in b.member.membership.accepted_keys()] == [3, 2, 1]
    assert a.member.membership.newest_key(tag).epoch == 2
    assert world.handshake(a, b)[0].epoch == 2


def test_epoch_ended_by_a_removal(world):
    enclave, tag = world.enclave, world.tag
    enclave.epoch(tag, 2, activates=0, cause=w.REMOVAL)
    a, b = world.pair(a={"keys": enclave.keys[:1]})
    b.member.membership.time.base = enclave.now
    b.member.membership.time.since = world.clock.running()
    world.clock.advance(9)
    assert world.wire.give(b, world.captured(a, b))
    world.clock.advance(1)
    a.member.membership.manifests.pop((tag, 2))  # the removed one does not know
    world.wire.silent(b, world.captured(a, b), "mac1 of no community")


def test_statement_frame_extends_a_session(world):
    a, b = world.pair()
    world.handshake(a, b)
    a.member.announce(world.enclave.statement(world.issued["a"], world.tag, 5, 2 * LEASE))
    world.settle()
    assert world.session(b, a).peer_statement.serial == 5
    assert world.session(a, b).own_statement.serial == 5
    a.member.send_frame(
        world.session(a, b), w.STATEMENT, world.enclave.statement(world.issued["a"], world.tag, 4).signed
    )
    world.settle()
    assert world.session(b, a).peer_statement.serial == 5 and b.member.drops["statement is not newer"] == 1


def test_sessions_end_with_a_statement(world):
    short = world.enclave.statement(world.issued["a"], world.tag, lease=100)
    a, b = world.pair(a={"statement": short})
    world.handshake(a, b)
    world.clock.advance(102)
    for peer in (a, b):
        peer.member.tick()
        assert not peer.member.sessions


def test_difference_revokes_a_session(world):
    enclave = world.enclave
    third = [Issued(f"m{n}", prefixes("10.77.9.1/32")) for n in range(60)]
    revocations = enclave.revocations(7, [*third, world.issued["b"]])
    c = Issued("c", prefixes("10.77.1.3/32"))
    world.issued["c"] = c
    a, b = world.pair()
    newer = world.peer("c", revocations=revocations, head=enclave.head(revocations, 5))
    world.handshake(a, b)
    newer.member.connect(a.member.static, world.tag, a.endpoint)
    world.pump(lambda: a.member.membership.revision == 7)
    assert world.session(a, b) is None and world.session(a, newer).carries
    assert a.member.membership.head.time == enclave.now + 5 and a.member.membership.now() >= enclave.now + 5
    assert len(revocations.signed) > 3 * 1024, "it went in chunks"
    restarted = world.start(a.member.identity.path)
    assert restarted.member.membership.revision == 7 and restarted.member.membership.is_revoked(b.member.static)
    lower = enclave.revocations(6, [])
    restarted.member.membership.apply_difference(lower.signed, enclave.head(lower, 4).signed)
    assert restarted.member.membership.revision == 7
    assert restarted.member.membership.alarms == ["revocations of a lower revision", "head of a lower time"]


# ---------------------------------------------------------------------------------------------------------------------
# Sessions


def test_packets_are_opened_once_and_within_the_window(world):
    a, b = world.pair()
    mine, theirs = world.handshake(a, b)
    packets = [world.captured_packet(a, b) for _ in range(3)]
    reply = world.wire.give(b, packets[1])
    assert reply and reply[-1][0] == w.SEALED
    world.wire.silent(b, packets[1], "counter seen or too old")
    assert world.wire.give(b, packets[0]), "late, within the window"
    mine.sealing[0].counter = 8192 + w.SealedHeader.parse(packets[2]).counter
    assert world.wire.give(b, world.captured_packet(a, b))
    world.wire.silent(b, packets[2], "counter seen or too old")
    for flipped in flips(world.captured_packet(a, b)):
        world.wire.silent(b, flipped)
    mine.sealing[0].counter = w.COUNTER_END - 1
    assert world.wire.give(b, world.captured_packet(a, b))
    with dropped("lane is used up"):
        mine.seal(b"\1")


def test_addresses_of_others_are_dropped(world):
    a, b = world.pair()
    mine, _ = world.handshake(a, b)
    echo = peer_program.echo_packet
    one, two, other = (ipaddress.ip_address(f"10.77.1.{n}") for n in (1, 2, 9))
    for source, destination, reason in (
        (other, two, "source address is not the sender's"),
        (one, other, "destination address is not ours"),
    ):
        a.member.send_packet(mine, echo(8, source, destination, os.urandom(8)))
        world.settle()
        assert b.member.drops == {reason: 1}, b.member.drops
        b.member.drops.clear()
    a.member.send_packet(mine, echo(8, one, two, os.urandom(8))[:-1])
    world.settle()
    assert b.member.drops == {"IP length does not fit": 1}


def test_longer_prefix_of_another_member_wins(world):
    world.issued["a"].prefixes = prefixes("10.77.0.0/16")
    a, b = world.pair()
    third = Issued("c", prefixes("10.77.1.0/24"))
    b.member.membership.remember(world.enclave.statement(third, world.tag))
    mine, _ = world.handshake(a, b)
    for source, wrong in (("10.77.1.9", 1), ("10.77.2.9", 0)):
        b.member.drops.clear()
        packet = peer_program.echo_packet(8, ipaddress.ip_address(source), ipaddress.ip_address("10.77.1.2"), bytes(8))
        a.member.send_packet(mine, packet)
        world.settle()
        assert b.member.drops["source address is not the sender's"] == wrong


def test_frames_that_do_not_match_are_dropped(world):
    a, b = world.pair()
    mine, _ = world.handshake(a, b)
    for text, reason in (
        (b"\x00", "unknown frame"),
        (b"\x0d", "unknown frame"),
        (b"\x01\x00", "length of a frame"),
        (b"\x02" + bytes(9), "length of a frame"),
        (b"\x03" + bytes(8), "probe reply without a probe"),
        (b"\x10", "not an IP packet"),
        (b"\x40", "not an IP packet"),
    ):
        b.member.drops.clear()
        a.member.transmit(mine.seal(text), b.endpoint)
        world.settle()
        assert b.member.drops == {reason: 1}, (text, b.member.drops)


def rekeyed(world, by: Peer, other: Peer) -> None:
    older = world.session(by, other), world.session(other, by)
    pending = by.member.rekey(older[0])
    world.pump(lambda: pending.step == "done" and world.session(other, by) is not older[1])
    newer = world.session(by, other), world.session(other, by)
    assert newer[0].is_initiator and not newer[1].is_initiator
    world.settle()
    types = {datagram[0] for peer in (by, other) for datagram, _ in peer.transmitted}
    assert types == {w.SEALED}, "a rekey runs inside the session"
    world.echo(by, other, "10.77.1.2" if by.member.static == world.issued["a"].static else "10.77.1.1")
    by.member.transmit(older[0].seal(w.frame(w.KEEPALIVE)), other.endpoint)
    before = other.received
    world.pump(lambda: other.received > before)
    assert not other.member.drops, "the older session still opens"


def test_rekey_in_the_session_by_either_side(world):
    a, b = world.pair()
    world.handshake(a, b)
    for by, other in ((a, b), (b, a), (a, b)):
        by.transmitted.clear()
        other.transmitted.clear()
        rekeyed(world, by, other)


def test_rekey_when_both_start(world):
    a, b = world.pair()
    world.handshake(a, b)
    older = world.session(a, b), world.session(b, a)
    pending = {peer: peer.member.rekey(session) for peer, session in zip((a, b), older)}
    world.pump(lambda: world.session(a, b) is not older[0] and world.session(b, a) is not older[1])
    low, high = sorted((a, b), key=lambda peer: peer.member.static)
    assert pending[low].step == "done" and pending[high].step == "forgotten"
    assert world.session(low, high).is_initiator
    world.echo(a, b, "10.77.1.2")


def test_rekey_at_its_time_and_end_at_its_time(world):
    a, b = world.pair()
    first, _ = world.handshake(a, b)
    world.echo(a, b, "10.77.1.2")
    world.clock.advance(119.9)
    world.pump(lambda: True)
    assert world.session(a, b) is first and not a.member.pending
    world.clock.advance(0.2)
    world.pump(lambda: world.session(a, b) is not first)
    world.settle()
    assert first.index in a.member.sessions
    world.clock.advance(60)
    world.pump(lambda: first.index not in a.member.sessions)
    second = world.session(a, b)  # it was not used
    world.clock.advance(119)
    world.pump(lambda: True)
    world.settle()
    assert not a.member.pending and world.session(a, b) is second
    world.clock.advance(1)
    world.pump(lambda: not a.member.sessions and not b.member.sessions)


def test_close_erases_the_session(world):
    a, b = world.pair()
    world.handshake(a, b)
    packet = world.captured_packet(b, a)
    a.member.close(world.session(a, b))
    world.settle()
    assert not a.member.sessions and not b.member.sessions
    world.wire.silent(a, packet, "no such session")


def test_roaming_needs_the_token_back(world):
    a, b = world.pair()
    _, theirs = world.handshake(a, b)
    endpoint = theirs.endpoint
    assert len(world.wire.give(b, world.captured_packet(a, b))) == 2
    (probe, to), (_, echo_to) = b.transmitted[-2:]
    assert to == world.wire.endpoint and echo_to == endpoint, "a probe to the new address, packets to the old"
    assert len(world.wire.give(b, world.captured_packet(a, b))) == 1, "at most one probe a second"
    world.settle()
    reply = world.wire.give(a, probe)[-1]  # to where the probe came from: the wire
    assert a.transmitted[-1] == (reply, world.wire.endpoint)
    elsewhere = Wire()
    assert theirs.endpoint == endpoint
    other_reply = a.member.session_with(b.member.static, world.tag).seal(w.frame(w.PROBE_REPLY, theirs.roam_token))
    elsewhere.silent(b, other_reply, "probe reply without a probe")  # the token, but not from there
    elsewhere.socket.close()
    assert theirs.endpoint == endpoint
    assert world.wire.give(b, reply) == [] and theirs.endpoint == world.wire.endpoint


def test_a_fork_of_the_sender_ends_the_session(world):
    a, b = world.pair()
    mine, theirs = world.handshake(a, b)
    counter = mine.sealing[0].counter
    first = world.captured_packet(a, b)
    assert world.wire.give(b, first)
    forged = first[:-1] + bytes([first[-1] ^ 1])
    world.wire.silent(b, forged, "packet does not open")
    world.clock.advance(1)
    mine.sealing[0].counter = counter  # the other half of the fork goes on from the same counter
    world.wire.silent(b, world.captured_packet(a, b), "sender runs twice")
    assert not b.member.sessions and b.member.membership.alarms == ["a runs twice"]


# ---------------------------------------------------------------------------------------------------------------------
# Direct query


def question_of(world, asker: Peer, sought: str) -> bytes:
    asker.member.ask(ipaddress.ip_address(sought), world.tag, world.wire.endpoint)
    return asker.transmitted[-1][0]


def test_query_is_answered_once(world):
    a, b = world.pair()
    for sought in ("10.77.1.2", "fd77::2"):
        question = question_of(world, a, sought)
        assert len(question) == 1200
        (answer,) = world.wire.give(b, question)
        assert answer[0] == w.ANSWER and len(answer) < 1200
        world.wire.silent(b, question, "question answered before")
        world.wire.silent(world.start(b.member.identity.path), question, "question answered before")
        for flipped in flips(answer):
            world.wire.silent(a, flipped)
        signed = world.enclave.statement(world.issued["b"], world.tag).signed
        for reason, text in (
            ("answer to no question", w.answer_text(os.urandom(12), signed)),
            ("signed object too short", w.answer_text(question[4:16], b"")),
            ("bytes left over", w.answer_text(question[4:16], signed) + b"\0"),
        ):
            world.wire.silent(a, w.seal_query(w.ANSWER, world.enclave.keys[0], os.urandom(12), text), reason)
        assert world.wire.give(a, answer) == []
        statement, source = a.member.answers.pop()
        assert statement.member_name == "b" and source == world.wire.endpoint
        world.wire.silent(a, answer)


def test_query_for_anything_else_gets_silence(world):
    a, b = world.pair()
    world.wire.silent(b, question_of(world, a, "10.77.1.9"), "the address sought is not ours")
    question = question_of(world, a, "10.77.1.2")
    for flipped in flips(question):
        world.wire.silent(b, flipped)
    world.wire.silent(b, question[:-1], "length of a query")
    key, signed = world.enclave.keys[0], world.enclave.statement(world.issued["a"], world.tag).signed
    text = w.question_text(ipaddress.ip_address("10.77.1.2"), signed)
    padded = w.seal_query(w.QUESTION, key, os.urandom(12), text[:-1] + b"\1")
    world.wire.silent(b, padded, "reserved bytes not zero")
    foreign = w.CommunityKey(key.tag, key.epoch, os.urandom(32))
    world.wire.silent(b, w.seal_query(w.QUESTION, foreign, os.urandom(12), text), "query of no community")
    assert world.wire.give(b, question)


# ---------------------------------------------------------------------------------------------------------------------
# The program


def test_program_ping_serve_and_query(world):
    with serving(world, "127.0.0.1") as (identity, endpoint):
        ping = run_program("ping", "--identity", str(identity), "--peer", "b", "--count", "4", "--rekey")
        out, errors = ping.communicate(timeout=20)
        lines = [json.loads(line) for line in out.splitlines()]
        assert ping.returncode == 0, (out, errors)
        assert [line["echo"] for line in lines if "echo" in line] == [1, 2, 3, 4] and {
            "rekey": "done",
            "epoch": 1,
        } in lines
        assert all(line["rtt_ms"] > 0 for line in lines if "echo" in line)
        asked = run_program("query", "--identity", str(identity), "--address", "10.77.1.2", "--to", endpoint)
        out, errors = asked.communicate(timeout=20)
        assert asked.returncode == 0 and json.loads(out)["endpoint"] == endpoint, (out, errors)


def test_program_over_ipv6_with_another_suite(world):
    with serving(world, "[::1]") as (identity, _):
        options = ("--prefer", "chacha20-poly1305", "--lanes", "3")
        ping = run_program("ping", "--identity", str(identity), "--peer", "b", *options)
        out, errors = ping.communicate(timeout=20)
        assert ping.returncode == 0 and out.count("chacha20-poly1305") == 3, (out, errors)


def test_program_names_the_step_that_failed(world):
    host, port = world.wire.endpoint
    identity, _ = program_identities(world, f"{host}:{port}")
    ping = run_program("ping", "--identity", str(identity), "--peer", "b")
    out, errors = ping.communicate(timeout=30)
    assert ping.returncode == 1 and json.loads(out)["failed"] == "initiation", (out, errors)


# ---------------------------------------------------------------------------------------------------------------------


def main() -> int:
    wanted = sys.argv[1:]
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    passed = failed = 0
    for name, test in tests:
        if wanted and not any(part in name for part in wanted):
            continue
        with tempfile.TemporaryDirectory() as directory:
            world = World(directory)
            try:
                test(world)
                passed += 1
            except Exception:
                failed += 1
                print(f"FAILED {name}\n{traceback.format_exc()}")
            finally:
                world.close()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
