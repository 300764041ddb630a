//! Our side of a handshake: from the wish for a session to a confirm that was proved (WIRE section 3, left column).

use std::net::SocketAddr;
use std::time::Duration;

use coterie_crypto::{dh::PublicKey, kem::CIPHERTEXT_LEN};
use coterie_model::{
    CommunityTag, Instant,
    choose::{Candidate, Verdict, choose, chosen},
};

use super::{
    Event, Node, Outcome, PeerId, Persist, Ports,
    peer::Agreed,
    state::{GIVE_UP, Outgoing, Stage},
    timers::HOUSEKEEPING,
};
use crate::{
    DropReason,
    handshake::{
        cookie,
        initiator::{self, Introduction},
    },
    session::{Material, Origin, Session},
    wire::{
        control::Control,
        datagram::{MAC_LEN, Step},
    },
};

/// How long a cookie is good for.
const COOKIE_LIFE: Duration = Duration::from_secs(120);

impl Node {
    /// Makes sure that a session with `id` is on its way.
    pub(super) fn want_session(&mut self, id: PeerId, now: Instant) -> Result<(), DropReason> {
        if self.peers[id].live.as_ref().is_some_and(|l| l.outgoing.is_some()) {
            return Ok(());
        }
        let tag = self.choose_for(id, now)?;
        if self.peers[id].static_key.is_none() {
            return self.ask_for(id, tag, now);
        }
        if self.peers[id].endpoint().is_none() {
            return Err(DropReason::NoEndpoint);
        }
        self.initiate(id, tag, false, now)
    }

    /// Whether `id` is isolated, or its membership was revoked.
    pub(super) fn is_refusing(&self, id: PeerId) -> bool {
        let static_key = self.peers[id].static_key;
        static_key.is_some_and(|key| self.membership.is_revoked(&key))
    }

    /// The community that will carry a session with `id` (¶39).
    pub(super) fn choose_for(&self, id: PeerId, now: Instant) -> Result<CommunityTag, DropReason> {
        if !self.membership.is_fresh() || self.is_refused() {
            return Err(DropReason::MembershipEnded);
        }
        if self.is_refusing(id) {
            return Err(DropReason::Revoked);
        }
        if let Some(c) = chosen(&self.weigh(id, now)) {
            return Ok(c.tag);
        }
        let member_of_any = self
            .membership
            .own_statements()
            .any(|s| self.membership.own_statement(s.tag, now).is_some());
        Err(if member_of_any {
            DropReason::NoCommonCommunity
        } else {
            DropReason::MembershipEnded
        })
    }

    /// Every community shared with `id`, weighed.
    pub(super) fn weigh(&self, id: PeerId, now: Instant) -> Vec<(Candidate, Verdict)> {
        let peer = &self.peers[id];
        let shared = self
            .membership
            .own_statements()
            .map(|s| s.tag)
            .filter(|tag| peer.in_community(*tag) && self.membership.own_statement(*tag, now).is_some());
        let candidates = shared.filter_map(|tag| {
            let manifest = self.membership.manifest(tag, now)?;
            Some(Candidate {
                tag,
                community: manifest.name.clone(),
                priority: manifest.priority,
                holders: manifest.holders,
                excluded: self.excluded_in(tag),
                usable: self.membership.initiating_key(tag, now).is_some(),
            })
        });
        choose(candidates.collect())
    }

    fn excluded_in(&self, tag: CommunityTag) -> Vec<coterie_model::Name> {
        let holds = |name: &coterie_model::Name| {
            self.by_name
                .get(name)
                .is_some_and(|id| self.peers[*id].in_community(tag))
                || *name == self.name
        };
        self.exclude.iter().filter(|name| holds(name)).cloned().collect()
    }

