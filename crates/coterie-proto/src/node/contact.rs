//! The other side's handshake: the checks of WIRE section 3.2 in their order, and what follows them.

use std::net::SocketAddr;
use std::time::Duration;

use coterie_crypto::{kem::ENCAPSULATION_KEY_LEN, wrap::WRAPPED_LEN};
use coterie_model::{EpochKey, Instant};

use super::{
    Alarm, Event, Node, Outcome, PeerId, Persist, Ports,
    initiate::origin,
    peer::Agreed,
    state::{Asked, Incoming},
};
use crate::{
    DropReason,
    handshake::{frame::Framed, initiator::Introduction, noise::Proved, payload::InitiationPayload, responder},
    limit::source_of,
    session::{Material, Session},
    wire::{control::Control, datagram::Step},
};

/// Our own initiation wins a tie for so long: should it not get through, theirs may.
pub(super) const TIE: Duration = Duration::from_secs(2);

/// Where message 1 came from: outside, or inside the live session of a peer.
#[derive(Clone, Copy)]
struct Caller {
    from: Option<SocketAddr>,
    session_of: Option<PeerId>,
}

impl Node {
    /// Message 1 came from outside.
    pub(super) fn handle_initiation(&mut self, sender: u32, message: &[u8], from: SocketAddr, now: Instant) -> Outcome {
        let taken = self.screen(sender, message, from, now).and_then(|key| {
            let framed = Framed::cut(message).ok_or(DropReason::BadLength)?;
            self.accept_initiation(sender, &framed, &key, Some(from), None, now)
        });
        self.taken(taken)
    }

    /// Message 1 came inside the live session of `id`.
    pub(super) fn handle_rekey_initiation(&mut self, id: PeerId, message: &[u8], now: Instant) -> Outcome {
        let taken = (|| {
            let crate::wire::datagram::Datagram::Initiation { sender } = crate::wire::datagram::parse(message)? else {
                return Err(DropReason::BadControl);
            };
            let framed = Framed::cut(message).ok_or(DropReason::BadLength)?;
            let key = self
                .membership
                .verify_mac1(&framed.digest(), framed.mac1, now)
                .ok_or(DropReason::Stranger)?;
            let key = key.duplicate();
            self.accept_initiation(sender, &framed, &key, None, Some(id), now)
        })();
        self.taken(taken)
    }

    fn taken(&mut self, result: Result<(), DropReason>) -> Outcome {
        match result {
            Ok(()) => {
                self.counts.handled += 1;
                Outcome::Handled
            }
            Err(reason) => self.dropped(reason),
        }
    }

    /// Points 2 to 5: nothing but hashing was spent when it returns.
    fn screen(&mut self, sender: u32, message: &[u8], from: SocketAddr, now: Instant) -> Result<EpochKey, DropReason> {
        let framed = Framed::cut(message).ok_or(DropReason::BadLength)?;
        let key = self
            .membership
            .verify_mac1(&framed.digest(), framed.mac1, now)
            .ok_or(DropReason::Stranger)?
            .duplicate();
        if !self.seen.insert(*framed.mac1) {
            return Err(DropReason::Replayed);
        }
        if !self.sources.allow(source_of(from.ip()), now) {
            return Err(DropReason::RateLimited);
        }
        if self.jar.busy(now)
            && !self
                .jar
                .accepts(framed.before_mac2, framed.mac2, from, now, &mut *self.entropy)
        {
            let ask = self.jar.ask(
                &key,
                self.keys.public(),
                (sender, framed.mac1),
                from,
                now,
                &mut *self.entropy,
            );
            self.transmit(from, ask);
            return Err(DropReason::CookieWanted);
        }
        Ok(key)
    }

