//! The connections there are, and who has to make room for others.
//!
//! A connection is *half-open* until its TLS hello is there, and a *stranger* until it showed an accepted key or the
//! certificate of a member that is enrolled. Where there is no room the oldest stranger goes, but none before it had
//! [`GRACE`]: who means to speak has spoken by then. Nobody has more than a share of all: where a machine or a person comes
//! once more, one of its own connections goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coterie_crypto::sign::VerifyingKey;
use coterie_model::EnclaveId;
use coterie_store::PrincipalId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;
use tokio::time::Instant;

/// From the end of the handshake to the first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A connection with no request in flight for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A stranger is closed after so long whatever it does: longer than any request of somebody who is let in takes.
const STRANGER: Duration = Duration::from_secs(120);
/// What everybody gets before it has to make room.
const GRACE: Duration = Duration::from_millis(500);
/// Descriptors that are not for connections: the database's, the listeners', the log's.
const RESERVE: usize = 64;

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// All.
    pub(super) total: usize,
    /// Those that are strangers: what they make the server remember is bounded.
    strangers: usize,
    /// Those that are half-open.
    half_open: usize,
    /// Those of one source that are half-open: many machines come from one address.
    of_source: usize,
    /// Those of one machine: it needs one, and the next while the server does not know that the one before broke.
    of_machine: usize,
    /// Those of one person.
    of_person: usize,
}

/// Whose a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// The machine that has the key of a certificate of this enclave, a member still or not.
    Machine(EnclaveId, VerifyingKey),
    /// A person or program that showed its key.
    Person(PrincipalId),
}

impl Limits {
    /// What this process may have open, after raising it as far as it may.
    pub(super) fn of_process() -> Self {
        let now = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: now.maximum,
            maximum: now.maximum,
        };
        // Where it is not allowed, what there is has to do.
        let _best_effort = setrlimit(Resource::Nofile, raised);
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::of_descriptors(usize::try_from(descriptors).unwrap_or(usize::MAX))
    }

    fn of_descriptors(descriptors: usize) -> Self {
        let total = descriptors.saturating_sub(RESERVE).max(8);
        let half_open = (total / 2).min(1024);
        Self {
            total,
            strangers: total.min(8192),
            half_open,
            of_source: (half_open / 2).min(256),
            of_machine: 8,
            of_person: (total / 8).clamp(8, 256),
        }
    }

    fn of(&self, peer: Peer) -> usize {
        match peer {
            Peer::Machine(..) => self.of_machine,
            Peer::Person(_) => self.of_person,
        }
    }
}

/// Whether there is room.
pub(super) enum Admission {
    /// There is.
    Taken(Place),
    /// There is soon.
    Wait,
    /// All connections are of members and people who are being answered.
    Full,
}

/// All connections.
pub(super) struct Connections {
    limits: Limits,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    next: u64,
    /// By age.
    open: BTreeMap<u64, Arc<Entry>>,
    /// The half-open ones among them.
    strangers: BTreeSet<u64>,
    half_open: BTreeSet<u64>,
    /// The half-open ones, by source.
    sources: BTreeMap<IpAddr, BTreeSet<u64>>,
    /// Those of which it is known whose they are.
    peers: BTreeMap<Peer, BTreeSet<u64>>,
}

