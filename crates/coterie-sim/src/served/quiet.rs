//! After the storm: faults stop, the server is there, and then every node knows what the server does and every pair that may
//! talk does; without the server they go on until their lease ends, and not longer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coterie_crypto::dh::PublicKey;
use coterie_model::{CommunityTag, Name};
use coterie_proto::node::PeerStatus;

use super::{
    World,
    machine::{Daemon, Machine, Power},
};
use crate::{
    check::{Breach, Promise},
    link::Faults,
};

/// How long it takes until everybody has caught up.
const CATCH_UP: Duration = Duration::from_secs(45);
/// How long it takes until a visitor leaves a door that does nothing, and is let in by another.
const LEFT: Duration = Duration::from_secs(150);
/// How long sessions may take to come back.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often each pair tries.
const EVERY: Duration = Duration::from_millis(500);
/// How long the server is away.
const AWAY: Duration = Duration::from_secs(75);
/// How long after the end of a lease everything is closed.
const CLOSED: Duration = Duration::from_secs(10);

/// What history says about a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Must,
    MustNot,
    Unclear,
}

/// What is to come after everybody has caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// Nothing more.
    None,
    /// The server goes away, daemons are killed, and everybody goes on.
    Away,
    /// The server stays away until every lease is over.
    Closed,
}

impl World {
    /// Ends every fault, and lets everybody catch up.
    pub fn calm(&mut self) {
        self.link.faults = Faults::NONE;
        self.link.mend();
        self.server.crash = None;
        self.start_server();
        for machine in &mut self.machines {
            machine.cut = false;
            machine.hostile = None;
        }
        self.hurry();
        self.run(CATCH_UP);
    }

    /// Calms the world, and holds it to what history says.
    pub fn settle(&mut self, epilogue: Epilogue) {
        self.calm();
        if self.violation.is_some() {
            return;
        }
        self.compare_views();
        self.no_answer_is_lost();
        self.converse();
        if epilogue == Epilogue::None || self.violation.is_some() {
            return;
        }
        self.apply(&super::action::Transition::ServerDown);
        self.run(AWAY);
        for machine in 0..self.machines.len() {
            if self.rng.chance(500) {
                self.apply(&super::action::Transition::KillNode { machine });
            }
        }
        self.run(Duration::from_secs(2));
        self.converse();
        if epilogue == Epilogue::Closed && self.violation.is_none() {
            self.run(self.site.lease + CLOSED);
            self.all_closed();
        }
    }

    /// Every pair tries to talk, and is held to the verdict.
    fn converse(&mut self) {
        let verdicts = self.verdicts();
        let start = self.now;
        let mut sent = Vec::new();
        while self.violation.is_none() && self.now.since(start) < PATIENCE {
            for (from, to) in verdicts.keys() {
                for (from, to) in [(*from, *to), (*to, *from)] {
                    if let Some(number) = self.send(from, to) {
                        sent.push((from, to, number));
                    }
                }
            }
            self.run(EVERY);
        }
        let mut first: BTreeMap<(usize, usize), Duration> = BTreeMap::new();
        for (from, to, number) in sent {
            if let Some(at) = self.delivery.delivered_to(number, to) {
                let after = at.since(start);
                let known = first.entry((from, to)).or_insert(after);
                *known = after.min(*known);
            }
        }
        for ((a, b), verdict) in &verdicts {
            let served = (first.get(&(*a, *b)).copied(), first.get(&(*b, *a)).copied());
            let held = self.hold((*a, *b), *verdict, served);
            self.check(held);
        }
    }

    fn hold(
        &mut self,
        (a, b): (usize, usize),
        verdict: Verdict,
        served: (Option<Duration>, Option<Duration>),
    ) -> Result<(), Breach> {
        let names = || format!("{} and {}", self.machines[a].label, self.machines[b].label);
        match (verdict, served) {
            (Verdict::Must, (Some(there), Some(back))) => {
                self.totals.slowest = self.totals.slowest.max(there).max(back);
                self.count("pairs that talk", 1);
                Ok(())
            }
            (Verdict::Must, (there, back)) => {
                let way = |served: Option<Duration>| if served.is_some() { "served" } else { "not served" };
                let dropped = [a, b].map(|machine| self.drops(machine));
                let what = format!(
                    "{} may talk: there {}, back {}; they dropped {}; {}",
                    names(),
                    way(there),
                    way(back),
                    dropped[0],
                    dropped[1]
                );
                Err(Breach::new(Promise::Liveness, what))
            }
            (Verdict::MustNot, (None, None)) => {
                self.count("pairs that are silent", 1);
                Ok(())
            }
            (Verdict::MustNot, _) => {
                let what = format!("{} may not talk, and do", names());
                Err(Breach::new(Promise::Isolation, what))
            }
            (Verdict::Unclear, _) => {
                self.count("pairs unclear", 1);
                Ok(())
            }
        }
    }

