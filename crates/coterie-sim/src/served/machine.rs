//! A machine: its disk, its clocks, and the daemon on it, which is on its way in with a token or runs as a member. The disk has
//! what coteried keeps.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use coterie_control::{
    bundle::{Bundle, Keys, Opened},
    enrol::{Sealed, Token},
};
use coterie_crypto::{Entropy, SeededEntropy, dh::PublicKey};
use coterie_model::{
    CommunityTag, DirectoryEntry, Head, Instant, Manifest, Name, Revision, Revocations, Serial, Signed, UnixTime,
    Unverified, signed::head_hash,
};
use coterie_proto::{
    Config, Node, Outcome, Update, ViewPiece,
    bootstrap::{Caller, Door, Record, Visitor},
    membership::Freshness,
};

use super::follower::{self, Fixed, Follower};
use crate::{
    clock::{HostClock, Moment},
    host::{Kept, Output},
};

/// How long what a machine was told takes until it is done.
const SETTLED: Duration = Duration::from_secs(3);
/// Initiation counters of a visit.
pub const COUNTERS: u64 = 4096;

/// What a door does that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hostility {
    /// It carries nothing.
    Drop,
    /// It carries everything, and again what it carried before; visitors get old answers.
    Replay,
    /// It changes what it carries, and applies itself with what it knows.
    Forge,
}

/// What is kept for one static key.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    /// What the core's records left.
    pub kept: Kept,
    /// Of the newest bundle that was taken.
    pub serial: Serial,
    callers: BTreeMap<Caller, u64>,
}

/// Bundle and keys.
#[derive(Clone)]
pub struct Identity {
    /// The bundle file.
    pub bundle: String,
    /// The keys file.
    pub keys: String,
    /// The boot that they end with, where a token made them.
    pub boot: Option<u64>,
    /// Which of the machine's enrolments.
    pub enrolment: usize,
}

/// The newest head, and when it came by the running time of which boot.
#[derive(Clone)]
pub struct Pulse {
    /// The head.
    pub head: Signed<Head>,
    /// When it came.
    pub at: Instant,
    boot: u64,
}

/// What is on a machine's disk.
#[derive(Clone, Default)]
pub struct Disk {
    /// The join token that it was made with.
    pub token: Option<String>,
    /// What lets it back in.
    pub ticket: Option<[u8; 32]>,
    /// Who it is.
    pub identity: Option<Identity>,
    /// By static key.
    pub journals: BTreeMap<PublicKey, Journal>,
    /// The root that it believes.
    pub root: Option<[u8; 32]>,
    /// The newest revocations.
    pub revocations: Option<Signed<Revocations>>,
    /// The newest head.
    pub pulse: Option<Pulse>,
    /// Who else is in each community.
    pub views: BTreeMap<CommunityTag, BTreeMap<Name, DirectoryEntry>>,
    /// The epochs of each community, as they were told last.
    pub epochs: BTreeMap<CommunityTag, Vec<Signed<Manifest>>>,
    /// Everything up to here was told, to this static key.
    pub mark: (PublicKey, Revision),
    /// The server told to ask for a bundle, which did not come.
    pub renew: bool,
}

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// It is switched off.
    Off,
    /// It runs.
    On,
    /// It is gone for good.
    Gone,
}

/// A machine on its way in.
pub struct Visiting {
    /// The visit; `None` where it asks the server itself.
    pub visitor: Option<Visitor>,
    /// Its keys.
    pub keys: Keys,
    /// Its application.
    pub sealed: Sealed,
    /// Its token.
    pub token: Token,
    /// Which of the machine's enrolments it would be.
    pub enrolment: usize,
    /// Doors that said that it is refused, or what is not the server's word.
    pub refused: Vec<PublicKey>,
    /// When it asks the server again.
    pub again: Moment,
}