/// One connection.
struct Entry {
    id: u64,
    source: IpAddr,
    taken: Instant,
    evicted: Notify,
    usage: Mutex<Usage>,
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            all: Mutex::default(),
        }
    }

    /// Takes a connection from `address`, at whose cost it may be.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, taken: Instant, now: Instant) -> Admission {
        let source = source(address);
        let mut all = self.all();
        let of_source = all.sources.get(&source);
        if of_source.is_some_and(|of_source| of_source.len() >= self.limits.of_source) {
            // While all of them are new, they are within the bound of all sources.
            let _made = all.evict_first(|all| all.sources.get(&source)?.first().copied(), now);
        }
        if all.half_open.len() >= self.limits.half_open && !all.evict_first(|all| all.half_open.first().copied(), now) {
            return Admission::Wait;
        }
        let is_full = all.open.len() >= self.limits.total;
        if is_full && all.strangers.is_empty() {
            // Nobody waits for an answer on one of these, and who has something to ask calls again.
            let Some(idle) = all.open.values().find(|entry| entry.usage().in_flight == 0) else {
                return Admission::Full;
            };
            let idle = idle.id;
            all.evict(idle);
        } else if (is_full || all.strangers.len() >= self.limits.strangers)
            && !all.evict_first(|all| all.strangers.first().copied(), now)
        {
            return Admission::Wait;
        }
        let entry = Arc::new(Entry {
            id: all.next,
            source,
            taken,
            evicted: Notify::new(),
            usage: Mutex::new(Usage::new(taken)),
        });
        all.next += 1;
        all.open.insert(entry.id, Arc::clone(&entry));
        all.strangers.insert(entry.id);
        all.half_open.insert(entry.id);
        all.sources.entry(source).or_default().insert(entry.id);
        Admission::Taken(Place {
            connections: Arc::clone(self),
            entry,
        })
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    /// Evicts who is chosen, if it had its time; whether there is one less now.
    fn evict_first(&mut self, choose: impl FnOnce(&Self) -> Option<u64>, now: Instant) -> bool {
        let chosen = choose(self).filter(|id| self.open.get(id).is_some_and(|entry| entry.taken + GRACE <= now));
        chosen.inspect(|id| self.evict(*id)).is_some()
    }

    fn evict(&mut self, id: u64) {
        if let Some(entry) = self.open.get(&id).cloned() {
            self.forget(&entry);
            entry.evicted.notify_one();
        }
    }

    fn forget(&mut self, entry: &Entry) {
        self.open.remove(&entry.id);
        self.strangers.remove(&entry.id);
        if let Some(peer) = entry.usage().peer {
            remove(&mut self.peers, &peer, entry.id);
        }
        self.hello(entry);
    }

    fn hello(&mut self, entry: &Entry) {
        self.half_open.remove(&entry.id);
        remove(&mut self.sources, &entry.source, entry.id);
    }

    /// Of the others that a peer has, one on which nothing is asked, or else the oldest.
    fn spare(&self, peer: Peer, without: u64) -> Option<u64> {
        let others = || self.peers.get(&peer).into_iter().flatten().filter(|id| **id != without);
        let is_idle = |id: &&u64| self.open.get(id).is_some_and(|entry| entry.usage().in_flight == 0);
        others().find(is_idle).or_else(|| others().next()).copied()
    }
}

fn remove<K: Ord>(sets: &mut BTreeMap<K, BTreeSet<u64>>, key: &K, id: u64) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(&id);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

impl Entry {
    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among all, until it is dropped.
pub(super) struct Place {
    connections: Arc<Connections>,
    entry: Arc<Entry>,
}

impl Place {
    /// The TLS hello is there.
    pub(super) fn hello(&self) {
        self.connections.all().hello(&self.entry);
    }

    /// The handshake is done.
    pub(super) fn begin(&self) {
        self.entry.usage().begin(Instant::now());
    }

    /// A request came.
    pub(super) fn request(&self) -> InFlight {
        self.entry.usage().request();
        InFlight(Arc::clone(&self.entry))
    }

    /// It showed an accepted key, or the certificate of a member that is enrolled.
    pub(super) fn vouch(&self) {
        let before = std::mem::replace(&mut self.entry.usage().is_vouched, true);
        if !before {
            self.connections.all().strangers.remove(&self.entry.id);
        }
    }

    /// It is known whose it is: the first who is known counts.
    pub(super) fn belongs_to(&self, peer: Peer) {
        if self.entry.usage().peer.is_some() {
            return;
        }
        self.entry.usage().peer = Some(peer);
        let mut all = self.connections.all();
        let theirs = all.peers.entry(peer).or_default();
        theirs.insert(self.entry.id);
        if theirs.len() > self.connections.limits.of(peer)
            && let Some(spare) = all.spare(peer, self.entry.id)
        {
            all.evict(spare);
        }
    }