    /// Sends message 1, first or again, outside or inside the live session.
    pub(super) fn initiate(
        &mut self,
        id: PeerId,
        tag: CommunityTag,
        in_session: bool,
        now: Instant,
    ) -> Result<(), DropReason> {
        let responder: PublicKey = self.peers[id].static_key.ok_or(DropReason::NoMember)?;
        let local_index = self.fresh_index(id);
        let counter = self.next_counter();
        let cookie = self.take_cookie(id, now);
        let made = self.make_initiation(tag, &responder, (local_index, counter), cookie, now);
        let Some((expect, message, epoch)) = made else {
            self.indices.remove(&local_index);
            return Err(DropReason::NoCommonCommunity);
        };
        match self.peers[id].live().outgoing.as_mut() {
            Some(outgoing) => {
                let old = outgoing.local_index();
                outgoing.tag = tag;
                outgoing.epoch = epoch;
                outgoing.in_session = in_session;
                outgoing.stage = Stage::ExpectResponse(expect);
                if let Some(old) = old {
                    self.indices.remove(&old);
                }
            }
            None => self.peers[id].live().outgoing = Some(Outgoing::new(tag, epoch, in_session, now, expect)),
        }
        self.reschedule(id);
        if in_session {
            self.send_control(id, &Control::RekeyInitiation(&message).to_bytes(), None);
            return Ok(());
        }
        let attempts = self.peers[id]
            .live
            .as_ref()
            .and_then(|l| l.outgoing.as_ref())
            .map_or(0, |o| o.attempts);
        let to = self.peers[id].endpoint_for(attempts);
        if let Some(outgoing) = self.peers[id].live().outgoing.as_mut() {
            outgoing.to = to;
            outgoing.attempts += 1;
        }
        if let Some(to) = to {
            self.transmit(to, message);
        }
        Ok(())
    }

    fn make_initiation(
        &mut self,
        tag: CommunityTag,
        responder: &PublicKey,
        index_and_counter: (u32, u64),
        cookie: Option<[u8; MAC_LEN]>,
        now: Instant,
    ) -> Option<(initiator::ExpectResponse, Vec<u8>, u64)> {
        let key = self.membership.initiating_key(tag, now)?;
        let (era, revision) = self.membership.known();
        let me = Introduction {
            keys: &self.keys,
            lanes: self.lanes,
            suites: self.suites,
            preferred: self.preferred,
            era,
            revision,
            statement: self.membership.own_statement(tag, now)?,
        };
        let (expect, message) = initiator::initiate(
            me,
            key,
            responder,
            index_and_counter,
            cookie.as_ref(),
            &mut *self.entropy,
        )
        .ok()?;
        Some((expect, message, key.epoch))
    }

    fn take_cookie(&mut self, id: PeerId, now: Instant) -> Option<[u8; MAC_LEN]> {
        let (cookie, at) = self.peers[id].live().cookie.take()?;
        (now.since(at) < COOKIE_LIFE).then_some(cookie)
    }

    /// A cookie came for our initiation of `index`: the next initiation carries it.
    pub(super) fn handle_cookie(&mut self, index: u32, datagram: &[u8], now: Instant) -> Outcome {
        let Some(id) = self.indices.get(&index).copied() else {
            return self.dropped(DropReason::UnknownIndex);
        };
        let peer = &self.peers[id];
        let outgoing = peer.live.as_ref().and_then(|l| l.outgoing.as_ref());
        let cookie = match (outgoing, peer.static_key) {
            (
                Some(Outgoing {
                    tag,
                    epoch,
                    stage: Stage::ExpectResponse(e),
                    ..
                }),
                Some(responder),
            ) if e.local_index == index => self
                .membership
                .key(*tag, *epoch)
                .and_then(|k| cookie::open(k, &responder, &e.mac1, datagram).ok()),
            _ => return self.dropped(DropReason::Unexpected),
        };
        let Some(cookie) = cookie else {
            return self.dropped(DropReason::Forged);
        };
        self.peers[id].live().cookie = Some((cookie, now));
        self.counts.handled += 1;
        Outcome::Handled
    }

