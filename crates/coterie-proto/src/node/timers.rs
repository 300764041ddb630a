//! What time alone brings about: repeats, rekeys, ends, and the watch over silence.

use std::time::Duration;

use coterie_model::Instant;

use super::{Event, Node, PeerId, Persist, Ports, contact::TIE, peer::WATCH, state::GIVE_UP};
use crate::{DropReason, session::Session, wire::control::Control};

/// Probes without an answer after which a session is given up for dead.
const SILENT_PROBES: u8 = 3;
/// How often ended statements, retired epochs and revocations are looked for.
pub(super) const HOUSEKEEPING: Duration = Duration::from_secs(1);

impl Node {
    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant, ports: &mut impl Ports) {
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.remove(&(at, id));
            if let Some(live) = self.peers[id].live.as_mut() {
                live.deadline = None;
            }
            self.attend(id, now, ports);
            self.settle(id, now);
        }
        if self.housekeeping.is_some_and(|at| at <= now) {
            self.keep_house(now, ports);
        }
    }

    fn attend(&mut self, id: PeerId, now: Instant, ports: &mut impl Ports) {
        self.end_old_sessions(id, now, ports);
        let Some(live) = self.peers[id].live.as_ref() else {
            return;
        };
        let incoming_over = live.incoming.as_ref().is_some_and(|i| i.expires_at() <= now);
        let retry = live.outgoing.as_ref().is_some_and(|o| o.retry_at <= now);
        let watch = live.watch_at.is_some_and(|at| at <= now);
        let rekey = live.outgoing.is_none()
            && live
                .current
                .as_ref()
                .is_some_and(|s| (s.used && s.rekey_at() <= now) || s.is_worn())
            && live.rekey_not_before.is_none_or(|at| at <= now);
        if incoming_over {
            self.abandon_incoming(id);
        }
        if retry {
            self.retry_outgoing(id, now, ports);
        }
        if watch {
            self.watch(id, now);
        }
        if rekey {
            self.rekey(id, now);
        }
    }

    /// Makes the session's successor inside it. All checks are made again, the choice of community included.
    pub(super) fn rekey(&mut self, id: PeerId, now: Instant) {
        let started = self
            .choose_for(id, now)
            .and_then(|tag| self.initiate(id, tag, true, now));
        if started.is_err() {
            self.peers[id].live().rekey_not_before = Some(now + GIVE_UP);
        }
    }

    fn end_old_sessions(&mut self, id: PeerId, now: Instant, ports: &mut impl Ports) {
        let Some(live) = self.peers[id].live.as_mut() else {
            return;
        };
        if let Some(previous) = live.previous.take_if(|s| s.ends_at() <= now) {
            self.indices.remove(&previous.origin.local_index);
        }
        if live.current.as_ref().is_some_and(|s| s.ends_at() <= now) {
            let waits = live.outgoing.as_ref().is_some_and(|o| !o.in_session);
            self.end_sessions(id, false);
            if !waits && !self.peers[id].live().queue.is_empty() && self.want_session(id, now).is_err() {
                self.refuse_queue(id, DropReason::SessionEnded, now, ports);
            }
        }
    }

    /// Something was sent to `id` that is answered where the session lives.
    pub(super) fn watch_for_answer(&mut self, id: PeerId, now: Instant) {
        let live = self.peers[id].live();
        if live.unheard_since.is_none() {
            live.unheard_since = Some(now);
            live.watch_at.get_or_insert(now + WATCH);
            self.reschedule(id);
        }
    }

    /// Something was sent a second ago and nothing was heard since: ask, and after three questions start anew.
    fn watch(&mut self, id: PeerId, now: Instant) {
        let live = self.peers[id].live();
        live.watch_at = None;
        if live.current.is_none() {
            live.unheard_since = None;
            return;
        }
        let Some(since) = live.unheard_since else { return };
        live.watch_at = Some(now + WATCH);
        if now.since(since) < WATCH {
            return;
        }
        if live.silent_probes >= SILENT_PROBES {
            live.silent_probes = 0;
            live.unheard_since = None;
            live.watch_at = None;
            if live.outgoing.as_ref().is_some_and(|o| o.in_session) {
                self.abandon_outgoing(id);
            }
            // The old session stays for what may still come; the new handshake goes outside, where the peer may have restarted.
            if let Ok(tag) = self.choose_for(id, now)
                && self.peers[id].live().outgoing.is_none()
            {
                let _started = self.initiate(id, tag, false, now);
            }
            return;
        }
        live.silent_probes += 1;
        let mut token = [0; 8];
        self.entropy.fill(&mut token);
        self.send_control(id, &Control::Probe(token).to_bytes(), None);
    }

    /// House is kept by then at the latest.
    pub(super) fn keep_house_by(&mut self, by: Instant) {
        self.housekeeping = Some(self.housekeeping.map_or(by, |at| at.min(by)));
    }

    fn keep_house(&mut self, now: Instant, ports: &mut impl Ports) {
        self.membership.forget_retired(now);
        self.repeat_own_statements(now);
        self.end_without_statement(now, ports);
        self.forget_idle();
        self.forget_ended(now);
        self.forget_questions(now, ports);
        self.forget_sought(now, ports);
        self.attend_queues(now, ports);
        self.request_differences(now);
        let busy = self.peers.iter().any(|p| p.live.as_ref().is_some_and(|l| !l.is_idle()))
            || !self.asked.is_empty()
            || self.seeking.len() > 0
            || self.repeats > 0
            || self.wants_difference();
        // An idle node wakes for nothing but the end of its own epochs.
        self.housekeeping = if busy {
            Some(now + HOUSEKEEPING)
        } else {
            self.membership.next_change(now)
        };
    }

    /// What waits for a handshake that ended without a session (lost to the peer's own, or a response that did not check)
    /// gets another, or, after the time of one, is refused.
    fn attend_queues(&mut self, now: Instant, ports: &mut impl Ports) {
        for id in 0..self.peers.len() {
            let forgotten = self.peers[id].live.as_ref().is_some_and(|l| {
                let theirs = l.incoming.as_ref().is_some_and(|i| now.since(i.began) < TIE);
                !l.queue.is_empty() && l.current.is_none() && l.outgoing.is_none() && !theirs
            });
            if !forgotten {
                continue;
            }
            let waiting_since = self.peers[id].live().waiting_since;
            let long = waiting_since.is_some_and(|at| now.since(at) >= GIVE_UP);
            let again = if long {
                Err(DropReason::NoAnswer)
            } else {
                self.want_session(id, now)
            };
            if let Err(reason) = again {
                self.refuse_queue(id, reason, now, ports);
            }
        }
    }

    /// Sessions end with either side's statement, each with those of its own community.
    fn end_without_statement(&mut self, now: Instant, ports: &mut impl Ports) {
        let time = self.membership.time(now);
        for id in 0..self.peers.len() {
            let peer = &self.peers[id];
            let Some(live) = peer.live.as_ref() else { continue };
            let over = |session: &Option<Session>| {
                session.as_ref().is_some_and(|s| {
                    let theirs = peer.statement(s.origin.tag).is_some_and(|s| s.not_after > time);
                    !theirs || self.membership.own_statement(s.origin.tag, now).is_none()
                })
            };
            let (current, previous) = (over(&live.current), over(&live.previous));
            if current {
                self.refuse_queue(id, DropReason::SessionEnded, now, ports);
                self.end_peer(id, true);
            } else if previous {
                self.end_previous(id);
            }
        }
    }

    /// The session before the current one opens nothing any more.
    pub(super) fn end_previous(&mut self, id: PeerId) {
        if let Some(previous) = self.peers[id].live.as_mut().and_then(|l| l.previous.take()) {
            self.indices.remove(&previous.origin.local_index);
            self.reschedule(id);
        }
    }

    /// What is left of sessions that ended before their time.
    fn forget_idle(&mut self) {
        for peer in &mut self.peers {
            peer.live.take_if(|l| l.is_idle() && l.deadline.is_none());
        }
    }

    /// Whoever is in no view and was known by a statement alone, as one that was ended and called once more, is nobody when that
    /// has ended.
    fn forget_ended(&mut self, now: Instant) {
        let time = self.membership.time(now);
        let is_over = |id: &PeerId| {
            let peer = &self.peers[*id];
            let shown = peer.communities.is_empty() && !peer.statements.is_empty() && peer.live.is_none();
            shown && peer.statements.iter().all(|s| s.not_after <= time)
        };
        let over: Vec<PeerId> = self.by_name.values().copied().filter(is_over).collect();
        over.into_iter().for_each(|id| self.forget(id));
    }

    /// Ends what revocation ended: where it is this node itself that is refused, everything, for nobody listens any more.
    pub(super) fn drop_revoked(&mut self) {
        let own = self.is_refused();
        for id in 0..self.peers.len() {
            let revoked = own
                || self.peers[id]
                    .static_key
                    .is_some_and(|s| self.membership.is_revoked(&s));
            if revoked && self.peers[id].live.is_some() {
                self.end_peer(id, false);
            }
        }
    }

    /// Ends everything with `id`; `close` tells the peer.
    pub(super) fn end_peer(&mut self, id: PeerId, close: bool) {
        self.abandon_outgoing(id);
        self.abandon_incoming(id);
        self.end_sessions(id, close);
        if let Some(live) = self.peers[id].live.as_mut() {
            for _ in live.queue.drain(..) {
                self.counts.drops.count(DropReason::SessionEnded);
            }
        }
        self.reschedule(id);
    }

    /// The peer erased the session of `index`. One that was replaced since is over alone: its farewell was late.
    pub(super) fn close(&mut self, id: PeerId, index: u32) {
        let Some(live) = self.peers[id].live.as_mut() else {
            return;
        };
        if live.previous.take_if(|s| s.origin.local_index == index).is_some() {
            self.indices.remove(&index);
            self.reschedule(id);
        } else {
            self.end_peer(id, false);
        }
    }

    fn end_sessions(&mut self, id: PeerId, close: bool) {
        if close {
            self.send_control(id, &Control::Close.to_bytes(), None);
        }
        let Some(live) = self.peers[id].live.as_mut() else {
            return;
        };
        let ended = [live.current.take(), live.previous.take()];
        let was_up = ended[0].is_some();
        for session in ended.into_iter().flatten() {
            self.indices.remove(&session.origin.local_index);
        }
        live.watch_at = None;
        live.unheard_since = None;
        if was_up {
            if let Some(static_key) = self.peers[id].static_key {
                self.persists.push_back(Persist::Live(static_key, None));
            }
            let name = self.peers[id].name.clone();
            self.events.push_back(Event::SessionDown(name));
        }
    }

    /// Ends every session and tells the peers: this node goes down.
    pub fn shut_down(&mut self) {
        for id in 0..self.peers.len() {
            self.end_peer(id, true);
        }
    }

    /// Puts the peer's next deadline where it belongs.
    pub(super) fn reschedule(&mut self, id: PeerId) {
        let Some(live) = self.peers[id].live.as_mut() else {
            return;
        };
        let next = live.next_deadline();
        if next != live.deadline {
            if let Some(old) = live.deadline {
                self.deadlines.remove(&(old, id));
            }
            if let Some(at) = next {
                self.deadlines.insert((at, id));
            }
            live.deadline = next;
        }
    }

    /// After attention: the next deadline, or, when nothing is left, no live state at all.
    fn settle(&mut self, id: PeerId, now: Instant) {
        self.reschedule(id);
        if self.peers[id]
            .live
            .as_ref()
            .is_some_and(|l| l.is_idle() && l.deadline.is_none())
        {
            self.peers[id].live = None;
        } else if self.peers[id].live.is_some() {
            self.keep_house_by(now + HOUSEKEEPING);
        }
    }
}