/// A visitor's request that a door carries.
pub struct Carried {
    /// The visit.
    pub visit: u32,
    /// Where the visitor is.
    pub source: SocketAddr,
    /// What it brought.
    pub bytes: Vec<u8>,
    /// The connection that it was sent by.
    pub sent: Option<u64>,
    /// When it is given up.
    pub until: Moment,
}

/// A machine that is a member.
pub struct Running {
    /// The core.
    pub node: Node,
    /// Its door, where it is one.
    pub door: Option<Door>,
    /// Its keys.
    pub keys: Keys,
    /// Which of the machine's enrolments it is.
    pub enrolment: usize,
    /// Its end of the stream.
    pub follower: Follower,
    /// What visitors brought.
    pub carried: Vec<Carried>,
    /// Packets and datagrams put into the core.
    pub given: u64,
    /// Sealed packets that came out.
    pub sealed: u64,
    /// It was told that its machine was copied.
    pub forked: bool,
}

/// The daemon.
pub enum Daemon {
    /// It applies.
    Visiting(Box<Visiting>),
    /// It is a member.
    Running(Box<Running>),
}

/// A machine.
pub struct Machine {
    /// The name that it asks for.
    pub name: Name,
    /// Its template.
    pub template: String,
    /// For people.
    pub label: String,
    /// Its clocks.
    pub clock: HostClock,
    /// Where it is.
    pub address: SocketAddr,
    /// Its disk.
    pub disk: Disk,
    /// Counts its boots.
    pub boots: u64,
    /// Whether it runs.
    pub power: Power,
    /// The daemon, while it runs.
    pub daemon: Option<Daemon>,
    /// Counts starts of the daemon.
    pub incarnation: u64,
    /// Static keys of its enrolments.
    pub enrolments: Vec<PublicKey>,
    /// Nothing passes between it and the server.
    pub cut: bool,
    /// Something was lost of this connection: nothing passes any more.
    pub broken: u64,
    /// It stands at the door for another master.
    pub hostile: Option<Hostility>,
    /// What it carried as a door, and from where.
    pub captured: Vec<(SocketAddr, Vec<u8>)>,
    /// Answers that it carried.
    pub answers: Vec<Vec<u8>>,
    /// The timer that counts.
    pub timer: u64,
    /// When it fires.
    pub timer_at: Option<Moment>,
    /// The highest revision of revocations that its core said it knows.
    pub revision: Revision,
    /// When it was told what, by revision of the server.
    pub marks: Vec<(Revision, Moment)>,
    /// When its core was first told which revision of the revocations.
    pub refusals: Vec<(Revision, Moment)>,
    /// Nothing that is sent before then arrives later.
    pub order: [Moment; 3],
    /// The newest head that it was told, and its running time then: not what it keeps, but what was.
    pub told: Option<(UnixTime, Instant)>,
}

impl Journal {
    /// Stores a record of the door.
    pub fn remember(&mut self, record: Record) {
        match record {
            Record::Accepted(caller, counter) => drop(self.callers.insert(caller, counter)),
            Record::Forgotten(caller) => drop(self.callers.remove(&caller)),
        }
    }

    /// Visitors that were let in before.
    #[must_use]
    pub fn callers(&self) -> Vec<(Caller, u64)> {
        self.callers
            .iter()
            .map(|(caller, counter)| (*caller, *counter))
            .collect()
    }
}

impl Disk {
    /// What is known of revocations and the pulse.
    #[must_use]
    pub fn known(&self) -> (Revision, UnixTime) {
        let revision = self.revocations.as_ref().map_or(0, |list| list.revision);
        let time = self.pulse.as_ref().map_or(UnixTime(0), |pulse| pulse.head.time);
        (revision, time)
    }

    /// Keeps a newer list of revocations.
    pub fn keep_revocations(&mut self, list: &Signed<Revocations>) {
        if list.revision > self.known().0 {
            self.revocations = Some(list.clone());
        }
    }

    /// Keeps a newer head.
    pub fn keep_head(&mut self, head: &Signed<Head>, (at, boot): (Instant, u64)) {
        if head.time >= self.known().1 {
            let head = head.clone();
            self.pulse = Some(Pulse { head, at, boot });
        }
    }

