//! A host: one node, its clocks, its address, and what it keeps on disk. It stores every record that the node gives before
//! anything else leaves, as `Node` demands.
//!
//! A node cannot be copied, so a fork is made the long way: the host logs everything that ever went into its node, and a second
//! node is fed the same. That this works at all is checked each time: both must have given the same outputs.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::time::Duration;

use coterie_crypto::{aead::Suite, dh::PublicKey};
use coterie_model::{Instant, UnixTime};
use coterie_proto::{Config, Event, Node, Outcome, Persist, Ports, handshake::payload::Suites};

use crate::{
    clock::{HostClock, Moment},
    enclave::{Enclave, Knowledge},
    entropy::{HostEntropy, InstanceHandle},
};

/// Answered questions that are kept.
const ANSWERED: usize = 1024;

/// What a host is like for its whole life.
#[derive(Debug, Clone, Copy)]
pub struct Traits {
    /// Lanes that it sends on.
    pub lanes: u8,
    /// Suites that it has.
    pub suites: Suites,
    /// The one that it would like.
    pub preferred: Suite,
    /// It follows peers that move.
    pub roaming: bool,
    /// It may ask for cookies.
    pub gateway: bool,
    /// Its directory has no statements of others.
    pub lazy: bool,
}

/// Where a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// The daemon does not run.
    Down,
    /// It runs.
    Up,
    /// The machine is suspended.
    Paused,
    /// The machine is gone for good.
    Gone,
}

/// What is known of forks of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// It runs once.
    Never,
    /// It runs twice, and nobody told it.
    Unaware,
    /// It runs twice, and this instance was told.
    Told,
}

/// What the records of a node leave on the disk, but for revocations.
#[derive(Debug, Clone)]
pub struct Kept {
    /// First initiation counter that was never reserved.
    pub counter: u64,
    /// Highest counter accepted from each static key.
    pub accepted: BTreeMap<PublicKey, u64>,
    /// Questions answered.
    pub answered: VecDeque<[u8; 12]>,
    /// Peers with live sessions.
    pub live: BTreeMap<PublicKey, SocketAddr>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            counter: 1,
            accepted: BTreeMap::new(),
            answered: VecDeque::new(),
            live: BTreeMap::new(),
        }
    }
}

impl Kept {
    /// Stores a record.
    pub fn keep(&mut self, record: &Persist) {
        match record {
            Persist::Counter(end) => self.counter = *end,
            Persist::Accepted(key, counter) => drop(self.accepted.insert(*key, *counter)),
            Persist::Answered(nonce) => {
                self.answered.push_back(*nonce);
                if self.answered.len() > ANSWERED {
                    self.answered.pop_front();
                }
            }
            Persist::Live(key, Some(endpoint)) => drop(self.live.insert(*key, *endpoint)),
            Persist::Live(key, None) => drop(self.live.remove(key)),
            Persist::Revocations(_) => {}
        }
    }
}

/// What is on the host's disk.
#[derive(Clone)]
pub struct Stored {
    /// What the node's records left.
    pub kept: Kept,
    /// What the issuer told last.
    pub knowledge: Knowledge,
}

impl Stored {
    /// The disk of a machine that was enrolled just now.
    #[must_use]
    pub fn new(knowledge: Knowledge) -> Self {
        Self {
            kept: Kept::default(),
            knowledge,
        }
    }

    /// Stores a record.
    pub fn keep(&mut self, record: &Persist) {
        self.kept.keep(record);
        if let Persist::Revocations(list) = record {
            let known = self.knowledge.revocations.as_ref().map_or(0, |(revision, _)| *revision);
            if list.revision > known {
                self.knowledge.revocations = Some((list.revision, (**list).clone()));
            }
        }
    }

    /// Stores what the issuer told. A pulse is not kept: after a restart an old one would set time back.
    pub fn learn(&mut self, told: &Knowledge) {
        let newest = |a: Option<(u64, _)>, b: Option<(u64, _)>| match (a, b) {
            (Some(a), Some(b)) => Some(if a.0 >= b.0 { a } else { b }),
            (a, b) => a.or(b),
        };
        let revocations = newest(self.knowledge.revocations.take(), told.revocations.clone());
        if told.version > self.knowledge.version {
            self.knowledge = told.clone();
        }
        self.knowledge.revocations = revocations;
        self.knowledge.head = None;
    }
}

/// Something that goes into a node.
#[derive(Clone)]
pub enum Input {
    /// A packet of this machine's programs, in a batch of its own.
    Inside(Vec<u8>),
    /// A datagram from the network.
    Outside(Vec<u8>, SocketAddr),
    /// Time went by.
    Timeout,
    /// The issuer told something.
    Tell(Box<Knowledge>),
    /// The machine was forked, and noticed.
    Fork,
    /// The daemon stops.
    ShutDown,
}

