//! What the world says to deliveries, sessions and alarms: facts of the enclave beside what a node did.

use std::time::Duration;

use coterie_model::CommunityTag;
use coterie_proto::{Event, membership::Freshness, node::Alarm};

use super::{Sabotage, World};
use crate::{
    check::{
        Breach, Promise,
        alarm::{Causes, judge},
    },
    clock::Moment,
    host::Forked,
};

/// How long packets may still be delivered after a membership ended that was not revoked: a session's life, the old key's ten
/// seconds, and two handshakes under way.
const SESSIONS_END: Duration = Duration::from_secs(240);
/// How long sessions may still come about under a key that ended: its ten seconds, and a handshake's thirty.
const HANDSHAKES_END: Duration = Duration::from_secs(45);
/// Housekeeping ends what a statement ended within a second; clocks drift.
const HOUSEKEEPING: u64 = 3;

impl World {
    /// A node gave a packet to the programs of `host`.
    pub(super) fn inside(&mut self, host: usize, packet: &[u8]) {
        let machine = self.hosts[host].machine;
        let mut judged = self.may_deliver(host, machine, packet);
        if judged.is_ok() && self.sabotage == Some(Sabotage::DeliverTwice) {
            judged = self.may_deliver(host, machine, packet);
        }
        if judged.is_ok() && self.sabotage == Some(Sabotage::DeliverToAll) {
            judged = (0..self.hosts.len()).try_for_each(|h| self.may_deliver(h, self.hosts[h].machine, packet));
        }
        self.check(judged);
    }

    fn may_deliver(&mut self, host: usize, machine: usize, packet: &[u8]) -> Result<(), Breach> {
        let now = self.now;
        let Some(sent) = self.delivery.arrives(host, machine, packet, now)? else {
            return Ok(());
        };
        self.totals.delivered += 1;
        let (from, enrolment, sender) = (sent.machine, sent.enrolment, sent.host);
        let breach = |what: String| Err(Breach::new(Promise::Delivery, what));
        let h = &self.hosts[host];
        let Some(shared) = self.enclave.last_shared(from, machine, now) else {
            return breach(format!(
                "m{machine} got a packet of m{from}, with which it never shared a community"
            ));
        };
        if let Some(revision) = self.enclave.machines[from].enrolments[enrolment].revoked_in
            && h.revision >= revision
        {
            return breach(format!(
                "m{machine} got a packet of m{from} after it was told of its revocation"
            ));
        }
        if let Some(told) = self.told_of_end(host, from) {
            let slack = SESSIONS_END + h.paused + self.hosts[sender].paused;
            if now.since(told.max(shared)) > slack {
                return breach(format!(
                    "m{machine} got a packet of m{from} long after it was told that they share nothing"
                ));
            }
        }
        let ends = |who: usize, enrolment: usize| {
            (0..self.enclave.communities.len())
                .filter_map(|c| self.enclave.statement_ends(c, who, enrolment))
                .max()
        };
        if self.enclave.freshness == Freshness::Offline
            && let (Some(time), Some(end)) = (
                h.offline_time(now),
                ends(from, enrolment).min(ends(machine, h.enrolment)),
            )
            && time.0 > end.0 + HOUSEKEEPING
        {
            return breach(format!(
                "m{machine} got a packet of m{from} after the last of their statements ended"
            ));
        }
        Ok(())
    }

    /// When `host` was told that it no longer shares any community with `other`, because that one was removed; `None` when it
    /// does, or was not told. A host that was removed itself is told nothing: its word is its lease.
    fn told_of_end(&self, host: usize, other: usize) -> Option<Moment> {
        let machine = self.hosts[host].machine;
        let mut latest = None;
        for c in 0..self.enclave.communities.len() {
            if self.enclave.last_shared_in(c, machine, other, self.now).is_some() {
                latest = latest.max(Some(self.told_of_end_in(c, host, other)?));
            }
        }
        latest
    }