    /// Protocol time by what is kept; `None` when that is of another boot.
    #[must_use]
    pub fn time(&self, now: Instant, boot: u64) -> Option<UnixTime> {
        let pulse = self.pulse.as_ref().filter(|pulse| pulse.boot == boot)?;
        Some(pulse.head.time.plus(now.since(pulse.at)))
    }

    /// Keeps what a piece of a view says.
    pub fn keep_view(&mut self, piece: &ViewPiece) {
        let view = self.views.entry(piece.tag).or_default();
        if piece.begins {
            view.clear();
        }
        for entry in &piece.entries {
            view.insert(entry.name.clone(), entry.clone());
        }
        piece.gone.iter().for_each(|name| drop(view.remove(name)));
    }

    /// Keeps what a bundle says of others, and forgets communities that it does not name.
    pub fn keep_directory(&mut self, opened: &Opened) {
        let tags: Vec<CommunityTag> = opened.statements.iter().map(|s| s.tag).collect();
        self.views.retain(|tag, _| tags.contains(tag));
        self.epochs.retain(|tag, _| tags.contains(tag));
        if !opened.has_views {
            return;
        }
        for tag in tags {
            let theirs = opened.directory.iter().filter(|entry| entry.communities.contains(&tag));
            let entries = theirs.map(|entry| {
                let statements = entry.statements.iter().filter(|s| s.tag == tag).cloned().collect();
                let entry = DirectoryEntry {
                    communities: vec![tag],
                    statements,
                    ..entry.clone()
                };
                (entry.name.clone(), entry)
            });
            self.views.insert(tag, entries.collect());
        }
    }

    /// What a core is made from: a bundle, and what was learnt since it was made. Without a protocol time the core waits for a
    /// head: how old the bundle's own is, nobody knows.
    #[must_use]
    pub fn config(&self, opened: &Opened, keys: &Keys, time: Option<UnixTime>) -> Config {
        let journal = self.journals.get(keys.static_key().public());
        let kept = journal.map(|journal| journal.kept.clone()).unwrap_or_default();
        let fixed = Fixed::of(&opened.template);
        let mut update = follower::update(opened);
        let views = self.views.iter();
        update.views = views
            .map(|(tag, view)| follower::kept(*tag, view.values().cloned().collect()))
            .collect();
        self.add_newest(opened, &mut update);
        if time.is_none() {
            update.head = None;
        }
        Config {
            keys: keys.static_key(),
            name: opened.name.clone(),
            authority: opened.authority.clone(),
            freshness: Freshness::Heads,
            time: time.unwrap_or_default().max(opened.issued),
            suites: fixed.suites.0,
            preferred: fixed.suites.1,
            lanes: 1,
            exclude: opened.template.exclude.clone(),
            roaming: fixed.roaming,
            may_ask_cookie: false,
            port: opened.port,
            update,
            counter: kept.counter,
            accepted: kept.accepted.into_iter().collect(),
            answered: kept.answered.into_iter().collect(),
            resume: kept.live.into_iter().collect(),
        }
    }

    /// The newest pulse that pins the bundle's own revocations, where it is newer than the bundle's.
    fn add_newest(&self, opened: &Opened, update: &mut Update) {
        let pinned = opened.revocations.as_ref().map(|list| (list.revision, head_hash(list)));
        let newest = self.pulse.as_ref().map(|pulse| &pulse.head);
        let newest =
            newest.filter(|head| Some((head.revision, head.hash)) == pinned && head.era == opened.authority.era);
        if let Some(head) = newest
            && opened.head.as_ref().is_none_or(|known| head.time >= known.time)
        {
            update.head = Unverified::parse(head.bytes()).ok();
        }
    }

