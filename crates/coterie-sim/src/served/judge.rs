//! Whether a machine may have done what it did.

use std::net::IpAddr;
use std::time::Duration;

use coterie_crypto::dh::PublicKey;
use coterie_model::{CommunityTag, Name, Revision};
use coterie_proto::{Event, node::Alarm};

use super::{World, describe};
use crate::{
    check::{
        Breach, Promise,
        alarm::{Causes, judge},
    },
    clock::Moment,
};

/// Who follows refuses within this.
const REFUSED: Duration = Duration::from_secs(5);
/// Who follows again does after this.
const REBUILT: Duration = Duration::from_secs(30);
/// How long a packet may be under way.
const UNDER_WAY: Duration = Duration::from_secs(4);
/// How long packets may still be delivered after a membership ended that was not refused: a session's life, the old key's ten
/// seconds, and two handshakes under way.
const SESSIONS_END: Duration = Duration::from_secs(240);
/// Housekeeping ends what a statement ended within a second; clocks drift.
const HOUSEKEEPING: Duration = Duration::from_secs(4);

impl World {
    /// Which name a machine has, as a number.
    fn number(&self, machine: usize) -> usize {
        let name = &self.machines[machine].name;
        self.names.iter().position(|other| other == name).unwrap_or(usize::MAX)
    }

    /// A program on `from` sends a packet to the name of machine `to`; gives its number, or `None` when there is nothing to send
    /// from or to.
    pub fn send(&mut self, from: usize, to: usize) -> Option<u64> {
        let at = self.local(from);
        let target = self.machines[to].name.clone();
        let destinations = self.addresses(to);
        let (mine, number_to) = (self.number(from), self.number(to));
        let v6 = self.rng.chance(300);
        let most = if self.rng.chance(100) { 1200 } else { 200 };
        let payload = self.rng.index(most);
        let m = &self.machines[from];
        let running = m.running().filter(|running| !running.forked && m.name != target)?;
        let status = running.node.status(at);
        let source = status
            .addresses
            .iter()
            .map(coterie_model::Prefix::addr)
            .find(|a| a.is_ipv6() == v6)?;
        let destination = destinations.into_iter().find(|a| a.is_ipv6() == v6)?;
        let enrolment = running.enrolment;
        let number = self.delivery.next();
        let packet = self.canary.packet(number, source, destination, payload);
        self.delivery
            .sent((from, mine, enrolment), number_to, packet.clone(), self.now);
        self.count("packets", 1);
        let out = self.machines[from].running_mut()?.inside(&packet, at);
        self.carry_out(from, out);
        Some(number)
    }

    /// Where a machine is reached inside: by its name, as the server has it, or by what its own core says, if nobody else has
    /// that now.
    fn addresses(&self, machine: usize) -> Vec<IpAddr> {
        let m = &self.machines[machine];
        if let Some(addresses) = self.roster.get(&m.name) {
            return addresses.clone();
        }
        let own = m
            .running()
            .map(|running| running.node.status(m.clock.boot(self.now)).addresses);
        let own = own.unwrap_or_default().into_iter().map(|prefix| prefix.addr());
        let taken = |address: &IpAddr| self.roster.values().flatten().any(|other| other == address);
        own.filter(|address| !taken(address)).collect()
    }

    /// When a packet was delivered.
    #[must_use]
    pub fn delivered(&self, number: u64) -> Option<Moment> {
        self.delivery.delivered(number)
    }

    /// A node gave a packet to the programs of a machine.
    pub(super) fn inside(&mut self, machine: usize, packet: &[u8]) {
        let judged = self.may_deliver(machine, packet);
        self.check(judged);
    }

    fn may_deliver(&mut self, machine: usize, packet: &[u8]) -> Result<(), Breach> {
        let (now, number) = (self.now, self.number(machine));
        let Some(sent) = self.delivery.arrives(machine, number, packet, now)? else {
            return Ok(());
        };
        let (sender, enrolment) = (sent.host, sent.enrolment);
        self.count("delivered", 1);
        let (r, s) = (&self.machines[machine], &self.machines[sender]);
        let (Some(own), Some(theirs)) = (r.key(), s.enrolments.get(enrolment).copied()) else {
            return Ok(());
        };
        let breach = |promise, what: &str| {
            let what = format!("{} got a packet of {} {what}", r.label, s.label);
            Err(Breach::new(promise, what))
        };
        let Some(shared) = self.truth.shared(&theirs, &own, None, now) else {
            return breach(Promise::Delivery, "with which it never shared a community");
        };
        let known = r
            .running()
            .map_or(0, |running| running.node.status(r.clock.boot(now)).revision);
        if self.truth.refusal(&theirs).is_some_and(|refusal| known >= refusal.list) {
            return breach(Promise::Refusal, "after it was told to refuse it");
        }
        if let Some(refusal) = self.truth.refusal(&own)
            && told(&s.refusals, refusal.list).is_some_and(|at| now.since(at) > UNDER_WAY)
        {
            return breach(Promise::Refusal, "which had been told to refuse it");
        }
        // Who was only ended keeps a statement until its lease ends, and shows it.
        let both_are_members = [&own, &theirs]
            .iter()
            .all(|key| !self.truth.communities(key).is_empty());
        if let Some(ended) = shared.ended.filter(|_| both_are_members)
            && let Some(at) = told(&r.marks, ended)
            && now.since(at.max(shared.at)) > SESSIONS_END
        {
            return breach(Promise::Delivery, "long after it was told that they share nothing");
        }
        if let Some(time) = r.settled_time(now) {
            let ends = [&own, &theirs].map(|key| self.truth.ends(key).unwrap_or_default());
            if ends.iter().any(|end| time > end.plus(HOUSEKEEPING)) {
                return breach(Promise::Lease, "after the last of their statements ended");
            }
        }
        Ok(())
    }