    /// Message 2 came, outside or inside the live session.
    pub(super) fn handle_response(
        &mut self,
        (sender, receiver): (u32, u32),
        message: &[u8],
        carrier: Option<SocketAddr>,
        now: Instant,
    ) -> Outcome {
        match self.accept_response((sender, receiver), message, carrier, now) {
            Ok(()) => {
                self.counts.handled += 1;
                Outcome::Handled
            }
            Err(reason) => self.dropped(reason),
        }
    }

    fn accept_response(
        &mut self,
        (remote_index, local_index): (u32, u32),
        message: &[u8],
        carrier: Option<SocketAddr>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let id = self
            .indices
            .get(&local_index)
            .copied()
            .ok_or(DropReason::UnknownIndex)?;
        let responder = self.peers[id].static_key.ok_or(DropReason::Unexpected)?;
        let outgoing = self.peers[id]
            .live
            .as_mut()
            .and_then(|l| l.outgoing.as_mut())
            .ok_or(DropReason::Unexpected)?;
        let expected = matches!(&outgoing.stage, Stage::ExpectResponse(e) if e.local_index == local_index)
            && outgoing.in_session == carrier.is_none();
        if !expected {
            return Err(DropReason::Unexpected);
        }
        let (tag, epoch) = (outgoing.tag, outgoing.epoch);
        let key = self.membership.key(tag, epoch).ok_or(DropReason::EpochClosed)?;
        if !initiator::verifies(key, self.keys.public(), message) {
            return Err(DropReason::Stranger);
        }
        let Stage::ExpectResponse(expect) = &outgoing.stage else {
            return Err(DropReason::Unexpected);
        };
        let (offered, payload) = expect
            .response(&self.keys, message, &mut *self.entropy)
            .map_err(|_refused| DropReason::Forged)?;
        let checked = self
            .check_statement(payload.statement, tag, &responder, now)
            .and_then(|s| {
                if self.suites.has(payload.suite) {
                    Ok(s)
                } else {
                    Err(DropReason::BadHandshake)
                }
            });
        let statement = match checked {
            Ok(s) => s,
            Err(reason) => {
                self.indices.remove(&local_index);
                if carrier.is_none() {
                    self.peers[id].live().rekey_not_before = Some(now + GIVE_UP);
                }
                self.abandon_outgoing(id);
                return Err(reason);
            }
        };
        self.learn_statement(statement);
        self.compare_revisions(id, payload.era, payload.revision, now);
        let agreed = Agreed {
            tag,
            epoch,
            suite: payload.suite,
            peer_lanes: payload.lanes,
            local_index,
            remote_index,
        };
        let datagram = if carrier.is_some() {
            offered.provisional.seal(Step::Offer, remote_index, &offered.offer[..])
        } else {
            Control::RekeyOffer(remote_index, &offered.offer).to_bytes()
        };
        let stage = Stage::ExpectAnswer {
            offered,
            agreed,
            datagram: datagram.clone(),
        };
        let live = self.peers[id].live();
        if let Some(outgoing) = live.outgoing.as_mut() {
            outgoing.progress(stage, now);
            outgoing.to = carrier;
        }
        match carrier {
            Some(from) => self.transmit(from, datagram),
            None => self.send_control(id, &datagram, None),
        }
        self.reschedule(id);
        Ok(())
    }