    /// What a core is told behind what it was made from: revocations and epochs that were learnt since the bundle was made.
    pub fn tell_later(&self, opened: &Opened, node: &mut Node, at: Instant) {
        let known = opened.revocations.as_ref().map_or(0, |list| list.revision);
        let key = &opened.authority.statement_key;
        let later = self.revocations.as_ref().filter(|list| list.revision > known);
        let parsed = later.and_then(|list| Unverified::<Revocations>::parse(list.bytes()).ok());
        if let Some(list) = parsed.filter(|list| list.clone().verify(key).is_ok()) {
            let update = Update {
                revocations: Some(list),
                ..Update::default()
            };
            node.handle_update(update, at);
        }
        for (tag, epochs) in &self.epochs {
            node.handle_epochs(*tag, epochs.clone(), at);
        }
    }
}

impl Running {
    /// A packet of this machine's programs.
    pub fn inside(&mut self, packet: &[u8], at: Instant) -> Output {
        let mut out = Output::default();
        self.given += 1;
        self.node.begin_batch();
        out.outcome = Some(self.node.handle_inside(packet, at, &mut out));
        self.drain(out)
    }

    /// A datagram, for the door or the core.
    pub fn outside(&mut self, mut bytes: Vec<u8>, from: SocketAddr, at: Instant) -> Output {
        let mut out = Output::default();
        let time = self.node.time(at);
        let node = &self.node;
        let at_door = self.door.as_mut().and_then(|door| {
            let taken = |index| node.holds_index(index);
            door.handle_outside(&mut bytes, from, taken, time, at)
        });
        if at_door.is_some() {
            out.outcome = at_door;
            if let Some(door) = &self.door {
                self.node.avoid_indices(door.indices());
            }
            return self.drain(out);
        }
        self.given += 1;
        out.outcome = Some(self.node.handle_outside(&mut bytes, from, at, &mut out));
        self.drain(out)
    }

    /// Time went by.
    pub fn timeout(&mut self, at: Instant) -> Output {
        let mut out = Output::default();
        self.node.handle_timeout(at, &mut out);
        if let Some(door) = self
            .door
            .as_mut()
            .filter(|door| door.poll_timeout().is_some_and(|due| due <= at))
        {
            door.handle_timeout(at);
        }
        self.drain(out)
    }

    /// Something was learnt.
    pub fn learn(&mut self, update: Update, at: Instant) -> Output {
        self.node.handle_update(update, at);
        self.drain(Output::default())
    }

    /// When the daemon wants to be woken.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let node = self.node.poll_timeout().map(|(at, _)| at);
        let door = self.door.as_ref().and_then(Door::poll_timeout);
        node.into_iter().chain(door).min()
    }

    /// Takes out what is there.
    pub fn drain(&mut self, mut out: Output) -> Output {
        out.drain(&mut self.node);
        if let Some(door) = &mut self.door {
            out.control
                .extend(std::iter::from_fn(|| door.poll_transmit()).map(|t| (t.to, t.bytes)));
        }
        self.sealed += u64::try_from(out.packets.len()).unwrap_or(u64::MAX);
        out
    }
}

impl Visiting {
    /// A datagram; the answer, once it is whole.
    pub fn outside(&mut self, mut bytes: Vec<u8>, at: Instant) -> (Output, Option<Vec<u8>>) {
        let mut out = Output::default();
        let Some(visitor) = &mut self.visitor else {
            out.outcome = Some(Outcome::Dropped(coterie_proto::DropReason::Stranger));
            return (out, None);
        };
        let (outcome, answer) = visitor.handle_outside(&mut bytes, at);
        out.outcome = Some(outcome);
        (self.drain(out), answer)
    }

    /// Time went by.
    pub fn timeout(&mut self, at: Instant) -> Output {
        if let Some(visitor) = &mut self.visitor {
            visitor.handle_timeout(at);
        }
        self.drain(Output::default())
    }

    fn drain(&mut self, mut out: Output) -> Output {
        if let Some(visitor) = &mut self.visitor {
            out.control
                .extend(std::iter::from_fn(|| visitor.poll_transmit()).map(|t| (t.to, t.bytes)));
        }
        out
    }
}