    /// What a core dropped, for people.
    fn drops(&self, machine: usize) -> String {
        let counts = self.machines[machine].running().map(|running| running.node.counts());
        let all = counts.into_iter().flat_map(|counts| counts.drops.iter());
        let all = all
            .filter(|(_, n)| *n > 0)
            .map(|(reason, n)| format!("{} {n}", reason.name()));
        all.collect::<Vec<_>>().join(", ")
    }

    fn verdicts(&self) -> BTreeMap<(usize, usize), Verdict> {
        let mut verdicts = BTreeMap::new();
        let running = |machine: &usize| self.machines[*machine].running().is_some_and(|running| !running.forked);
        let all: Vec<usize> = (0..self.machines.len()).filter(running).collect();
        for (n, a) in all.iter().enumerate() {
            for b in &all[n + 1..] {
                if self.machines[*a].name != self.machines[*b].name {
                    verdicts.insert((*a, *b), self.verdict(*a, *b));
                }
            }
        }
        verdicts
    }

    fn verdict(&self, a: usize, b: usize) -> Verdict {
        let (Some(x), Some(y)) = (self.machines[a].key(), self.machines[b].key()) else {
            return Verdict::Unclear;
        };
        let refused = [&x, &y].iter().filter(|key| self.truth.refusal(key).is_some()).count();
        match (self.truth.shared(&x, &y, None, self.now), refused) {
            (None, _) => Verdict::MustNot,
            // Two who are both refused may not have been told of each other.
            (Some(_), 2) => Verdict::Unclear,
            (Some(_), 1) if self.knows_refusal(a, b) => Verdict::MustNot,
            (Some(shared), 0) if shared.ended.is_none() && self.lasts(a) && self.lasts(b) => Verdict::Must,
            // Sessions may live on, or a statement that has not ended be shown.
            (Some(_), _) => Verdict::Unclear,
        }
    }

    /// Whether a machine believes that it is a member for some time: one whose clock leapt may be ahead of the server that is away.
    fn lasts(&self, machine: usize) -> bool {
        let at = self.local(machine);
        let status = self.machines[machine].running().map(|running| running.node.status(at));
        status.is_some_and(|status| {
            let soon = status.time.plus(2 * PATIENCE);
            self.server.live.is_some() || status.communities.iter().all(|community| community.not_after > soon)
        })
    }

    /// Whether the one of the two that is not refused was told of the other.
    fn knows_refusal(&self, a: usize, b: usize) -> bool {
        let knows = |one: usize, other: usize| {
            let refusal = self.machines[other]
                .key()
                .and_then(|key| self.truth.refusal(&key).copied());
            let revision = self.machines[one]
                .running()
                .map(|running| running.node.status(self.local(one)).revision);
            refusal
                .zip(revision)
                .is_some_and(|(refusal, revision)| revision >= refusal.list)
        };
        knows(a, b) || knows(b, a)
    }

    /// Every node knows of its communities what the server does.
    fn compare_views(&mut self) {
        for machine in 0..self.machines.len() {
            let compared = self.compare_view(machine);
            self.check(compared);
        }
    }