/// What came out of a node.
#[derive(Default)]
pub struct Output {
    /// What became of a packet or datagram.
    pub outcome: Option<Outcome>,
    /// Records to be stored first.
    pub persists: Vec<Persist>,
    /// Sealed packets.
    pub packets: Vec<(SocketAddr, Vec<u8>)>,
    /// Handshake, control and query datagrams.
    pub control: Vec<(SocketAddr, Vec<u8>)>,
    /// Packets for this machine's programs.
    pub inside: Vec<Vec<u8>>,
    /// What the node had to say.
    pub events: Vec<Event>,
}

impl Output {
    /// Takes out what a node has ready.
    pub fn drain(&mut self, node: &mut Node) {
        self.persists.extend(std::iter::from_fn(|| node.poll_persist()));
        let sent = std::iter::from_fn(|| node.poll_transmit());
        self.control.extend(sent.map(|t| (t.to, t.bytes)));
        self.events.extend(std::iter::from_fn(|| node.poll_event()));
    }
}

impl Ports for Output {
    fn outside(&mut self, to: SocketAddr, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        let mut bytes = vec![0; len];
        if fill(&mut bytes) {
            self.packets.push((to, bytes));
        }
    }

    fn inside(&mut self, packet: &[u8]) {
        self.inside.push(packet.to_vec());
    }
}

/// All that a node is made from, so that it can be made twice.
#[derive(Clone)]
struct Recipe {
    machine: usize,
    enrolment: usize,
    traits: Traits,
    exclude: Vec<usize>,
    stored: Stored,
    time: UnixTime,
    at: Instant,
    seed: u64,
}

impl Recipe {
    fn config(&self, enclave: &Enclave) -> Config {
        Config {
            keys: enclave.keys(self.machine, self.enrolment),
            name: enclave.machines[self.machine].name.clone(),
            authority: enclave.authority(),
            freshness: enclave.freshness,
            time: self.time,
            suites: self.traits.suites,
            preferred: self.traits.preferred,
            lanes: self.traits.lanes,
            exclude: self.exclude.iter().map(|m| enclave.machines[*m].name.clone()).collect(),
            roaming: self.traits.roaming,
            may_ask_cookie: self.traits.gateway,
            port: 4747,
            update: self.stored.knowledge.to_update(),
            counter: self.stored.kept.counter,
            accepted: self.stored.kept.accepted.iter().map(|(k, n)| (*k, *n)).collect(),
            answered: self.stored.kept.answered.iter().copied().collect(),
            resume: self.stored.kept.live.iter().map(|(k, at)| (*k, *at)).collect(),
        }
    }
}

/// A node that was given the same inputs in the same order gave other outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diverged;

/// A running daemon.
pub struct Running {
    /// The node.
    pub node: Node,
    recipe: Recipe,
    instance: InstanceHandle,
    log: Vec<(Instant, Input)>,
    outputs: DefaultHasher,
    /// Packets and datagrams put in.
    pub given: u64,
    /// Sealed packets that came out.
    pub sealed: u64,
    /// Protocol time, where there are no pulses, was `time` at `since`: since it was made, or was told that it is late.
    pub since: Instant,
    /// See `since`.
    pub time: UnixTime,
}

impl Running {
    fn new(recipe: Recipe, enclave: &Enclave) -> Self {
        let instance = InstanceHandle::default();
        let entropy = HostEntropy::new(recipe.seed, instance.clone());
        let node = Node::new(recipe.config(enclave), Box::new(entropy), recipe.at);
        Self {
            node,
            instance,
            log: Vec::new(),
            outputs: DefaultHasher::new(),
            given: 0,
            sealed: 0,
            since: recipe.at,
            time: recipe.time,
            recipe,
        }
    }

    /// Puts something in and takes out everything that follows.
    pub fn step(&mut self, at: Instant, input: Input) -> Output {
        self.log.push((at, input.clone()));
        let mut out = Output::default();
        match input {
            Input::Inside(packet) => {
                self.given += 1;
                self.node.begin_batch();
                out.outcome = Some(self.node.handle_inside(&packet, at, &mut out));
            }
            Input::Outside(mut bytes, from) => {
                self.given += 1;
                out.outcome = Some(self.node.handle_outside(&mut bytes, from, at, &mut out));
            }
            Input::Timeout => self.node.handle_timeout(at, &mut out),
            Input::Tell(told) => {
                let time = self.time.plus(at.since(self.since));
                if let Some(floor) = told.time().filter(|floor| *floor > time) {
                    (self.since, self.time) = (at, floor);
                }
                self.node.handle_update(told.to_update(), at);
            }
            Input::Fork => self.node.handle_fork(),
            Input::ShutDown => self.node.shut_down(),
        }
        self.drain(out)
    }

