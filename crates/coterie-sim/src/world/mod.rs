//! The world: hosts, the wire between them, the issuer, and everything that is under way, in one queue ordered by true time.
//! One thread, one seed: the same calls give the same world.

mod apply;
mod judge;
mod quiet;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use coterie_proto::{Event, Outcome, membership::Freshness, node::Alarm, wire::datagram};

use crate::{
    check::{
        Breach, Promise, Violation, delivery::DeliveryCheck, handshake::HandshakeCheck, house, twin::TwinCheck,
        wire::WireCheck,
    },
    clock::{HostClock, Moment},
    enclave::{Enclave, Knowledge},
    host::{Forked, Host, Input, Output, Power, Stored, Traits},
    ladder::Ladder,
    link::Link,
    packet::Canary,
    queue::Queue,
    rng::Rng,
};

pub use quiet::Settled;

/// Datagrams that somebody on the wire remembers.
const CAPTURED: usize = 400;
/// How often the issuer gives its pulse.
const PULSE: Duration = Duration::from_secs(10);

/// What a world is made from.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Where protocol time comes from.
    pub freshness: Freshness,
    /// Membership lease.
    pub lease: Duration,
    /// How many communities there are.
    pub communities: usize,
    /// Each machine.
    pub machines: Vec<MachineLayout>,
}

/// What one machine is made from.
#[derive(Debug, Clone)]
pub struct MachineLayout {
    /// Communities that it is in.
    pub communities: Vec<usize>,
    /// What it is like.
    pub traits: Traits,
    /// Machines that it does not want to hear it.
    pub exclude: Vec<usize>,
    /// What its running time shows at the beginning.
    pub boot: Duration,
    /// Millionths by which its clock runs fast.
    pub drift: i64,
    /// Seconds by which its wall clock is wrong.
    pub wall_error: i64,
}

/// A deliberate defect, so that checkers can be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Forks draw the same entropy, as if the processor had no generator.
    SameEntropy,
    /// Every packet also leaves in clear.
    LeakPlaintext,
    /// Every packet is delivered twice.
    DeliverTwice,
    /// Every packet is delivered to everybody.
    DeliverToAll,
    /// Packets disappear before they reach the node.
    SwallowPackets,
    /// Records are not stored.
    StoreNothing,
    /// A fork is not told to the node.
    IgnoreFork,
    /// Faults do not stop.
    NeverHeal,
    /// A host answers strangers.
    AnswerStrangers,
    /// Nodes are woken and do nothing.
    IgnoreTimers,
}

/// Something under way.
enum Happening {
    Arrive(Arrival),
    Timer {
        host: usize,
        token: u64,
    },
    Tell {
        host: usize,
        incarnation: u64,
        knowledge: Box<Knowledge>,
    },
    Pulse,
    Resume {
        host: usize,
        leaps: bool,
    },
}

/// A datagram on its way.
struct Arrival {
    to: SocketAddr,
    from: SocketAddr,
    bytes: Vec<u8>,
    /// Sealed by a host as it is.
    authentic: bool,
    /// Sent by somebody who is no member, from an address that no host has.
    attack: bool,
}

/// A datagram that somebody on the wire has.
struct Captured {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

/// Counts of a world.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Transitions that took place, by kind.
    pub transitions: BTreeMap<&'static str, u64>,
    /// Datagrams that left a host.
    pub datagrams: u64,
    /// Packets that programs sent.
    pub packets: u64,
    /// Packets delivered.
    pub delivered: u64,
    /// Sessions made, rekeys included.
    pub sessions: u64,
    /// Twins noticed.
    pub twins: u64,
    /// Pairs that had to talk and did.
    pub talking: u64,
    /// Pairs that had to be silent and were.
    pub silent: u64,
    /// Pairs of which the model could say nothing.
    pub unclear: u64,
    /// The longest that a pair took to talk again after faults stopped.
    pub slowest: Duration,
}