    fn compare_view(&mut self, machine: usize) -> Result<(), Breach> {
        let at = self.local(machine);
        let m = &self.machines[machine];
        let Some(live) = &self.server.live else { return Ok(()) };
        let enclave = &live.enclave;
        let Some(running) = m.running().filter(|running| !running.forked) else {
            return Ok(());
        };
        let is_member = m.power == Power::On && enclave.static_key(&m.name) == Some(running.node.static_key());
        if !is_member || enclave.is_isolated(&m.name) {
            return Ok(());
        }
        let breach = |what: String| Err(Breach::new(Promise::Views, format!("{}: {what}", m.label)));
        let Some(seat) = enclave.seat(&m.name) else {
            return Ok(());
        };
        let status = running.node.status(at);
        let own: BTreeSet<&Name> = status.communities.iter().map(|community| &community.name).collect();
        if own != seat.communities.iter().collect() {
            return breach(format!("it is in {:?}, and believes {own:?}", seat.communities));
        }
        for community in &status.communities {
            let newest = enclave
                .manifests(&community.name)
                .filter(|m| m.activates <= status.time)
                .last();
            if community.epoch != newest.map(|manifest| manifest.epoch) {
                let wanted = newest.map(|manifest| manifest.epoch);
                return breach(format!(
                    "epoch {:?} of {}, not {wanted:?}",
                    community.epoch, community.name
                ));
            }
        }
        let mut shared: BTreeMap<&Name, BTreeSet<CommunityTag>> = BTreeMap::new();
        for (name, other) in enclave.members().filter(|(name, _)| **name != m.name) {
            let common = other.communities.intersection(&seat.communities);
            let tags: BTreeSet<CommunityTag> = common.filter_map(|community| enclave.tag(community)).collect();
            if !tags.is_empty() && enclave.static_key(name).is_some() {
                shared.insert(name, tags);
            }
        }
        // Who was ended, and not refused, shows its statement as long as it has not ended.
        let lingers = |name: &Name| {
            let mut keys = self.truth.keys_of(name);
            !shared.contains_key(name) && keys.any(|key| self.truth.ends(key).is_some_and(|end| end > status.time))
        };
        // Of whom it has nothing in common with, it may know that there is such a one.
        let strange = |address: std::net::IpAddr| running.node.explain(address, at).candidates.is_empty();
        let in_common = |peer: &&PeerStatus| !peer.addresses.iter().all(|prefix| strange(prefix.addr()));
        let known = status.peers.iter().filter(in_common).map(|peer| &peer.name);
        let known: BTreeSet<&Name> = known.filter(|name| !lingers(name)).collect();
        let wanted: BTreeSet<&Name> = shared.keys().copied().collect();
        if known != wanted {
            return breach(format!("it knows {known:?}, not {wanted:?}"));
        }
        for (name, tags) in shared {
            let addresses = enclave
                .seat(name)
                .map(|seat| seat.addresses.clone())
                .unwrap_or_default();
            let Some(peer) = status.peers.iter().find(|peer| peer.name == *name) else {
                continue;
            };
            let told: BTreeSet<_> = peer.addresses.iter().map(coterie_model::Prefix::addr).collect();
            if told != addresses.iter().copied().collect() {
                return breach(format!("{name} has {addresses:?}, and it believes {told:?}"));
            }
            let Some(address) = addresses.first() else { continue };
            let explained = running.node.explain(*address, at);
            let weighed: BTreeSet<CommunityTag> = explained.candidates.iter().map(|(c, _)| c.tag).collect();
            if explained.peer.as_ref() != Some(name) || weighed != tags {
                return breach(format!(
                    "it shares {} communities with {name}, not {}",
                    weighed.len(),
                    tags.len()
                ));
            }
        }
        self.count("views compared", 1);
        Ok(())
    }

    /// No machine waits at a door that the server has made a member.
    fn no_answer_is_lost(&mut self) {
        if self.waiting().is_some() {
            // A door that was hostile dropped what it brought, and does not say so.
            self.run(LEFT);
        }
        if let Some(label) = self.waiting() {
            let what = format!("{label} is a member, and was not told so");
            self.breach(Breach::new(Promise::Liveness, what));
        }
    }

    fn waiting(&self) -> Option<String> {
        let live = self.server.live.as_ref()?;
        let keys: Vec<PublicKey> = self.machines.iter().filter_map(Machine::key).collect();
        let waits = |m: &&Machine| match &m.daemon {
            Some(Daemon::Visiting(visiting)) => {
                // A door that was enrolled anew is none any more that its token names.
                let refused = |key: &PublicKey| visiting.refused.contains(key);
                let mut doors = visiting.token.doors.iter().map(|door| door.static_key);
                live.enclave.static_key(&m.name) == Some(visiting.keys.static_key().public())
                    && self.server.time(self.now) <= visiting.token.not_after
                    && (visiting.token.doors.is_empty() || doors.any(|key| keys.contains(&key) && !refused(&key)))
            }
            Some(Daemon::Running(_)) | None => false,
        };
        self.machines.iter().find(waits).map(|m| m.label.clone())
    }

    /// Leases are over and the server is away: nobody has a session.
    fn all_closed(&mut self) {
        for machine in 0..self.machines.len() {
            let at = self.local(machine);
            let m = &self.machines[machine];
            let Some(running) = m.running() else { continue };
            let session = running
                .node
                .status(at)
                .peers
                .into_iter()
                .find(|peer| peer.session.is_some());
            if let Some(peer) = session {
                let what = format!("{} has a session with {} after every lease ended", m.label, peer.name);
                self.breach(Breach::new(Promise::Lease, what));
            }
            self.count("nodes closed", 1);
        }
    }
}