    /// Takes out what is there.
    pub fn drain(&mut self, mut out: Output) -> Output {
        out.drain(&mut self.node);
        self.sealed += u64::try_from(out.packets.len()).unwrap_or(u64::MAX);
        (&out.packets, &out.control, &out.inside).hash(&mut self.outputs);
        out
    }

    /// A second node with the same memory, made by living the same life again. One that was forked before cannot: what its
    /// processor mixed in is not in its memory.
    ///
    /// # Errors
    /// [`Diverged`] when the same inputs did not give the same outputs.
    pub fn fork(&self, enclave: &Enclave) -> Result<Self, Diverged> {
        let mut twin = Self::new(self.recipe.clone(), enclave);
        twin.drain(Output::default());
        for (at, input) in &self.log {
            twin.step(*at, input.clone());
        }
        if twin.outputs.finish() == self.outputs.finish() {
            Ok(twin)
        } else {
            Err(Diverged)
        }
    }

    /// Tells instances apart, or, with zero, does not.
    pub fn set_instance(&self, instance: u64) {
        self.instance.set(instance);
    }

    /// True when this memory image was copied before.
    #[must_use]
    pub fn was_forked(&self) -> bool {
        self.instance.get() != 0
    }
}

/// A host.
pub struct Host {
    /// Which machine of the enclave it is; a fork is the same machine.
    pub machine: usize,
    /// Which enrolment of it.
    pub enrolment: usize,
    /// True for the second instance of a fork.
    pub twin: bool,
    /// For people.
    pub label: String,
    /// Its clocks.
    pub clock: HostClock,
    /// Where it is.
    pub address: SocketAddr,
    /// Whether it runs.
    pub power: Power,
    /// The daemon, while it does.
    pub running: Option<Running>,
    /// Its disk.
    pub stored: Stored,
    /// What it is like.
    pub traits: Traits,
    /// Machines that must not be able to hear what it starts.
    pub exclude: Vec<usize>,
    /// Since when.
    pub excluded_at: Moment,
    /// Counts its starts.
    pub incarnation: u64,
    /// The issuer does not get through to it.
    pub deaf: bool,
    /// It crashes before the next thing that it sends leaves, and after its records are stored.
    pub torn: bool,
    /// Forks of it.
    pub forked: Forked,
    /// When it was told which version.
    pub told: Vec<(u64, Moment)>,
    /// The highest revision of the revocations that the issuer told it.
    pub revision: u64,
    /// The last telling under way to it arrives then: they stay in order.
    pub tell_after: Moment,
    /// How long it was suspended, in all, and when it was last.
    pub paused: Duration,
    /// Since when it is suspended.
    pub paused_at: Moment,
    /// The timer that counts.
    pub timer: u64,
    /// When it fires.
    pub timer_at: Option<Moment>,
}

impl Host {
    /// Starts the daemon from what is on disk.
    pub fn start(&mut self, enclave: &Enclave, now: Moment, seed: u64) -> Output {
        let at = self.clock.boot(now);
        let recipe = Recipe {
            machine: self.machine,
            enrolment: self.enrolment,
            traits: self.traits,
            exclude: self.exclude.clone(),
            stored: self.stored.clone(),
            time: self.stored.knowledge.issued.max(self.clock.wall(now)),
            at,
            seed,
        };
        self.incarnation += 1;
        self.power = Power::Up;
        self.told.push((self.stored.knowledge.version, now));
        let mut running = Running::new(recipe, enclave);
        let out = running.drain(Output::default());
        self.running = Some(running);
        out
    }

    /// The daemon's memory is lost; the disk stays.
    pub fn stop(&mut self) {
        self.running = None;
        self.torn = false;
        self.power = Power::Down;
        self.timer += 1;
        self.timer_at = None;
    }

    /// True while the daemon works.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self.power, Power::Up) && self.running.is_some()
    }

    /// When it was first told `version` or a later one.
    #[must_use]
    pub fn told_at(&self, version: u64) -> Option<Moment> {
        self.told.iter().find(|(v, _)| *v >= version).map(|(_, at)| *at)
    }

    /// Protocol time as an enclave without pulses has it: computed here, not asked of the node.
    #[must_use]
    pub fn offline_time(&self, now: Moment) -> Option<UnixTime> {
        let running = self.running.as_ref()?;
        Some(running.time.plus(self.clock.boot(now).since(running.since)))
    }
}