/// A world.
pub struct World {
    now: Moment,
    rng: Rng,
    /// The issuer.
    pub enclave: Enclave,
    /// All hosts; forks are added at the end.
    pub hosts: Vec<Host>,
    /// The wire.
    pub link: Link,
    queue: Queue<Happening>,
    owners: BTreeMap<SocketAddr, usize>,
    addresses: u32,
    canary: Canary,
    wire_check: WireCheck,
    delivery: DeliveryCheck,
    handshakes: HandshakeCheck,
    twins: TwinCheck,
    heard: BTreeSet<(usize, u64, u64)>,
    excused: BTreeSet<SocketAddr>,
    /// When each machine was last forked.
    forks: BTreeMap<usize, Moment>,
    captured: VecDeque<Captured>,
    tellings: Vec<Vec<Knowledge>>,
    events: Vec<(Moment, usize, Event)>,
    spinning: (Moment, usize, u32),
    /// Datagrams between machines by type since it was last cleared.
    between: BTreeMap<(usize, usize, u8), u64>,
    sabotage: Option<Sabotage>,
    /// What happened last.
    pub ladder: Ladder,
    /// Counts.
    pub totals: Totals,
    violation: Option<Violation>,
}

impl World {
    /// A world of `layout` whose chances come from `seed`. All hosts are started.
    #[must_use]
    pub fn new(seed: u64, layout: &Layout) -> Self {
        let mut rng = Rng::new(seed);
        let mut canary = [0; 8];
        rng.fill(&mut canary);
        let canary = Canary(canary);
        let members: Vec<_> = layout.machines.iter().map(|m| m.communities.clone()).collect();
        let enclave = Enclave::new(
            rng.split(),
            layout.freshness,
            layout.lease,
            layout.communities,
            &members,
        );
        let link = Link::new(rng.split());
        let mut this = Self {
            now: Moment::START,
            rng,
            enclave,
            hosts: Vec::new(),
            link,
            queue: Queue::default(),
            owners: BTreeMap::new(),
            addresses: 0,
            canary,
            wire_check: WireCheck::new(canary),
            delivery: DeliveryCheck::new(canary),
            handshakes: HandshakeCheck::default(),
            twins: TwinCheck::default(),
            heard: BTreeSet::new(),
            excused: BTreeSet::new(),
            forks: BTreeMap::new(),
            captured: VecDeque::new(),
            tellings: vec![Vec::new(); layout.machines.len()],
            events: Vec::new(),
            spinning: (Moment::START, 0, 0),
            between: BTreeMap::new(),
            sabotage: None,
            ladder: Ladder::default(),
            totals: Totals::default(),
            violation: None,
        };
        for (machine, m) in layout.machines.iter().enumerate() {
            this.add_host(machine, m);
        }
        for host in 0..this.hosts.len() {
            this.start(host);
        }
        if layout.freshness == Freshness::Heads {
            this.push(Duration::ZERO, Happening::Pulse);
        }
        this
    }

    fn add_host(&mut self, machine: usize, m: &MachineLayout) {
        let address = self.enclave.machines[machine].endpoint;
        let knowledge = self.enclave.tell(machine, self.now, m.traits.lazy);
        self.owners.insert(address, self.hosts.len());
        self.tellings[machine].push(knowledge.clone());
        self.hosts.push(Host {
            machine,
            enrolment: 0,
            twin: false,
            label: format!("m{machine}"),
            clock: HostClock::new(m.boot, m.drift, m.wall_error),
            address,
            power: Power::Down,
            running: None,
            stored: Stored::new(knowledge),
            traits: m.traits,
            exclude: m.exclude.clone(),
            excluded_at: Moment::START,
            incarnation: 0,
            deaf: false,
            torn: false,
            forked: Forked::Never,
            told: Vec::new(),
            revision: 0,
            tell_after: Moment::START,
            paused: Duration::ZERO,
            paused_at: Moment::START,
            timer: 0,
            timer_at: None,
        });
    }