    /// Waits until it has to make room.
    pub(super) async fn evicted(&self) {
        self.entry.evicted.notified().await;
    }

    /// Waits until it is to be closed because nothing is asked.
    pub(super) async fn overdue(&self) {
        loop {
            let now = Instant::now();
            let closes_at = self.entry.usage().closes_at();
            if closes_at.is_some_and(|at| at <= now) {
                return;
            }
            tokio::time::sleep_until(closes_at.unwrap_or(now + IDLE)).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.all().forget(&self.entry);
    }
}

/// A request, until its response has been sent or given up.
pub(super) struct InFlight(Arc<Entry>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.usage().end(Instant::now());
    }
}

/// What a connection is used for.
#[derive(Debug)]
struct Usage {
    in_flight: u32,
    has_asked: bool,
    is_vouched: bool,
    peer: Option<Peer>,
    began: Instant,
    /// When the last request ended.
    idle_since: Instant,
}

impl Usage {
    fn new(now: Instant) -> Self {
        Self {
            in_flight: 0,
            has_asked: false,
            is_vouched: false,
            peer: None,
            began: now,
            idle_since: now,
        }
    }

    fn begin(&mut self, now: Instant) {
        (self.began, self.idle_since) = (now, now);
    }

    fn request(&mut self) {
        self.in_flight += 1;
        self.has_asked = true;
    }

    fn end(&mut self, now: Instant) {
        self.in_flight -= 1;
        self.idle_since = now;
    }

    /// When it is to be closed, as things are.
    fn closes_at(&self) -> Option<Instant> {
        let wait = if self.has_asked { IDLE } else { FIRST_REQUEST };
        let idle = (self.in_flight == 0).then(|| self.idle_since + wait);
        let stranger = (!self.is_vouched).then(|| self.began + STRANGER);
        idle.into_iter().chain(stranger).min()
    }
}

/// Whose addresses these are: one of IPv4, or the /64 that a site of IPv6 has for itself.
fn source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: [u8; 4] = [192, 0, 2, 1];

    fn few() -> Arc<Connections> {
        Arc::new(Connections::new(Limits {
            total: 6,
            strangers: 5,
            half_open: 4,
            of_source: 2,
            of_machine: 2,
            of_person: 3,
        }))
    }

    fn place(connections: &Arc<Connections>, address: impl Into<IpAddr>, now: Instant) -> Place {
        match connections.admit(address.into(), now, now) {
            Admission::Taken(place) => place,
            Admission::Wait => panic!("to wait"),
            Admission::Full => panic!("full"),
        }
    }

    fn is_here(place: &Place) -> bool {
        place.connections.all().open.contains_key(&place.entry.id)
    }

    #[test]
    fn a_source_pushes_out_its_own_silent_ones() {
        let (connections, start) = (few(), Instant::now());
        let other = place(&connections, [192, 0, 2, 9], start);
        let first = place(&connections, HERE, start);
        let second = place(&connections, HERE, start + GRACE);
        let third = place(&connections, HERE, start + GRACE);
        assert!(is_here(&other) && !is_here(&first) && is_here(&second) && is_here(&third));
        // Who came a moment ago may speak yet.
        let fourth = place(&connections, HERE, start + GRACE);
        assert!(is_here(&second) && is_here(&third) && is_here(&fourth));
        // Who spoke counts no longer.
        other.hello();
        let fifth = place(&connections, [192, 0, 2, 9], start + GRACE);
        assert!(is_here(&other) && is_here(&fifth));
    }

    #[test]
    fn of_too_many_silent_ones_the_oldest_goes_when_it_had_its_time() {
        let (connections, start) = (few(), Instant::now());
        let all: Vec<Place> = (1..=4).map(|i| place(&connections, [192, 0, 2, i], start)).collect();
        let admission = connections.admit(IpAddr::from([192, 0, 2, 5]), start, start);
        assert!(matches!(admission, Admission::Wait));
        let fifth = place(&connections, [192, 0, 2, 5], start + GRACE);
        assert!(!is_here(&all[0]) && all[1..].iter().all(is_here) && is_here(&fifth));
        drop(all);
        drop(fifth);
        let left = connections.all();
        assert!(left.open.is_empty() && left.strangers.is_empty() && left.half_open.is_empty());
        assert!(left.sources.is_empty());
    }

