"""A member of Coterie without sockets: datagrams go in, datagrams and inside packets come out.

Implements sections 3, 5, 6 and 7 of docs/WIRE.md, whose numbers stand in brackets; section 4 is in membership.py.
"""

from __future__ import annotations

import ipaddress
import os
from collections import Counter
from pathlib import Path
from typing import Callable

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

import coterie_wire as w
from coterie_wire import Drop
from membership import Clock, Identity, Membership, Stored
from session import GIVE_UP, Bucket, Carrier, Endpoint, HalfOpen, Incoming, Inside, Outside, Pending, Session
from session import source_of_bucket

REMEMBERED_MAC1 = 8192  # [3.2 point 3]
COOKIE_LIFE = 120.0  # [3.5]
QUESTION_LIFE = 10.0  # seconds that the asker waits for an answer
ASK_AGAIN = 5.0  # seconds after which a difference that did not come whole is asked for again


class Member:
    """One machine. `transmit(datagram, endpoint)` sends outside; `deliver(session, packet)` takes packets inside;
    `event(name, **detail)` tells what happened."""

    def __init__(
        self,
        identity: Path,
        transmit: Callable[[bytes, Endpoint], None],
        deliver: Callable[[Session, bytes], None],
        event: Callable[..., None] = lambda name, **detail: None,
        clock: Clock | None = None,
        lanes: int = 1,
        suites: int = w.ALL_SUITES,
        preferred: int = w.AES_256_GCM,
        cookies_above: float | None = None,
    ):
        self.identity = Identity(identity)
        self.clock = clock or Clock()
        self.stored = Stored(self.identity)
        self.membership = Membership(self.identity, self.stored, self.clock)
        self.static = self.identity.static
        self.transmit, self.deliver, self.event = transmit, deliver, event
        self.lanes, self.suites = lanes, suites
        self.preferred = preferred if preferred & suites else suites & -suites
        self.cookies_above = cookies_above  # initiations a second; None: neither gateway nor jumpbox [3.5]
        self.cookie_secrets = [(os.urandom(32), self.now())]
        self.arrivals = (0, 0)  # (second, initiations in it)
        self.pending: dict[int, Pending] = {}
        self.half_open: dict[int, HalfOpen] = {}
        self.sessions: dict[int, Session] = {}
        self.current: dict[tuple[bytes, bytes], Session] = {}  # by (peer static, tag): where packets go
        self.mac1_seen: dict[bytes, None] = {}
        self.by_source = Bucket(50, 50)
        self.by_static = Bucket(4, 8)
        self.questions: dict[bytes, tuple[w.Address, w.CommunityKey, float]] = {}
        self.answers: list[tuple[w.Statement, Endpoint]] = []
        self.drops: Counter[str] = Counter()

    def now(self) -> float:
        return self.clock.running()

    # -----------------------------------------------------------------------------------------------------------------
    # Outside

    def receive(self, datagram: bytes, source: Endpoint) -> None:
        """Takes one datagram; whatever does not match the document is dropped without an answer."""
        try:
            match datagram[0] if datagram else 0:
                case w.INITIATION:
                    self.on_initiation(datagram, Outside(source))
                case w.RESPONSE:
                    self.on_response(datagram, Outside(source))
                case w.COOKIE:
                    self.on_cookie(datagram)
                case w.PROVISIONAL:
                    self.on_provisional(datagram, source)
                case w.SEALED:
                    self.on_sealed(datagram, source)
                case w.QUESTION:
                    self.on_question(datagram, source)
                case w.ANSWER:
                    self.on_answer(datagram, source)
                case _:
                    raise Drop("unknown type")
        except Drop as drop:
            self.drops[drop.reason] += 1
            self.event("drop", reason=drop.reason, source=f"{source[0]}:{source[1]}")

    def tick(self) -> None:
        """Repeats, gives up, rekeys and ends; to be called a few times in each 250 ms."""
        now = self.now()
        for pending in list(self.pending.values()):
            if now >= pending.give_up_at:
                self.give_up(pending)
            elif now >= pending.next_at:
                pending.schedule(now)
                self.send_step_of(pending)
        for half_open in list(self.half_open.values()):
            if now - half_open.created >= GIVE_UP:
                self.forget_half_open(half_open)
        for session in list(self.sessions.values()):
            if session.has_ended(now, self.membership.now()) or self.membership.is_revoked(session.peer_static):
                self.erase(session, "end")
            elif self.is_current(session):
                if session.must_rekey(now) and not self.pending_to(session.peer_static, session.tag):
                    self.rekey(session)
                self.ask_for_difference(session)

    def new_index(self) -> int:
        while True:
            index = int.from_bytes(os.urandom(4), "big")
            if index and not (index in self.pending or index in self.half_open or index in self.sessions):
                return index

    # -----------------------------------------------------------------------------------------------------------------
    # 3. First contact, initiator

    def connect(self, peer_static: bytes, tag: bytes, endpoint: Endpoint) -> Pending:
        return self.initiate(Pending(peer_static, tag, Outside(endpoint)))

    def rekey(self, session: Session) -> Pending:
        """[6.2]"""
        return self.initiate(Pending(session.peer_static, session.tag, Inside(session)))

    def initiate(self, pending: Pending) -> Pending:
        pending.progress("initiation", self.now())
        self.send_initiation(pending)
        return pending

    def pending_to(self, peer_static: bytes, tag: bytes) -> Pending | None:
        for pending in self.pending.values():
            if pending.peer_static == peer_static and pending.tag == tag:
                return pending
        return None

    def send_step_of(self, pending: Pending) -> None:
        if pending.step == "initiation":
            self.send_initiation(pending)
        elif pending.step == "offer":
            self.send_step(pending, w.OFFER, pending.k_i, pending.body)
        else:
            self.send_step(pending, w.CONFIRM, pending.k_i, pending.body)
            self.send_frame(pending.session, w.PROBE, pending.session.probe_token)

    def send_initiation(self, pending: Pending) -> None:
        """[3.1] Each repetition is a new initiation: new index, new ephemeral, new counter."""
        self.pending.pop(pending.index, None)
        try:
            key = self.membership.newest_key(pending.tag)
            own_statement = self.membership.own_statement(pending.tag)
        except Drop as drop:
            pending.step = "failed"
            self.event("failed", step="initiation", reason=drop.reason)
            return
        pending.key, pending.own_statement, pending.index = key, own_statement, self.new_index()
        pending.ephemeral, pending.noise = os.urandom(32), w.Noise(key, pending.peer_static)
        payload = w.InitiationPayload(
            self.stored.own_counter(),
            self.lanes,
            self.suites,
            self.preferred,
            self.membership.era,
            self.membership.revision,
            own_statement.signed,
        )
        noise_1 = pending.noise.write_message_1(
            self.identity.static_private, pending.ephemeral, pending.peer_static, payload.encode()
        )
        cookie, got_at = pending.cookie or (None, 0.0)
        pending.cookie = None  # for the next initiation only
        if cookie and self.now() - got_at >= COOKIE_LIFE:
            cookie = None
        k_mac = key.k_mac(pending.peer_static)
        message = w.with_macs(w.Initiation.header(pending.index) + noise_1, k_mac, cookie)
        pending.mac1 = message[-32:-16]
        self.pending[pending.index] = pending
        self.send_whole(pending.carrier, w.REKEY_INITIATION, message)

    def on_cookie(self, message: bytes) -> None:
        """[3.5]"""
        pending = self.pending_at(w.cookie_receiver(message), "initiation", None)
        k_mac = pending.key.k_mac(pending.peer_static)
        pending.cookie = (w.open_cookie(message, k_mac, pending.mac1), self.now())

    def on_response(self, message: bytes, carrier: Carrier) -> None:
        """[3.4]"""
        response = w.Response.parse(message)
        pending = self.pending_at(response.receiver_index, "initiation", carrier)
        if not response.mac1_is_of(pending.key.k_mac(self.static)):
            raise Drop("mac1 of a response")
        noise, text = pending.read_response(self.identity.static_private, response)
        payload = w.ResponsePayload.parse(text)
        statement = self.membership.check_statement(payload.statement, pending.tag, pending.peer_static)
        if not payload.suite & self.suites:
            raise Drop("suite that was not offered")
        pending.noise, pending.response, pending.peer_statement = noise, payload, statement
        pending.peer_index = response.sender_index
        pending.k_i, pending.k_r, pending.export = noise.split()
        pending.kem = MLKEM768PrivateKey.generate()
        pending.body = pending.kem.public_key().public_bytes_raw()  # ek
        pending.progress("offer", self.now())
        self.send_step_of(pending)

    def on_answer_step(self, pending: Pending, ct: bytes) -> None:
        """[3.6] The final keys, then confirm and the first probe under them."""
        m, secret, ek, h = w.decapsulate(pending.kem, ct), os.urandom(32), pending.body, pending.noise.h
        wrapped = w.wrap(pending.key.k_wrap(pending.peer_static, h), secret)
        response = pending.response
        keys = w.final_keys(pending.export, h, m, secret, ek, ct, wrapped, self.lanes, response.lanes)
        pending.session = Session.of(pending, keys, response.suite, response.era, response.revision, self.now())
        self.sessions[pending.index] = pending.session
        pending.body = wrapped
        pending.progress("confirm", self.now())
        self.send_step_of(pending)

    def pending_at(self, index: int, step: str, carrier: Carrier | None) -> Pending:
        """The pending handshake of an index, if it is at that step and was begun the same way (outside, or inside the
        same session); `None` stands for outside."""
        pending = self.pending.get(index)
        if pending is None or pending.step != step:
            raise Drop("no such handshake")
        if isinstance(pending.carrier, Inside) or isinstance(carrier, Inside):
            if pending.carrier != carrier:
                raise Drop("handshake of another carrier")
        return pending

    def complete(self, pending: Pending) -> None:
        """[3] The probe was answered: the initiator's session carries packets."""
        pending.step = "done"
        self.pending.pop(pending.index, None)
        pending.erase()
        self.carry(pending.session)

    def give_up(self, pending: Pending) -> None:
        self.event("failed", step=pending.step, reason="no progress within 10 s")
        self.forget(pending, f"failed: {pending.step}")

    def forget(self, pending: Pending, step: str) -> None:
        pending.step = step
        self.pending.pop(pending.index, None)
        pending.erase()
        if pending.session is not None:
            self.sessions.pop(pending.session.index, None)

    # -----------------------------------------------------------------------------------------------------------------
    # 3. First contact, responder

    def on_initiation(self, message: bytes, carrier: Carrier) -> None:
        """[3.2] The checks, in order."""
        now = self.now()
        initiation = w.Initiation.parse(message)  # 1
        key = self.key_of(initiation)  # 2
        if isinstance(carrier, Outside):
            self.remember_mac1(initiation.mac1)  # 3
            if not self.by_source.take(source_of_bucket(carrier.endpoint), now):  # 4
                raise Drop("too many initiations from this source")
            if self.under_load(now) and not self.has_cookie(initiation, carrier.endpoint):  # 5
                self.send_cookie(initiation, key, carrier.endpoint)
                raise Drop("asked for a cookie")
        elif key.tag != carrier.session.tag or any(initiation.mac2):
            raise Drop("rekey of another community, or with mac2")
        noise = w.Noise(key, self.static)
        private = self.identity.static_private
        static = noise.read_static(private, initiation.ephemeral, initiation.sealed_static)  # 6
        if isinstance(carrier, Inside) and static != carrier.session.peer_static:
            raise Drop("rekey of another member")
        if not self.by_static.take(static, now):  # 7
            raise Drop("too many initiations of this static key")
        if self.membership.is_revoked(static):
            raise Drop("static key is revoked")
        payload = w.InitiationPayload.parse(noise.read_payload(private, static, initiation.sealed_payload))  # 8
        self.stored.accept_counter(static, payload.counter)  # 9
        statement = self.membership.check_statement(payload.statement, key.tag, static)  # 10
        own_statement = self.membership.own_statement(key.tag)  # 11: only live epochs were tried at point 2
        suite = w.choose_suite(payload.suites, payload.preferred, self.suites, self.preferred)
        self.settle_simultaneous(static, key.tag)
        half_open = HalfOpen(
            static, key, carrier, self.new_index(), initiation.sender_index, payload, suite,
            own_statement, statement, now, b"", b"", b"", b"",
        )  # fmt: skip
        self.respond(half_open, noise, initiation.ephemeral)

    def key_of(self, initiation: w.Initiation) -> w.CommunityKey:
        for key in self.membership.accepted_keys():
            if initiation.mac1_is_of(key.k_mac(self.static)):
                return key
        raise Drop("mac1 of no community")

    def remember_mac1(self, mac1: bytes) -> None:
        if mac1 in self.mac1_seen:
            raise Drop("mac1 seen before")
        self.mac1_seen[mac1] = None
        if len(self.mac1_seen) > REMEMBERED_MAC1:
            del self.mac1_seen[next(iter(self.mac1_seen))]

    def under_load(self, now: float) -> bool:
        """[3.5] Counts the initiations of the running second."""
        second, arrived = self.arrivals
        self.arrivals = (int(now), arrived + 1 if int(now) == second else 1)
        return self.cookies_above is not None and self.arrivals[1] > self.cookies_above

    def has_cookie(self, initiation: w.Initiation, source: Endpoint) -> bool:
        address = ipaddress.ip_address(source[0])
        now = self.now()
        if now - self.cookie_secrets[0][1] >= COOKIE_LIFE:
            self.cookie_secrets = [(os.urandom(32), now), self.cookie_secrets[0]]
        return any(
            initiation.mac2_is_of(w.cookie_for(secret, address, source[1]))
            for secret, since in self.cookie_secrets
            if now - since < 2 * COOKIE_LIFE
        )

    def send_cookie(self, initiation: w.Initiation, key: w.CommunityKey, source: Endpoint) -> None:
        cookie = w.cookie_for(self.cookie_secrets[0][0], ipaddress.ip_address(source[0]), source[1])
        k_mac, nonce = key.k_mac(self.static), os.urandom(12)
        self.transmit(w.seal_cookie(k_mac, initiation.sender_index, nonce, cookie, initiation.mac1), source)

    def settle_simultaneous(self, static: bytes, tag: bytes) -> None:
        """[3.6] The initiation of the lower static key wins."""
        pending = self.pending_to(static, tag)
        if pending is not None:
            if self.static < static:
                raise Drop("our own initiation wins")
            self.forget(pending, "forgotten")

    def respond(self, half_open: HalfOpen, noise: w.Noise, initiator_ephemeral: bytes) -> None:
        """[3.4]"""
        for older in [h for h in self.half_open.values() if h.peer_static == half_open.peer_static]:
            self.forget_half_open(older)
        revision = self.membership.revision
        own_signed = half_open.own_statement.signed
        payload = w.ResponsePayload(self.lanes, half_open.suite, self.membership.era, revision, own_signed)
        noise_2 = noise.write_message_2(os.urandom(32), initiator_ephemeral, half_open.peer_static, payload.encode())
        half_open.h, (half_open.k_i, half_open.k_r, half_open.export) = noise.h, noise.split()
        self.half_open[half_open.index] = half_open
        header = w.Response.header(half_open.index, half_open.peer_index)
        message = w.with_macs(header + noise_2, half_open.key.k_mac(half_open.peer_static))
        self.send_whole(half_open.carrier, w.REKEY_RESPONSE, message)

    def half_open_at(self, index: int, carrier: Carrier) -> HalfOpen:
        half_open = self.half_open.get(index)
        if half_open is None:
            raise Drop("no such handshake")
        if isinstance(half_open.carrier, Inside) or isinstance(carrier, Inside):
            if half_open.carrier != carrier:
                raise Drop("handshake of another carrier")
        return half_open

    def on_offer(self, half_open: HalfOpen, ek: bytes) -> None:
        """[3.6] A repeated offer is answered with the same answer."""
        if half_open.session is not None:
            raise Drop("offer after confirm")
        if not half_open.ek:
            half_open.m, half_open.ct = w.encapsulate(ek)
            half_open.ek = ek
        elif half_open.ek != ek:
            raise Drop("another offer")
        self.send_step(half_open, w.ANSWER_STEP, half_open.k_r, half_open.ct)

    def on_confirm(self, half_open: HalfOpen, wrapped: bytes) -> None:
        """[3.6] The final keys; nothing is sent under them before something was opened under them."""
        if half_open.session is not None:
            raise Drop("repeated confirm")
        if not half_open.ct:
            raise Drop("confirm before offer")
        secret = w.unwrap(half_open.key.k_wrap(self.static, half_open.h), wrapped)
        payload, h = half_open.payload, half_open.h
        keys = w.final_keys(
            half_open.export, h, half_open.m, secret, half_open.ek, half_open.ct, wrapped, payload.lanes, self.lanes
        )
        half_open.session = Session.of(half_open, keys, half_open.suite, payload.era, payload.revision, self.now())
        self.sessions[half_open.index] = half_open.session

    def forget_half_open(self, half_open: HalfOpen) -> None:
        self.half_open.pop(half_open.index, None)
        half_open.erase()
        if half_open.session is not None:
            self.sessions.pop(half_open.index, None)

    # -----------------------------------------------------------------------------------------------------------------
    # 3.6 and 6.2: the steps, outside under provisional keys or inside under a live session's seal

    def send_whole(self, carrier: Carrier, frame: int, message: bytes) -> None:
        """An initiation or a response."""
        if isinstance(carrier, Outside):
            self.transmit(message, carrier.endpoint)
        else:
            self.send_frame(carrier.session, frame, message)

    def send_step(self, handshake: Pending | HalfOpen, step: int, key: bytes, body: bytes) -> None:
        if isinstance(handshake.carrier, Outside):
            self.transmit(w.seal_step(key, step, handshake.peer_index, body), handshake.carrier.endpoint)
        else:
            self.send_frame(handshake.carrier.session, w.REKEY_FRAME_OF_STEP[step], w.u32(handshake.peer_index) + body)

    def on_provisional(self, message: bytes, source: Endpoint) -> None:
        step, index = w.step_header(message)
        if step == w.ANSWER_STEP:
            pending = self.pending_at(index, "offer", None)
            self.on_step(pending, step, w.open_step(pending.k_r, message))
        else:
            half_open = self.half_open_at(index, Outside(source))
            body = w.open_step(half_open.k_i, message)
            half_open.carrier = Outside(source)  # the answer goes to where the offer came from
            self.on_step(half_open, step, body)

    def on_step_frame(self, session: Session, frame: int, body: bytes) -> None:
        step, index, carrier = w.STEP_OF_REKEY_FRAME[frame], int.from_bytes(body[:4], "big"), Inside(session)
        at_initiator = step == w.ANSWER_STEP
        handshake = self.pending_at(index, "offer", carrier) if at_initiator else self.half_open_at(index, carrier)
        self.on_step(handshake, step, body[4:])

    def on_step(self, handshake: Pending | HalfOpen, step: int, body: bytes) -> None:
        if isinstance(handshake, Pending):
            self.on_answer_step(handshake, body)
        elif step == w.OFFER:
            self.on_offer(handshake, body)
        else:
            self.on_confirm(handshake, body)

    # -----------------------------------------------------------------------------------------------------------------
    # 5. Sealed packets

    def session_with(self, peer_static: bytes, tag: bytes) -> Session | None:
        return self.current.get((peer_static, tag))

    def is_current(self, session: Session) -> bool:
        return self.current.get((session.peer_static, session.tag)) is session

    def carry(self, session: Session) -> None:
        """The session carries packets from now on, all new ones of this pair; an older session still opens."""
        session.carries = True
        self.current[session.peer_static, session.tag] = session
        self.event(
            "session",
            peer=session.peer_statement.member_name,
            suite=w.SUITE_NAMES[session.suite],
            epoch=session.epoch,
            initiator=session.is_initiator,
            endpoint=f"{session.endpoint[0]}:{session.endpoint[1]}",
        )
        self.ask_for_difference(session)

    def erase(self, session: Session, why: str) -> None:
        self.sessions.pop(session.index, None)
        if self.is_current(session):
            del self.current[session.peer_static, session.tag]
        for pending in [p for p in self.pending.values() if p.carrier == Inside(session)]:
            self.forget(pending, f"failed: {pending.step}")
        self.event("session ended", peer=session.peer_statement.member_name, why=why)

    def send_packet(self, session: Session, packet: bytes) -> None:
        if not session.carries:
            raise Drop("session does not carry packets")
        session.used = True
        self.transmit(session.seal(packet), session.endpoint)

    def on_sealed(self, datagram: bytes, source: Endpoint) -> None:
        """[5.1]"""
        header = w.SealedHeader.parse(datagram)
        session = self.sessions.get(header.receiver_index)
        if session is None:
            raise Drop("no such session")
        if header.lane >= len(session.opening):
            raise Drop("lane was not announced")
        lane = session.opening[header.lane]
        if not lane.is_fresh(header.counter):
            self.look_for_fork(session, lane, header, datagram)
            raise Drop("counter seen or too old")
        text = lane.open(header, datagram)
        half_open = self.half_open.pop(session.index, None)
        if half_open is not None:  # something was opened under the responder's final keys
            half_open.erase()
            self.carry(session)
        if source != session.endpoint:
            self.probe_new_endpoint(session, source)
        if text[0] < w.FIRST_NOT_A_FRAME:
            self.on_frame(session, text, source)
        else:
            self.on_packet(session, text)

    def on_packet(self, session: Session, text: bytes) -> None:
        """[5.1 point 4]"""
        packet, origin, destination = w.inside_packet(text)
        if not session.carries:
            raise Drop("session does not carry packets yet")
        theirs, ours = session.peer_statement, session.own_statement
        lengths = [p.prefixlen for p in theirs.prefixes if p.version == origin.version and origin in p]
        if not lengths or self.membership.other_holds_longer(origin, theirs.member, max(lengths)):
            raise Drop("source address is not the sender's")
        if not ours.holds(destination):
            raise Drop("destination address is not ours")
        session.used = True
        self.deliver(session, packet)

    def probe_new_endpoint(self, session: Session, source: Endpoint) -> None:
        """[5.3]"""
        now = self.now()
        if now - session.roam_at >= 1.0:
            session.roam_at, session.roam_endpoint, session.roam_token = now, source, os.urandom(8)
            self.send_frame(session, w.PROBE, session.roam_token, source)

    def look_for_fork(self, session: Session, lane: w.OpeningLane, header: w.SealedHeader, datagram: bytes) -> None:
        """[5.4]"""
        now = self.now()
        if lane.may_be_fork(header, datagram) and now - session.fork_opened_at >= 1.0:
            session.fork_opened_at = now
            lane.authentic_text(header, datagram)
            if lane.is_fork(header):
                self.membership.alarms.append(f"{session.peer_statement.member_name} runs twice")
                self.erase(session, "fork")
                raise Drop("sender runs twice")

    # -----------------------------------------------------------------------------------------------------------------
    # 6. Control frames

    def send_frame(self, session: Session, frame: int, body: bytes = b"", endpoint: Endpoint | None = None) -> None:
        self.transmit(session.seal(w.frame(frame, body)), endpoint or session.endpoint)

    def close(self, session: Session) -> None:
        self.send_frame(session, w.CLOSE)
        self.erase(session, "closed")

    def on_frame(self, session: Session, text: bytes, source: Endpoint) -> None:
        frame, body = w.parse_frame(text)
        if frame == w.KEEPALIVE:
            return
        if frame == w.PROBE:
            self.send_frame(session, w.PROBE_REPLY, body, source)  # to where the probe came from
        elif frame == w.PROBE_REPLY:
            self.on_probe_reply(session, body, source)
        elif frame == w.CLOSE:
            self.erase(session, "closed by the peer")
        elif frame == w.REKEY_INITIATION:
            self.on_initiation(body, Inside(session))
        elif frame == w.REKEY_RESPONSE:
            self.on_response(body, Inside(session))
        elif frame in w.STEP_OF_REKEY_FRAME:
            self.on_step_frame(session, frame, body)
        elif frame == w.DIFFERENCE_REQUEST:
            self.on_difference_request(session, body)
        elif frame == w.DIFFERENCE:
            self.on_difference(session, w.Difference.parse(body))
        else:
            self.on_statement(session, body)

    def on_probe_reply(self, session: Session, token: bytes, source: Endpoint) -> None:
        pending = self.pending.get(session.index)
        if pending is not None and w.same(token, session.probe_token):
            self.complete(pending)
        elif session.roam_token and w.same(token, session.roam_token) and source == session.roam_endpoint:
            session.endpoint, session.roam_token = source, b""
            self.event("roamed", endpoint=f"{source[0]}:{source[1]}")
        else:
            raise Drop("probe reply without a probe")

    def announce(self, statement: w.Statement) -> None:
        """A newer statement of our own: to the peers of that community."""
        self.membership.take_own(statement)
        for session in self.current.values():
            if session.tag == statement.community and statement.serial > session.own_statement.serial:
                session.own_statement = statement
                self.send_frame(session, w.STATEMENT, statement.signed)

    def on_statement(self, session: Session, signed: bytes) -> None:
        """[4.1] A newer statement extends the session."""
        statement = self.membership.check_statement(signed, session.tag, session.peer_static)
        if statement.member != session.peer_statement.member or statement.serial <= session.peer_statement.serial:
            raise Drop("statement is not newer")
        session.peer_statement = statement

    # 6.3 Difference

    def ask_for_difference(self, session: Session) -> None:
        era, revision = self.membership.era, self.membership.revision
        behind = session.peer_era == era and session.peer_revision > revision
        if behind and self.now() - session.asked_at >= ASK_AGAIN:
            session.asked_at = self.now()
            self.send_frame(session, w.DIFFERENCE_REQUEST, w.u64(era) + w.u64(revision))

    def on_difference_request(self, session: Session, body: bytes) -> None:
        r = w.Reader(body)
        era, revision = r.u64(), r.u64()
        mine = self.membership
        if era != mine.era or revision >= mine.revision:
            raise Drop("no difference to give")
        whole = w.encode_difference(mine.revocations.signed, mine.head.signed if mine.head else b"")
        transfer = int.from_bytes(os.urandom(4), "big")
        for offset in range(0, len(whole), w.Difference.MAX_CHUNK):
            chunk = whole[offset : offset + w.Difference.MAX_CHUNK]
            self.send_frame(session, w.DIFFERENCE, w.Difference(transfer, offset, len(whole), chunk).encode())

    def on_difference(self, session: Session, difference: w.Difference) -> None:
        if difference.offset == 0:
            session.incoming = Incoming(difference.transfer, difference.total)
        incoming = session.incoming
        expected = (difference.transfer, difference.total, difference.offset)
        if incoming is None or (incoming.transfer, incoming.total, len(incoming.received)) != expected:
            raise Drop("difference out of order")
        incoming.received += difference.chunk
        if len(incoming.received) == incoming.total:
            session.incoming = None
            self.membership.apply_difference(*w.parse_difference(incoming.received))
            self.event("difference", revision=self.membership.revision)
            self.tick()  # ends the sessions of who is revoked now

    # -----------------------------------------------------------------------------------------------------------------
    # 7. Direct query

    def ask(self, sought: w.Address, tag: bytes, endpoint: Endpoint) -> None:
        key, nonce = self.membership.newest_key(tag), os.urandom(12)
        self.questions[nonce] = (sought, key, self.now())
        text = w.question_text(sought, self.membership.own_statement(tag).signed)
        self.transmit(w.seal_query(w.QUESTION, key, nonce, text), endpoint)

    def on_question(self, datagram: bytes, source: Endpoint) -> None:
        nonce = w.query_header(datagram)
        key = next((k for k in self.membership.accepted_keys() if w.query_is_of(datagram, k)), None)
        if key is None:
            raise Drop("query of no community")
        sought, signed = w.parse_question(w.open_query(datagram, key))
        self.membership.check_statement(signed, key.tag)
        own_statement = self.membership.own_statement(key.tag)
        if not own_statement.holds(sought):
            raise Drop("the address sought is not ours")
        self.stored.answer_once(nonce)
        text = w.answer_text(nonce, own_statement.signed)
        self.transmit(w.seal_query(w.ANSWER, key, os.urandom(12), text), source)
        self.event("answered", sought=str(sought))

    def on_answer(self, datagram: bytes, source: Endpoint) -> None:
        w.query_header(datagram)
        now = self.now()
        self.questions = {n: q for n, q in self.questions.items() if now - q[2] < QUESTION_LIFE}
        key = next((q[1] for q in self.questions.values() if w.query_is_of(datagram, q[1])), None)
        if key is None:
            raise Drop("query of no community")
        nonce, signed = w.parse_answer(w.open_query(datagram, key))
        if nonce not in self.questions or self.questions[nonce][1] != key:
            raise Drop("answer to no question")
        statement = self.membership.check_statement(signed, key.tag)
        if not statement.holds(self.questions[nonce][0]):
            raise Drop("the answer does not hold the address sought")
        del self.questions[nonce]
        self.answers.append((statement, source))