    /// Puts a deliberate defect in.
    pub const fn sabotage(&mut self, defect: Sabotage) {
        self.sabotage = Some(defect);
    }

    /// True time.
    #[must_use]
    pub const fn now(&self) -> Moment {
        self.now
    }

    /// The first promise that was broken.
    #[must_use]
    pub const fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Everything that nodes said, in order.
    #[must_use]
    pub fn events(&self) -> &[(Moment, usize, Event)] {
        &self.events
    }

    /// When a packet was delivered.
    #[must_use]
    pub fn delivered(&self, number: u64) -> Option<Moment> {
        self.delivery.delivered(number)
    }

    /// A program on `host` sends a packet to machine `to`; gives its number, or `None` when the host is not up.
    pub fn send(&mut self, host: usize, to: usize) -> Option<u64> {
        if !self.hosts[host].is_up() {
            return None;
        }
        let machine = self.hosts[host].machine;
        let family = usize::from(self.rng.chance(300));
        let (source, destination) = (
            self.enclave.machines[machine].inside[family],
            self.enclave.machines[to].inside[family],
        );
        let most = if self.rng.chance(100) { 1300 } else { 200 };
        let payload = self.rng.index(most);
        Some(self.send_between(host, (source, destination), to, payload))
    }

    fn send_between(&mut self, host: usize, (source, destination): (IpAddr, IpAddr), to: usize, payload: usize) -> u64 {
        let number = self.delivery.next();
        let packet = self.canary.packet(number, source, destination, payload);
        let who = (host, self.hosts[host].machine, self.hosts[host].enrolment);
        self.delivery.sent(who, to, packet.clone(), self.now);
        self.totals.packets += 1;
        if self.sabotage == Some(Sabotage::LeakPlaintext) {
            let to = self.enclave.machines[to].endpoint;
            self.leave(host, to, packet.clone(), false);
        }
        if self.sabotage == Some(Sabotage::SwallowPackets) {
            if let Some(running) = self.hosts[host].running.as_mut() {
                running.given += 1;
            }
            self.keep_books(host);
            return number;
        }
        self.step(host, Input::Inside(packet));
        number
    }

    /// The newest datagram of a type that one host sent another, whether it arrived or not.
    #[must_use]
    pub fn last_datagram(&self, from: usize, to: usize, kind: u8) -> Option<Vec<u8>> {
        let (from, to) = (&self.hosts[from], &self.hosts[to]);
        let fits = |c: &&Captured| c.from == from.address && c.to == to.address && c.bytes[0] == kind;
        self.captured.iter().rev().find(fits).map(|c| c.bytes.clone())
    }

    /// Somebody who is no member sends `host` what some host sealed, from an address of his own, which is given back.
    pub fn relay(&mut self, host: usize, bytes: Vec<u8>) -> SocketAddr {
        let (to, from) = (self.hosts[host].address, self.stranger());
        self.push(
            Duration::ZERO,
            Happening::Arrive(Arrival {
                to,
                from,
                bytes,
                authentic: true,
                attack: true,
            }),
        );
        from
    }

    /// Lets time go by.
    pub fn run(&mut self, by: Duration) {
        let end = self.now + by;
        while self.violation.is_none()
            && let Some((at, happening)) = self.queue.pop_until(end)
        {
            self.now = at;
            self.happen(happening);
        }
        self.now = self.now.max(end);
    }

    fn push(&mut self, after: Duration, happening: Happening) {
        self.queue.push(self.now + after, happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive(arrival) => self.arrive(arrival),
            Happening::Timer { host, token } => self.tick(host, token),
            Happening::Tell {
                host,
                incarnation,
                knowledge,
            } => {
                if self.hosts[host].incarnation == incarnation && self.hosts[host].is_up() && !self.hosts[host].deaf {
                    self.tell(host, *knowledge);
                }
            }
            Happening::Pulse => {
                let head = self.enclave.tell_head(self.now);
                for host in 0..self.hosts.len() {
                    self.send_telling(host, head.clone());
                }
                self.push(PULSE, Happening::Pulse);
            }
            Happening::Resume { host, leaps } => self.resume(host, leaps),
        }
    }