    /// The answer came: confirm, and prove it.
    pub(super) fn accept_answer(
        &mut self,
        id: PeerId,
        answer: &[u8; CIPHERTEXT_LEN],
        in_session: bool,
        now: Instant,
    ) -> Result<(), DropReason> {
        let responder = self.peers[id].static_key.ok_or(DropReason::Unexpected)?;
        let outgoing = self.peers[id]
            .live
            .as_mut()
            .and_then(|l| l.outgoing.as_mut())
            .ok_or(DropReason::Unexpected)?;
        if !matches!(outgoing.stage, Stage::ExpectAnswer { .. }) || outgoing.in_session != in_session {
            return Err(DropReason::Unexpected);
        }
        let key = self
            .membership
            .key(outgoing.tag, outgoing.epoch)
            .ok_or(DropReason::EpochClosed)?;
        let Stage::ExpectAnswer { offered, agreed, .. } = core::mem::replace(&mut outgoing.stage, Stage::Taken) else {
            return Err(DropReason::Unexpected);
        };
        let (provisional, wrapped, roots) = offered.confirm(answer, key, &responder, &mut *self.entropy);
        let material = Material {
            send_root: &roots.i2r,
            receive_root: &roots.r2i,
            suite: agreed.suite,
            send_lanes: self.lanes,
            receive_lanes: agreed.peer_lanes,
        };
        let session = Session::new(&material, origin(agreed, true, now));
        let confirm = if in_session {
            Control::RekeyConfirm(agreed.remote_index, &wrapped).to_bytes()
        } else {
            provisional.seal(Step::Confirm, agreed.remote_index, &wrapped)
        };
        outgoing.progress(Stage::ExpectProof { session, confirm }, now);
        self.send_confirm(id);
        self.reschedule(id);
        Ok(())
    }

    /// Sends the confirm and, under the new keys, a probe that proves it.
    fn send_confirm(&mut self, id: PeerId) {
        let salt = self.entropy.salt();
        let mut token = [0; 8];
        self.entropy.fill(&mut token);
        let endpoint = self.peers[id].endpoint();
        let Some(outgoing) = self.peers[id].live.as_mut().and_then(|l| l.outgoing.as_mut()) else {
            return;
        };
        let to = outgoing.to.or(endpoint);
        let Stage::ExpectProof { session, confirm } = &mut outgoing.stage else {
            return;
        };
        let text = Control::Probe(token).to_bytes();
        let mut probe = vec![0; text.len() + crate::wire::datagram::SEALED_OVERHEAD];
        if session.seal(0, salt, &text, &mut probe).is_err() {
            return;
        }
        let (in_session, confirm) = (outgoing.in_session, confirm.clone());
        let Some(to) = to else { return };
        if in_session {
            self.send_control(id, &confirm, None);
        } else {
            self.transmit(to, confirm);
        }
        self.transmit(to, probe);
    }

    /// The current step got no answer: repeat it, or give up.
    pub(super) fn retry_outgoing(&mut self, id: PeerId, now: Instant, ports: &mut impl Ports) {
        let mut random = [0];
        self.entropy.fill(&mut random);
        let has_session = self.peers[id].has_session();
        let Some(outgoing) = self.peers[id].live.as_mut().and_then(|l| l.outgoing.as_mut()) else {
            return;
        };
        let lost_carrier = outgoing.in_session && !has_session;
        if outgoing.is_over(now) || lost_carrier {
            self.give_up(id, now, ports);
            return;
        }
        outgoing.back_off(now, random[0]);
        let in_session = outgoing.in_session;
        let stuck = outgoing.is_stuck(now);
        match &outgoing.stage {
            Stage::ExpectAnswer { datagram, .. } if !stuck => {
                let offer = datagram.clone();
                if in_session {
                    self.send_control(id, &offer, None);
                } else if let Some(to) = outgoing.to {
                    self.transmit(to, offer);
                }
                self.reschedule(id);
            }
            Stage::ExpectProof { .. } if !stuck => {
                self.send_confirm(id);
                self.reschedule(id);
            }
            Stage::ExpectResponse(_) | Stage::ExpectAnswer { .. } | Stage::ExpectProof { .. } | Stage::Taken => {
                // The choice may have changed: an epoch may have retired, a community may be gone.
                let again = self
                    .choose_for(id, now)
                    .and_then(|tag| self.initiate(id, tag, in_session, now));
                if again.is_err() {
                    self.give_up(id, now, ports);
                }
            }
        }
    }