    /// A node said something.
    pub(super) fn heed(&mut self, machine: usize, event: &Event) {
        self.note(machine, &describe(event));
        match event {
            Event::SessionUp { peer, tag, .. } => {
                self.count("sessions", 1);
                let judged = self.may_be_up(machine, peer, *tag);
                self.check(judged);
            }
            Event::Alarm(alarm) => {
                self.count("alarms", 1);
                let judged = self.may_cry(machine, alarm);
                self.check(judged);
            }
            Event::SessionDown(_) | Event::NoAnswer(_) | Event::Moved(..) | Event::Pong(_) => {}
        }
    }

    fn may_cry(&self, machine: usize, alarm: &Alarm) -> Result<(), Breach> {
        let m = &self.machines[machine];
        let causes = Causes {
            twin: false,
            told: self.set_back.is_some(),
            forked: m.running().is_some_and(|running| running.forked),
            revoked: !self.truth.lists.is_empty(),
        };
        judge(alarm, causes).map_err(|breach| Breach {
            what: format!("{}: {}", m.label, breach.what),
            ..breach
        })
    }

    fn may_be_up(&self, machine: usize, peer: &Name, tag: CommunityTag) -> Result<(), Breach> {
        let m = &self.machines[machine];
        let breach = |what: &str| {
            Err(Breach::new(
                Promise::Session,
                format!("{}: with {peer}: {what}", m.label),
            ))
        };
        let (Some(own), Some(community)) = (m.key(), self.tags.get(&tag)) else {
            return breach("a session under a community that does not exist");
        };
        let shared = |key: &PublicKey| self.truth.shared(&own, key, Some(community), self.now).is_some();
        if !self.truth.keys_of(peer).any(shared) {
            return breach("a session under a community that the two never shared");
        }
        Ok(())
    }

    /// Bounds that time alone could break.
    pub(super) fn inspect(&mut self) {
        for machine in 0..self.machines.len() {
            let judged = self.is_in_bounds(machine);
            self.check(judged);
            let at = self.local(machine);
            let revision = self.machines[machine]
                .running()
                .map(|running| running.node.status(at).revision);
            let m = &mut self.machines[machine];
            m.revision = m.revision.max(revision.unwrap_or(0));
        }
    }

    fn is_in_bounds(&self, machine: usize) -> Result<(), Breach> {
        let (now, m) = (self.now, &self.machines[machine]);
        let Some(running) = m.running().filter(|running| !running.forked) else {
            return Ok(());
        };
        let breach = |promise, what: String| Err(Breach::new(promise, format!("{}: {what}", m.label)));
        let status = running.node.status(m.clock.boot(now));
        if status.revision < m.revision {
            let what = format!("it knew revocations {} and knows {}", m.revision, status.revision);
            return breach(Promise::Order, what);
        }
        let connection = running.follower.connection().unwrap_or(0);
        let whole = !m.cut && m.broken != connection && self.server.live.is_some();
        if let Some(since) = running.follower.flows_since().filter(|_| whole) {
            let due = |at: Moment| {
                let alive = since <= at && now.since(at) >= REFUSED;
                alive || now.since(since) >= REBUILT && now.since(at) >= REFUSED
            };
            let wanted = self
                .truth
                .lists
                .iter()
                .filter(|(_, at)| due(*at))
                .map(|(list, _)| *list)
                .max();
            if let Some(wanted) = wanted.filter(|wanted| *wanted > status.revision) {
                let what = format!(
                    "it follows, and knows revocations {} where {wanted} is due",
                    status.revision
                );
                return breach(Promise::Refusal, what);
            }
        }
        if let Some(peer) = status.peers.iter().find(|peer| peer.revoked && peer.session.is_some()) {
            return breach(
                Promise::Refusal,
                format!("a session with {}, which is refused", peer.name),
            );
        }
        let Some((time, own)) = m.settled_time(now).zip(m.key()) else {
            return Ok(());
        };
        let over = |key: &PublicKey| self.truth.ends(key).is_none_or(|end| time > end.plus(HOUSEKEEPING));
        for peer in status.peers.iter().filter(|peer| peer.session.is_some()) {
            if over(&own) || self.truth.keys_of(&peer.name).all(over) {
                let ends: Vec<_> = self.truth.keys_of(&peer.name).map(|key| self.truth.ends(key)).collect();
                let what = format!(
                    "a session with {} after a lease ended: it is {time:?} ({:?} by its core), its own ends {:?}, the other's {ends:?}",
                    peer.name,
                    status.time,
                    self.truth.ends(&own),
                );
                return breach(Promise::Lease, what);
            }
        }
        Ok(())
    }
}

/// When somebody was told `revision` or a later one.
fn told(history: &[(Revision, Moment)], revision: Revision) -> Option<Moment> {
    history.iter().find(|(known, _)| *known >= revision).map(|(_, at)| *at)
}