    fn tick(&mut self, host: usize, token: u64) {
        if self.hosts[host].timer != token || !self.hosts[host].is_up() {
            return;
        }
        self.hosts[host].timer_at = None;
        let again = self.spinning.0 == self.now && self.spinning.1 == host;
        self.spinning = (self.now, host, if again { self.spinning.2 + 1 } else { 0 });
        if self.spinning.2 > 100 {
            let what = format!(
                "{} wants to be woken again and again at one moment",
                self.hosts[host].label
            );
            return self.breach(Breach::new(Promise::Progress, what));
        }
        if self.sabotage == Some(Sabotage::IgnoreTimers) {
            return self.set_timer(host);
        }
        self.step(host, Input::Timeout);
    }

    /// Gives a node something and carries out what follows; what became of it, and whether it cried that a peer runs twice.
    fn step(&mut self, host: usize, input: Input) -> Option<(Outcome, bool)> {
        let h = &mut self.hosts[host];
        let at = h.clock.boot(self.now);
        let told = matches!(input, Input::Tell(_));
        let out = h.running.as_mut()?.step(at, input);
        let alarmed = out.events.iter().any(|e| matches!(e, Event::Alarm(Alarm::Twin(_))));
        let outcome = out.outcome;
        self.carry_out(host, out, told);
        outcome.map(|o| (o, alarmed))
    }

    fn carry_out(&mut self, host: usize, out: Output, told: bool) {
        for record in &out.persists {
            let enrolment = self.hosts[host].enrolment;
            if let Err(breach) = self.handshakes.recorded(host, enrolment, record) {
                self.breach(breach);
            }
            if self.sabotage != Some(Sabotage::StoreNothing) {
                self.hosts[host].stored.keep(record);
            }
        }
        let something_leaves = !out.packets.is_empty() || !out.control.is_empty();
        if self.hosts[host].torn && something_leaves {
            self.hosts[host].torn = false;
            self.note(host, "killed before it could send");
            self.hosts[host].stop();
            return;
        }
        for (to, bytes) in out.control {
            self.leave(host, to, bytes, true);
        }
        for (to, bytes) in out.packets {
            self.leave(host, to, bytes, false);
        }
        for packet in &out.inside {
            self.inside(host, packet);
        }
        for event in out.events {
            self.heed(host, event, told);
        }
        self.keep_books(host);
        self.set_timer(host);
    }

    fn keep_books(&mut self, host: usize) {
        let Some(running) = self.hosts[host].running.as_ref() else {
            return;
        };
        let kept = house::balance(&running.node, running.given, running.sealed)
            .and_then(|()| house::bounds(&running.node.held(), running.node.waiting()));
        if let Err(breach) = kept {
            self.breach(Breach {
                what: format!("{}: {}", self.hosts[host].label, breach.what),
                ..breach
            });
        }
    }

    fn set_timer(&mut self, host: usize) {
        let now = self.now;
        let h = &mut self.hosts[host];
        let wanted = h
            .running
            .as_ref()
            .filter(|_| h.is_up())
            .and_then(|r| r.node.poll_timeout());
        let moment = wanted.and_then(|(at, _)| h.clock.when(at, now));
        if moment == h.timer_at {
            return;
        }
        h.timer += 1;
        h.timer_at = moment;
        let token = h.timer;
        if let Some(moment) = moment {
            self.push(moment.since(now), Happening::Timer { host, token });
        }
    }