    fn give_up(&mut self, id: PeerId, now: Instant, ports: &mut impl Ports) {
        let in_session = self.peers[id].live().outgoing.as_ref().is_some_and(|o| o.in_session);
        self.abandon_outgoing(id);
        let live = self.peers[id].live();
        if in_session && live.current.is_some() {
            live.rekey_not_before = Some(now + GIVE_UP);
        } else if live.current.is_none() {
            let name = self.peers[id].name.clone();
            self.events.push_back(Event::NoAnswer(name));
            // A dead static key looks like silence: the directory or the peer itself must tell again.
            self.peers[id].live().endpoint = None;
            self.refuse_queue(id, DropReason::NoAnswer, now, ports);
        }
        self.reschedule(id);
    }

    pub(super) fn abandon_outgoing(&mut self, id: PeerId) {
        let Some(outgoing) = self.peers[id].live.as_mut().and_then(|l| l.outgoing.take()) else {
            return;
        };
        if let Some(index) = outgoing.local_index() {
            self.indices.remove(&index);
        }
        self.reschedule(id);
    }

    /// Something was opened under the keys that a confirm made: the session carries packets from here.
    pub(super) fn promote_outgoing(&mut self, id: PeerId, now: Instant, ports: &mut impl Ports) {
        let Some(outgoing) = self.peers[id].live.as_mut().and_then(|l| l.outgoing.take()) else {
            return;
        };
        let Stage::ExpectProof { session, .. } = outgoing.stage else {
            self.peers[id].live().outgoing = Some(outgoing);
            return;
        };
        self.counts.initiated += 1;
        self.install(id, session, outgoing.to, now, ports);
    }

    /// Makes `session` the one that carries packets; the one before still opens what is under way. A handshake outside has
    /// proved where the peer is (`at`): its two sides exchanged five messages there. One inside the session has not.
    pub(super) fn install(
        &mut self,
        id: PeerId,
        mut session: Session,
        at: Option<SocketAddr>,
        now: Instant,
        ports: &mut impl Ports,
    ) {
        let origin = session.origin;
        // The probe that proved it is no use: only packets make a session worth replacing.
        session.used = false;
        let live = self.peers[id].live();
        let rekey = live.current.is_some();
        let oldest = core::mem::replace(&mut live.previous, live.current.take());
        live.current = Some(session);
        live.unheard_since = None;
        live.silent_probes = 0;
        live.rekey_not_before = None;
        let moved = at.is_some() && live.endpoint != at;
        live.endpoint = at.or(live.endpoint);
        let endpoint = live.endpoint;
        if let Some(oldest) = oldest {
            self.indices.remove(&oldest.origin.local_index);
        }
        if let Some(static_key) = self.peers[id].static_key
            && (!rekey || moved)
        {
            self.persists.push_back(Persist::Live(static_key, endpoint));
        }
        let peer = self.peers[id].name.clone();
        self.events.push_back(Event::SessionUp {
            peer,
            tag: origin.tag,
            epoch: origin.epoch,
            rekey,
        });
        self.flush_queue(id, now, ports);
        self.send_pings(id);
        self.reschedule(id);
        // Who only listens has no other deadline that would notice that a statement ends.
        self.keep_house_by(now + HOUSEKEEPING);
    }

    /// After a restart: peers that believe in sessions that are gone are told at once, by a new handshake.
    pub(super) fn resume(&mut self, peers: Vec<(PublicKey, SocketAddr)>, now: Instant) {
        for (static_key, endpoint) in peers {
            let Some(id) = self.by_static.get(&static_key).copied() else {
                continue;
            };
            self.peers[id].live().endpoint = Some(endpoint);
            if self.want_session(id, now).is_err() {
                self.persists.push_back(Persist::Live(static_key, None));
            }
        }
    }
}

pub(super) fn origin(agreed: Agreed, initiator: bool, now: Instant) -> Origin {
    Origin {
        local_index: agreed.local_index,
        remote_index: agreed.remote_index,
        initiator,
        tag: agreed.tag,
        epoch: agreed.epoch,
        made: now,
    }
}