    fn told_of_end_in(&self, community: usize, host: usize, other: usize) -> Option<Moment> {
        if !self.enclave.is_member(community, self.hosts[host].machine) || self.enclave.is_member(community, other) {
            return None;
        }
        let ends = self.enclave.communities[community]
            .spans
            .iter()
            .filter(|s| s.machine == other);
        let version = ends.filter_map(|s| s.until).map(|(_, version)| version).max()?;
        self.hosts[host].told_at(version)
    }

    /// A node said something.
    pub(super) fn heed(&mut self, host: usize, event: Event, told: bool) {
        match &event {
            Event::SessionUp { peer, tag, epoch, .. } => {
                self.totals.sessions += 1;
                let what = format!("session with {peer} up, epoch {epoch}");
                self.note(host, &what);
                let peer = self.enclave.machines.iter().position(|m| m.name == *peer);
                let judged = self.may_be_up(host, peer, *tag);
                self.check(judged);
            }
            Event::Alarm(alarm) => {
                self.note(host, &format!("alarm {alarm:?}"));
                let twin = match alarm {
                    Alarm::Twin(name) => {
                        let fork = |h: &crate::host::Host| self.enclave.machines[h.machine].name == *name && h.twin;
                        self.hosts.iter().any(fork)
                    }
                    Alarm::Rollback | Alarm::Foreign | Alarm::Forked | Alarm::RevokedKnocked => false,
                };
                let forked = self.hosts[host].forked == Forked::Told;
                let revoked = self
                    .enclave
                    .machines
                    .iter()
                    .flat_map(|m| &m.enrolments)
                    .any(|e| e.revoked_in.is_some());
                let judged = judge(
                    alarm,
                    Causes {
                        twin,
                        told,
                        forked,
                        revoked,
                    },
                );
                self.check(judged);
            }
            Event::SessionDown(peer) | Event::NoAnswer(peer) => {
                let what = if matches!(event, Event::NoAnswer(_)) {
                    "no answer from"
                } else {
                    "session down with"
                };
                let what = format!("{what} {peer}");
                self.note(host, &what);
            }
            Event::Moved(peer, to) => {
                let what = format!("{peer} moved to {to}");
                self.note(host, &what);
            }
            Event::Pong(_) => {}
        }
        self.events.push((self.now, host, event));
    }

    fn may_be_up(&self, host: usize, peer: Option<usize>, tag: CommunityTag) -> Result<(), Breach> {
        let breach = |what: &str| {
            Err(Breach::new(
                Promise::Session,
                format!("{}: {what}", self.hosts[host].label),
            ))
        };
        let h = &self.hosts[host];
        let (Some(peer), Some(community)) = (peer, self.enclave.community(tag)) else {
            return breach("a session with somebody, or under a community, that does not exist");
        };
        let Some(shared) = self.enclave.last_shared_in(community, h.machine, peer, self.now) else {
            return breach("a session under a community that the two never shared");
        };
        if let Some(told) = self.told_of_end_in(community, host, peer)
            && self.now.since(told.max(shared)) > HANDSHAKES_END + h.paused
        {
            return breach("a session under a community of which one was removed, as it was told long ago");
        }
        let Some(running) = h.running.as_ref() else {
            return Ok(());
        };
        let status = running.node.status(h.clock.boot(self.now));
        let name = &self.enclave.machines[peer].name;
        let ours = status
            .peers
            .iter()
            .find(|p| p.name == *name)
            .and_then(|p| p.session.as_ref())
            .is_some_and(|s| s.initiator);
        let always = |x: &usize| {
            let spans = &self.enclave.communities[community].spans;
            spans
                .iter()
                .any(|s| s.machine == *x && s.from == Moment::START && s.until.is_none())
        };
        // A handshake that was under way when it was told goes on.
        let settled = self.now.since(h.excluded_at) > HANDSHAKES_END || h.excluded_at == Moment::START;
        if ours && settled && h.exclude.iter().any(always) {
            return breach("it made a session under a community that an excluded machine can hear");
        }
        Ok(())
    }
}