    /// A datagram leaves a host.
    fn leave(&mut self, host: usize, to: SocketAddr, bytes: Vec<u8>, control: bool) {
        self.totals.datagrams += 1;
        let owner = self.owners.get(&to).copied();
        let from = self.hosts[host].address;
        if self.hosts[host].forked == Forked::Told {
            let what = format!(
                "{} sent a datagram after it noticed that it was forked",
                self.hosts[host].label
            );
            self.breach(Breach::new(Promise::Fork, what));
        }
        let machine = owner.map_or(usize::MAX, |o| self.hosts[o].machine);
        let twice = self.hosts[host].forked == Forked::Unaware;
        let passed = self.wire_check.leaves(machine, &bytes, control, twice);
        self.check(passed);
        let Some(owner) = owner else {
            self.ladder.datagram(
                self.now,
                &self.hosts[host].label,
                "nobody",
                &bytes,
                "to an address of no host",
            );
            if !self.excused.contains(&to) && self.is_strange(to) {
                let what = format!("{} answered a stranger at {to}", self.hosts[host].label);
                self.breach(Breach::new(Promise::Silence, what));
            }
            return;
        };
        let kind = bytes.first().copied().unwrap_or(0);
        *self
            .between
            .entry((self.hosts[host].machine, machine, kind))
            .or_insert(0) += 1;
        self.captured.push_back(Captured {
            from,
            to,
            bytes: bytes.clone(),
        });
        if self.captured.len() > CAPTURED {
            self.captured.pop_front();
        }
        let flights = self.link.carry(host, owner, &bytes);
        if flights.is_empty() {
            self.ladder.datagram(
                self.now,
                &self.hosts[host].label,
                &self.hosts[owner].label,
                &bytes,
                "lost",
            );
        }
        for flight in flights {
            let arrival = Arrival {
                to,
                from,
                authentic: !flight.damaged,
                bytes: flight.bytes,
                attack: false,
            };
            self.push(flight.after, Happening::Arrive(arrival));
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let Arrival {
            to,
            from,
            bytes,
            authentic,
            attack,
        } = arrival;
        let Some(host) = self.owners.get(&to).copied() else {
            return;
        };
        let sender = self
            .owners
            .get(&from)
            .map_or("stranger", |o| self.hosts[*o].label.as_str());
        let h = &self.hosts[host];
        if h.address != to || !h.is_up() {
            self.ladder.datagram(self.now, sender, &h.label, &bytes, "nobody there");
            return;
        }
        self.ladder.datagram(self.now, sender, &h.label, &bytes, "");
        let (enrolment, incarnation) = (h.enrolment, h.incarnation);
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let heard = (host, incarnation, hasher.finish());
        if attack && self.may_be_answered(&bytes, authentic, heard) {
            self.excused.insert(from);
        }
        if attack && self.sabotage == Some(Sabotage::AnswerStrangers) {
            self.leave(host, from, bytes.clone(), true);
        }
        let Some((outcome, alarmed)) = self.step(host, Input::Outside(bytes.clone(), from)) else {
            return;
        };
        if matches!(outcome, Outcome::Delivered | Outcome::Handled) && authentic {
            self.heard.insert(heard);
        }
        if outcome == Outcome::Handled && matches!(bytes[0], datagram::INITIATION | datagram::QUESTION) {
            let took = self.handshakes.took(host, enrolment, &bytes);
            self.check(took);
        }
        let forked = self
            .owners
            .get(&from)
            .and_then(|sender| self.forks.get(&self.hosts[*sender].machine))
            .filter(|_| authentic)
            .copied();
        let fork = self
            .twins
            .arrived((host, incarnation), self.now, &bytes, forked, (outcome, alarmed));
        self.check(fork);
        self.totals.twins += u64::from(alarmed);
    }

    /// What a member sealed and this node never took may be answered to wherever it came from: only who comes back from there
    /// counts. An offer's answer may be repeated.
    fn may_be_answered(&self, bytes: &[u8], authentic: bool, heard: (usize, u64, u64)) -> bool {
        authentic && (!self.heard.contains(&heard) || bytes[0] == datagram::PROVISIONAL)
    }

    fn is_strange(&self, address: SocketAddr) -> bool {
        matches!(address.ip(), IpAddr::V4(a) if a.octets()[..3] == [198, 51, 100])
    }

    fn stranger(&mut self) -> SocketAddr {
        self.addresses += 1;
        let port = u16::try_from(1024 + self.addresses % 60_000).unwrap_or(1024);
        SocketAddr::from(([198, 51, 100, u8::try_from(self.addresses % 250).unwrap_or(0)], port))
    }

    fn fresh_address(&mut self, host: usize) -> SocketAddr {
        self.addresses += 1;
        let [_, _, high, low] = self.addresses.to_be_bytes();
        let address = SocketAddr::from(([203, 0, high, low], 4747));
        self.owners.insert(address, host);
        address
    }

    /// Starts a host's daemon; the issuer gets through a moment later.
    fn start(&mut self, host: usize) {
        let seed = self.rng.next();
        let out = self.hosts[host].start(&self.enclave, self.now, seed);
        self.hosts[host].revision = self.hosts[host]
            .stored
            .knowledge
            .revocations
            .as_ref()
            .map_or(0, |(r, _)| *r);
        self.note(host, "started");
        self.carry_out(host, out, true);
        self.send_news(host);
    }

    fn resume(&mut self, host: usize, leaps: bool) {
        let now = self.now;
        let h = &mut self.hosts[host];
        if h.power != Power::Paused {
            return;
        }
        h.power = Power::Up;
        h.clock.resume(now);
        let lasted = now.since(h.paused_at);
        if leaps {
            h.clock.leap(now, lasted);
        }
        h.paused += lasted;
        self.note(host, "resumed");
        self.set_timer(host);
        self.send_news(host);
    }

    /// The issuer tells a host everything that it may know.
    fn send_news(&mut self, host: usize) {
        let h = &self.hosts[host];
        let machine = &self.enclave.machines[h.machine];
        if machine.expelled || h.enrolment + 1 != machine.enrolments.len() {
            return;
        }
        let knowledge = self.enclave.tell(h.machine, self.now, h.traits.lazy);
        self.tellings[h.machine].push(knowledge.clone());
        self.send_telling(host, knowledge);
    }

    fn send_news_to_all(&mut self) {
        for host in 0..self.hosts.len() {
            self.send_news(host);
        }
    }

    /// Revocations go out first, and to everybody at once.
    fn send_revocations(&mut self) {
        let knowledge = self.enclave.tell_revocations(self.now);
        for host in 0..self.hosts.len() {
            self.send_telling(host, knowledge.clone());
        }
    }

    /// Tellings to one host stay in order.
    fn send_telling(&mut self, host: usize, knowledge: Knowledge) {
        if !self.hosts[host].is_up() || self.enclave.machines[self.hosts[host].machine].expelled {
            return;
        }
        let wait = self.rng.between(Duration::from_millis(5), Duration::from_millis(400));
        let at = (self.now + wait).max(self.hosts[host].tell_after);
        self.hosts[host].tell_after = at;
        let incarnation = self.hosts[host].incarnation;
        self.push(
            at.since(self.now),
            Happening::Tell {
                host,
                incarnation,
                knowledge: Box::new(knowledge),
            },
        );
    }

    fn tell(&mut self, host: usize, knowledge: Knowledge) {
        let now = self.now;
        let h = &mut self.hosts[host];
        h.stored.learn(&knowledge);
        h.revision = h.revision.max(knowledge.revocations.as_ref().map_or(0, |(r, _)| *r));
        if knowledge.version > 0 {
            h.told.push((knowledge.version, now));
            let version = knowledge.version;
            self.note(host, &format!("told version {version}"));
        }
        self.step(host, Input::Tell(Box::new(knowledge)));
    }

    fn note(&mut self, host: usize, what: &str) {
        self.ladder.note(self.now, &self.hosts[host].label, what);
    }

    fn check(&mut self, result: Result<(), Breach>) {
        if let Err(breach) = result {
            self.breach(breach);
        }
    }

    fn breach(&mut self, breach: Breach) {
        if self.violation.is_none() {
            self.violation = Some(Violation { at: self.now, breach });
        }
    }
}
