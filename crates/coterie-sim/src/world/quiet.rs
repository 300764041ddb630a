//! After the storm: faults stop, everybody is told, and within ten seconds every pair that may talk does, and no other.

use std::collections::BTreeMap;
use std::time::Duration;

use coterie_model::{Instant, UnixTime};
use coterie_proto::{
    membership::Freshness,
    node::{PeerStatus, SessionStatus},
    wire::datagram,
};

use super::{Sabotage, World};
use crate::{
    check::{Breach, Promise},
    host::{Forked, Power},
    link::Faults,
    reference::{Standing, Verdict, verdict},
};

/// How long sessions may take to come back.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a packet may wait for a session: a handshake that is given up, and one more.
const WAITED: Duration = Duration::from_secs(30);
/// How long after a removal sessions may still come about under the key before it: ten seconds, and handshakes under way.
const GRACE: Duration = Duration::from_secs(45);
/// How often each pair tries.
const EVERY: Duration = Duration::from_millis(500);

/// What the model demanded, and when each direction of each pair was served.
#[derive(Debug, Default)]
pub struct Settled {
    /// By pair of machines.
    pub verdicts: BTreeMap<(usize, usize), Verdict>,
    /// When the first packet that was sent afterwards arrived, by sender and receiver.
    pub first: BTreeMap<(usize, usize), Duration>,
}

impl World {
    /// Ends every fault and lets the issuer reach everybody. Forks end: the copy is gone, the machine is enrolled anew.
    pub fn calm(&mut self) {
        if self.sabotage != Some(Sabotage::NeverHeal) {
            self.link.faults = Faults::NONE;
            self.link.mend();
        }
        for host in 0..self.hosts.len() {
            self.hosts[host].deaf = false;
            self.hosts[host].torn = false;
            self.resume(host, false);
            let h = &mut self.hosts[host];
            if h.twin && h.power != Power::Gone {
                h.stop();
                h.power = Power::Gone;
            }
        }
        for host in 0..self.hosts.len() {
            let machine = self.hosts[host].machine;
            let expelled = self.enclave.machines[machine].expelled;
            if self.hosts[host].forked != Forked::Never && !self.hosts[host].twin && !expelled {
                self.re_enrol(machine);
            }
            // One that noticed a fork and may not come back has no keys to come back with.
            if self.hosts[host].power == Power::Down && self.hosts[host].forked != Forked::Told {
                self.start(host);
            }
        }
        // A head of a second that was seen says nothing to a clock that leapt within it.
        self.run(Duration::from_secs(1));
        let now = self.now;
        for community in 0..self.enclave.communities.len() {
            self.enclave.ensure_live(community, now);
        }
        for machine in 0..self.enclave.machines.len() {
            if !self.enclave.machines[machine].expelled {
                self.enclave.renew(machine, now);
            }
        }
        self.send_news_to_all();
        self.run(Duration::from_millis(500));
    }

    /// Calms the world, and holds it to what the model says.
    pub fn settle(&mut self) -> Settled {
        self.calm();
        let mut settled = Settled {
            verdicts: self.verdicts(),
            ..Settled::default()
        };
        let start = self.now;
        self.between.clear();
        let machines = self.enclave.machines.len();
        let mut sent = Vec::new();
        while self.violation.is_none() && self.now.since(start) < PATIENCE {
            for from in 0..machines {
                for to in (0..machines).filter(|to| *to != from) {
                    if let Some(number) = self.send(from, to) {
                        sent.push((from, to, number));
                    }
                }
            }
            self.run(EVERY);
        }
        for (from, to, number) in sent {
            if let Some(at) = self.delivered(number) {
                let after = at.since(start);
                let first = settled.first.entry((from, to)).or_insert(after);
                *first = after.min(*first);
            }
        }
        self.hold(&settled);
        self.run(WAITED);
        for host in 0..self.hosts.len() {
            let waiting = self.hosts[host].running.as_ref().map_or(0, |r| r.node.waiting());
            if waiting > 0 {
                let what = format!("{}: {waiting} packets wait for nothing", self.hosts[host].label);
                self.breach(Breach::new(Promise::Accounting, what));
            }
        }
        settled
    }

    fn verdicts(&self) -> BTreeMap<(usize, usize), Verdict> {
        let mut verdicts = BTreeMap::new();
        for a in 0..self.enclave.machines.len() {
            for b in a + 1..self.enclave.machines.len() {
                let told = match (self.standing(a), self.standing(b)) {
                    (Some(x), Some(y)) => verdict(&self.enclave, x, y, (3, 13)),
                    (None, _) | (_, None) => Verdict::Unclear,
                };
                // A session that is there may stay for its life, and the key before a removal admits ten seconds longer; what
                // comes after is the model's.
                if self.enclave.machines[a].expelled && self.enclave.machines[b].expelled {
                    // Nobody tells them anything, not even that they are out.
                    verdicts.insert((a, b), Verdict::Unclear);
                    continue;
                }
                let last = self.enclave.last_shared(a, b, self.now).filter(|at| *at < self.now);
                let fresh = last.is_some_and(|at| self.now.since(at) < GRACE);
                let lives = fresh || self.has_session(a, b) || self.has_session(b, a);
                let expelled = self.enclave.machines[a].expelled || self.enclave.machines[b].expelled;
                verdicts.insert(
                    (a, b),
                    if told == Verdict::MustNot && lives && !expelled {
                        Verdict::Unclear
                    } else {
                        told
                    },
                );
            }
        }
        verdicts
    }