    /// Points 6 to 11, and the response.
    fn accept_initiation(
        &mut self,
        remote_index: u32,
        framed: &Framed<'_>,
        key: &EpochKey,
        from: Option<SocketAddr>,
        session_of: Option<PeerId>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let caller = Caller { from, session_of };
        let (proved, payload) = self.prove(framed, key, caller, now)?;
        let static_key = *proved.static_key();
        let statement = self.check_statement(payload.statement, key.tag, &static_key, now)?;
        // Only members take a place in what is remembered for good.
        self.accepted.insert(static_key, payload.counter);
        self.persists.push_back(Persist::Accepted(static_key, payload.counter));
        let suite = self
            .suites
            .choose(self.preferred, payload.suites, payload.preferred)
            .filter(|_| payload.suites.has(payload.preferred))
            .ok_or(DropReason::BadHandshake)?;
        let id = self.learn_statement(statement);
        self.break_tie(id, now)?;
        let local_index = self.fresh_index(id);
        let (era, revision) = self.membership.known();
        let own_statement = self.membership.own_statement(key.tag, now);
        let me = Introduction {
            keys: &self.keys,
            lanes: self.lanes,
            suites: self.suites,
            preferred: self.preferred,
            era,
            revision,
            statement: own_statement.ok_or(DropReason::MembershipEnded)?,
        };
        let (responded, message) =
            responder::respond(me, key, proved, suite, (local_index, remote_index), &mut *self.entropy)
                .map_err(|_refused| DropReason::BadHandshake)?;
        let agreed = Agreed {
            tag: key.tag,
            epoch: key.epoch,
            suite,
            peer_lanes: payload.lanes,
            local_index,
            remote_index,
        };
        let in_session = session_of.is_some();
        self.abandon_incoming(id);
        self.peers[id].live().incoming = Some(Incoming {
            agreed,
            in_session,
            from,
            began: now,
            stage: Asked::ExpectOffer(responded),
        });
        self.compare_revisions(id, payload.era, payload.revision, now);
        match from {
            Some(from) => self.transmit(from, message),
            None => self.send_control(id, &Control::RekeyResponse(&message).to_bytes(), None),
        }
        self.reschedule(id);
        Ok(())
    }

    /// Points 6 to 9: who calls, and that it was not heard before.
    fn prove(
        &mut self,
        framed: &Framed<'_>,
        key: &EpochKey,
        caller: Caller,
        now: Instant,
    ) -> Result<(Proved, InitiationPayload), DropReason> {
        if !self.membership.is_fresh() || self.is_refused() || self.membership.own_statement(key.tag, now).is_none() {
            return Err(DropReason::MembershipEnded);
        }
        let claimed = responder::claimed(&self.keys, key, framed).map_err(|_refused| DropReason::Forged)?;
        let static_key = *claimed.static_key();
        if static_key == *self.keys.public() {
            return Err(DropReason::BadHandshake);
        }
        match (caller.session_of, caller.from) {
            (Some(id), _) if self.peers[id].static_key != Some(static_key) => return Err(DropReason::BadHandshake),
            (Some(_), _) | (None, None) => {}
            // Whose key it is was not proved yet: who names another's key spends his own source's share of it, not the other's.
            (None, Some(from)) => {
                if !self.callers.allow((source_of(from.ip()), static_key), now) {
                    return Err(DropReason::RateLimited);
                }
            }
        }
        let (proved, payload) = claimed.prove(&self.keys).map_err(|_refused| DropReason::Forged)?;
        if self.membership.is_revoked(&static_key) {
            self.events.push_back(Event::Alarm(Alarm::RevokedKnocked));
            return Err(DropReason::Revoked);
        }
        let payload = InitiationPayload::parse(&payload).map_err(|_malformed| DropReason::BadHandshake)?;
        let highest = self.accepted.get(&static_key).copied().unwrap_or(0);
        if payload.counter <= highest {
            return Err(DropReason::Replayed);
        }
        Ok((proved, payload))
    }

    /// When both called at once, the lower static key's initiation goes on.
    fn break_tie(&mut self, id: PeerId, now: Instant) -> Result<(), DropReason> {
        let own_is_lower = self.peers[id]
            .static_key
            .is_some_and(|theirs| *self.keys.public() < theirs);
        let live = self.peers[id].live();
        let Some(outgoing) = &live.outgoing else { return Ok(()) };
        if own_is_lower {
            if now.since(outgoing.began) < TIE {
                return Err(DropReason::LostTie);
            }
            return Ok(());
        }
        // What waits is flushed by the session that theirs makes; should it fail, the next packet starts anew.
        self.abandon_outgoing(id);
        Ok(())
    }