impl Daemon {
    /// When it wants to be woken.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        match self {
            Self::Visiting(visiting) => visiting.visitor.as_ref().and_then(Visitor::poll_timeout),
            Self::Running(running) => running.due(),
        }
    }
}

impl Machine {
    /// The daemon, if it runs as a member.
    #[must_use]
    pub fn running(&self) -> Option<&Running> {
        match &self.daemon {
            Some(Daemon::Running(running)) => Some(running),
            Some(Daemon::Visiting(_)) | None => None,
        }
    }

    /// The same, to be changed.
    pub fn running_mut(&mut self) -> Option<&mut Running> {
        match &mut self.daemon {
            Some(Daemon::Running(running)) => Some(running),
            Some(Daemon::Visiting(_)) | None => None,
        }
    }

    /// The static key that it runs with.
    #[must_use]
    pub fn key(&self) -> Option<PublicKey> {
        self.running().map(|running| *running.node.static_key())
    }

    /// The memory is lost; the disk stays.
    pub fn stop(&mut self) {
        self.daemon = None;
        self.timer += 1;
        self.timer_at = None;
        self.incarnation += 1;
    }

    /// Protocol time as this machine should have it, computed here and not asked of the core: by the head that it was told last.
    #[must_use]
    pub fn expected_time(&self, now: Moment) -> Option<UnixTime> {
        let (time, at) = self.told?;
        Some(time.plus(self.clock.boot(now).since(at)))
    }

    /// A head was told, and is kept.
    pub fn keep_head(&mut self, head: &Signed<Head>, at: Instant) {
        self.disk.keep_head(head, (at, self.boots));
        if self.told.is_none_or(|(time, _)| head.time >= time) {
            self.told = Some((head.time, at));
        }
    }

    /// The same, unless it was told something else just now: what that ends, housekeeping ends within a second.
    #[must_use]
    pub fn settled_time(&self, now: Moment) -> Option<UnixTime> {
        let (_, at) = self.told?;
        let since = self.clock.boot(now).since(at);
        self.expected_time(now).filter(|_| since >= SETTLED)
    }

    /// Starts the daemon as the member that its identity says; what comes out first, or `None` when it cannot.
    pub fn start_member(&mut self, now: Moment, seed: u64) -> Option<Output> {
        let identity = self.disk.identity.clone()?;
        let keys = Keys::parse(identity.keys.as_bytes()).ok()?;
        let bundle = Bundle::parse(identity.bundle.as_bytes()).ok()?;
        let at = self.clock.boot(now);
        let time = self.disk.time(at, self.boots);
        let key = *keys.static_key().public();
        let floor = self.disk.journals.get(&key).map_or(0, |journal| journal.serial);
        // One whose lease is over starts all the same, closed, and asks for another.
        let last = UnixTime(bundle.claimed_not_after().0.saturating_sub(1));
        let opened = bundle
            .open(&keys, self.disk.root, time.unwrap_or(last).min(last), floor)
            .ok()?;
        let config = self.disk.config(&opened, &keys, time);
        let mut node = Node::new(config, entropy(seed), at);
        self.disk.tell_later(&opened, &mut node, at);
        let mark = if self.disk.mark.0 == key { self.disk.mark.1 } else { 0 };
        let mut running = Running {
            node,
            door: None,
            keys,
            enrolment: identity.enrolment,
            follower: Follower::new(&opened, mark, now),
            carried: Vec::new(),
            given: 0,
            sealed: 0,
            forked: false,
        };
        if self.disk.renew {
            running.follower.wants = Some(now);
        }
        let out = running.drain(Output::default());
        self.daemon = Some(Daemon::Running(Box::new(running)));
        Some(out)
    }
}

/// A generator of its own.
#[must_use]
pub fn entropy(seed: u64) -> Box<dyn Entropy + Send> {
    Box::new(SeededEntropy::from_number(seed))
}

/// How long a door waits with the server.
pub const CARRY: Duration = Duration::from_secs(100);