    fn standing(&self, machine: usize) -> Option<Standing<'_>> {
        let h = &self.hosts[machine];
        let time = match self.enclave.freshness {
            Freshness::Offline => h.offline_time(self.now)?,
            Freshness::Heads => self.now.unix(),
        };
        h.is_up().then_some(Standing {
            machine,
            time,
            exclude: &h.exclude,
        })
    }

    /// Protocol time of a host's node, as it says itself.
    #[must_use]
    pub fn protocol_time(&self, host: usize) -> Option<UnixTime> {
        let h = &self.hosts[host];
        h.running.as_ref().map(|r| r.node.status(self.local(host)).time)
    }

    /// What a host's running time shows.
    #[must_use]
    pub fn local(&self, host: usize) -> Instant {
        self.hosts[host].clock.boot(self.now)
    }

    /// The session that the node of `host` has with `machine`.
    #[must_use]
    pub fn session(&self, host: usize, machine: usize) -> Option<SessionStatus> {
        self.peer(host, machine)?.session
    }

    /// True when it has one.
    #[must_use]
    pub fn has_session(&self, host: usize, machine: usize) -> bool {
        self.session(host, machine).is_some()
    }

    /// What the node of `host` says about `machine`.
    #[must_use]
    pub fn peer(&self, host: usize, machine: usize) -> Option<PeerStatus> {
        let name = &self.enclave.machines[machine].name;
        let status = self.hosts[host].running.as_ref()?.node.status(self.local(host));
        status.peers.into_iter().find(|p| p.name == *name)
    }

    /// For scenarios: nothing was broken so far.
    ///
    /// # Panics
    /// With what was broken and what happened before, if something was.
    pub fn must_hold(&self) {
        if let Some(violation) = self.violation() {
            panic!("{violation}\n{}", self.ladder.diagram());
        }
    }

    fn hold(&mut self, settled: &Settled) {
        for ((a, b), verdict) in &settled.verdicts {
            let served = |from, to| settled.first.get(&(from, to)).copied();
            let held = match (verdict, served(*a, *b), served(*b, *a)) {
                (Verdict::Must, Some(x), Some(y)) => {
                    self.totals.talking += 1;
                    self.totals.slowest = self.totals.slowest.max(x).max(y);
                    Ok(())
                }
                (Verdict::Must, one, other) => {
                    let way = |d: Option<Duration>| if d.is_some() { "served" } else { "not served" };
                    let what = format!("m{a} and m{b} may talk: there {}, back {}", way(one), way(other));
                    Err(Breach::new(Promise::Liveness, what))
                }
                (Verdict::MustNot, None, None) => self.silent(*a, *b),
                (Verdict::MustNot, _, _) => Err(Breach::new(
                    Promise::Isolation,
                    format!("m{a} and m{b} may not talk, and do"),
                )),
                (Verdict::Unclear, _, _) => {
                    self.totals.unclear += 1;
                    Ok(())
                }
            };
            if verdict == &Verdict::MustNot && held.is_ok() {
                self.totals.silent += 1;
            }
            self.check(held);
        }
    }

    /// Nothing between two machines may answer anything; nothing at all goes to one that was revoked.
    fn silent(&self, a: usize, b: usize) -> Result<(), Breach> {
        let count = |from, to, kinds: &[u8]| {
            kinds
                .iter()
                .filter_map(|k| self.between.get(&(from, to, *k)))
                .sum::<u64>()
        };
        let answers = [
            datagram::RESPONSE,
            datagram::COOKIE,
            datagram::PROVISIONAL,
            datagram::ANSWER,
        ];
        for (from, to) in [(a, b), (b, a)] {
            let outsider = self.enclave.machines[from].expelled;
            if !outsider && count(from, to, &answers) > 0 {
                return Err(Breach::new(
                    Promise::Isolation,
                    format!("m{from} answered m{to}, with which it may not talk"),
                ));
            }
            let expelled = self.enclave.machines[to].expelled && !outsider;
            let anything = [datagram::INITIATION, datagram::SEALED, datagram::QUESTION];
            if expelled && count(from, to, &anything) > 0 {
                return Err(Breach::new(
                    Promise::Isolation,
                    format!("m{from} sent to m{to}, which it knows to be revoked"),
                ));
            }
        }
        if count(a, b, &[datagram::SEALED]) > 0 && count(b, a, &[datagram::SEALED]) > 0 {
            return Err(Breach::new(
                Promise::Isolation,
                format!("m{a} and m{b} may not talk, and exchange sealed datagrams"),
            ));
        }
        Ok(())
    }

    /// Datagrams between two machines since the world was calmed, by type.
    #[must_use]
    pub fn datagrams_between(&self, from: usize, to: usize) -> u64 {
        self.between
            .range((from, to, 0)..=(from, to, u8::MAX))
            .map(|(_, n)| n)
            .sum()
    }

    /// Forgets the counts of [`World::datagrams_between`].
    pub fn count_anew(&mut self) {
        self.between.clear();
    }
}