    /// The offer came.
    pub(super) fn accept_offer(
        &mut self,
        id: PeerId,
        offer: Box<[u8; ENCAPSULATION_KEY_LEN]>,
        from: Option<SocketAddr>,
    ) -> Result<(), DropReason> {
        let incoming = self.peers[id]
            .live
            .as_mut()
            .and_then(|l| l.incoming.as_mut())
            .ok_or(DropReason::Unexpected)?;
        if incoming.in_session != from.is_none() {
            return Err(DropReason::Unexpected);
        }
        let agreed = incoming.agreed;
        let datagram = match core::mem::replace(&mut incoming.stage, Asked::Taken) {
            Asked::ExpectOffer(responded) => {
                let Ok(answered) = responded.answer(offer, &mut *self.entropy) else {
                    self.abandon_incoming(id);
                    return Err(DropReason::BadHandshake);
                };
                let datagram = if from.is_some() {
                    answered
                        .provisional
                        .seal(Step::Answer, agreed.remote_index, &answered.answer[..])
                } else {
                    Control::RekeyAnswer(agreed.remote_index, &answered.answer).to_bytes()
                };
                incoming.stage = Asked::ExpectConfirm {
                    answered: Box::new(answered),
                    datagram: datagram.clone(),
                };
                // Only who read the response can have made the offer: this is where the initiator is.
                incoming.from = from;
                datagram
            }
            Asked::ExpectConfirm { answered, datagram } => {
                // A copy of the offer from elsewhere is answered to nobody.
                let same = answered.answers(&offer) && incoming.from == from;
                let again = datagram.clone();
                incoming.stage = Asked::ExpectConfirm { answered, datagram };
                if !same {
                    return Err(DropReason::Unexpected);
                }
                again
            }
            stage @ (Asked::ExpectProof(_) | Asked::Taken) => {
                incoming.stage = stage;
                return Err(DropReason::Unexpected);
            }
        };
        match from {
            Some(from) => self.transmit(from, datagram),
            None => self.send_control(id, &datagram, None),
        }
        Ok(())
    }

    /// The confirm came: the final keys are made, and nothing is sent under them yet.
    pub(super) fn accept_confirm(
        &mut self,
        id: PeerId,
        wrapped: &[u8; WRAPPED_LEN],
        in_session: bool,
        now: Instant,
    ) -> Result<(), DropReason> {
        let lanes = self.lanes;
        let incoming = self.peers[id]
            .live
            .as_mut()
            .and_then(|l| l.incoming.as_mut())
            .ok_or(DropReason::Unexpected)?;
        let Asked::ExpectConfirm { answered, .. } = &incoming.stage else {
            return Err(DropReason::Unexpected);
        };
        if incoming.in_session != in_session {
            return Err(DropReason::Unexpected);
        }
        let agreed = incoming.agreed;
        let key = self
            .membership
            .key(agreed.tag, agreed.epoch)
            .ok_or(DropReason::EpochClosed)?;
        let roots = answered
            .roots(wrapped, key, self.keys.public())
            .map_err(|_refused| DropReason::Forged)?;
        let material = Material {
            send_root: &roots.r2i,
            receive_root: &roots.i2r,
            suite: agreed.suite,
            send_lanes: lanes,
            receive_lanes: agreed.peer_lanes,
        };
        incoming.stage = Asked::ExpectProof(Session::new(&material, origin(agreed, false, now)));
        Ok(())
    }

    /// Something was opened under keys that the peer's confirm made: it has proved that it has them.
    pub(super) fn promote_incoming(&mut self, id: PeerId, now: Instant, ports: &mut impl Ports) {
        let Some(incoming) = self.peers[id].live.as_mut().and_then(|l| l.incoming.take()) else {
            return;
        };
        let Asked::ExpectProof(session) = incoming.stage else {
            self.peers[id].live().incoming = Some(incoming);
            return;
        };
        self.counts.responded += 1;
        self.install(id, session, incoming.from, now, ports);
    }

    pub(super) fn abandon_incoming(&mut self, id: PeerId) {
        if let Some(incoming) = self.peers[id].live.as_mut().and_then(|l| l.incoming.take()) {
            self.indices.remove(&incoming.agreed.local_index);
        }
    }
}