    #[test]
    fn whoever_has_its_share_gives_one_of_its_own() {
        let (connections, start) = (few(), Instant::now());
        let machine = |n| Peer::Machine(EnclaveId([1; 16]), VerifyingKey([n; 32]));
        let belonging = |peer| {
            let place = place(&connections, HERE, start);
            place.hello();
            place.belongs_to(peer);
            place
        };
        let other = belonging(machine(2));
        let (first, second) = (belonging(machine(1)), belonging(machine(1)));
        let busy = first.request();
        let third = belonging(machine(1));
        assert!(
            is_here(&first) && !is_here(&second) && is_here(&third),
            "who asks nothing goes first"
        );
        let busy_too = third.request();
        let fourth = belonging(machine(1));
        assert!(!is_here(&first) && is_here(&third) && is_here(&fourth) && is_here(&other));
        drop((busy, first, second));
        // Whose it is is said once.
        fourth.belongs_to(machine(2));
        assert!(is_here(&other) && is_here(&fourth));
        drop((busy_too, third, fourth, other));
        assert!(connections.all().peers.is_empty());
    }

    #[test]
    fn members_and_people_stay_and_strangers_make_room() {
        let (connections, start) = (few(), Instant::now());
        let later = start + GRACE;
        let spoken = |now| {
            let place = place(&connections, HERE, now);
            place.hello();
            place
        };
        let (known, stranger) = (spoken(start), spoken(start));
        known.vouch();
        let others: Vec<Place> = (0..4).map(|_| spoken(later)).collect();
        let seventh = spoken(later);
        assert!(is_here(&known) && !is_here(&stranger) && others.iter().all(is_here) && is_here(&seventh));
        // All are known: who has nothing in flight goes, and where everybody has, nobody comes.
        let mut all = others;
        all.extend([known, seventh]);
        all.iter().for_each(Place::vouch);
        let busy: Vec<InFlight> = all[1..].iter().map(Place::request).collect();
        let eighth = spoken(later);
        assert!(!is_here(&all[0]) && all[1..].iter().all(is_here));
        eighth.vouch();
        let _busy = eighth.request();
        assert!(matches!(connections.admit(HERE.into(), later, later), Admission::Full));
        drop(busy);
        let _ninth = spoken(later);
    }

    #[test]
    fn a_connection_is_open_as_long_as_something_is_in_flight() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut usage = Usage::new(start);
        usage.begin(at(1));
        assert_eq!(usage.closes_at(), Some(at(1) + FIRST_REQUEST));
        usage.request();
        assert_eq!(usage.closes_at(), Some(at(1) + STRANGER), "a stranger has an end");
        usage.is_vouched = true;
        assert_eq!(usage.closes_at(), None, "a member's stream has none");
        usage.request();
        usage.end(at(500));
        assert_eq!(usage.closes_at(), None, "the stream is there still");
        usage.end(at(1000));
        assert_eq!(usage.closes_at(), Some(at(1000) + IDLE));
        usage.is_vouched = false;
        assert_eq!(usage.closes_at(), Some(at(1) + STRANGER));
    }

    #[test]
    fn a_source_is_an_address_or_a_site() {
        let source = |text: &str| source(text.parse().unwrap()).to_string();
        assert_eq!(source("192.0.2.7"), "192.0.2.7");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }

    #[test]
    fn connections_leave_descriptors_for_the_database() {
        let few = Limits::of_descriptors(560);
        assert_eq!(
            (few.total, few.strangers, few.half_open, few.of_source),
            (496, 496, 248, 124)
        );
        let many = Limits::of_descriptors(524_288);
        assert_eq!((many.strangers, many.half_open, many.of_source), (8192, 1024, 256));
    }
}
