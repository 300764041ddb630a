//! The second world: an enclave with a server. The control core is the real one ([`coterie_control::issue::Enclave`]), so are
//! the nodes that follow it, their doors and their visitors; what is modelled is what lies between: the server's shell
//! ([`server`], over what it has committed, [`store`]), its feed ([`feed`]), and the daemon around a node ([`machine`],
//! [`follower`]).
//!
//! [`truth`] is history as it was committed; [`World`] holds every machine to it. [`action`] lists what can happen, [`arb`] draws
//! scenarios.

pub mod action;
mod apply;
pub mod arb;
mod deeds;
mod entrance;
pub mod feed;
pub mod follower;
mod judge;
pub mod machine;
mod quiet;
pub mod run;
pub mod server;
mod shell;
pub mod site;
pub mod store;
pub mod truth;

pub use quiet::Epilogue;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use coterie_crypto::dh::PublicKey;
use coterie_model::{CommunityTag, Instant, Name, Revision, UnixTime};
use coterie_proto::{Event, Outcome};

use crate::{
    check::{Breach, Promise, Violation, delivery::DeliveryCheck, handshake::HandshakeCheck, house, wire::WireCheck},
    clock::{HostClock, Moment},
    host::Output,
    ladder::Ladder,
    link::Link,
    packet::Canary,
    queue::Queue,
    rng::Rng,
};
use machine::{Daemon, Disk, Machine, Power};
use server::{Committed, NotDone, Server};
use shell::{Asked, Told};
use site::Site;
use store::TokenId;
use truth::Truth;

/// How often a daemon looks after its connection.
const SHELL: Duration = Duration::from_millis(200);
/// How often the server looks at its clock.
const BEAT: Duration = Duration::from_millis(500);
/// How often bounds are checked.
const INSPECT: Duration = Duration::from_secs(1);
/// Datagrams that somebody on the wire remembers.
const CAPTURED: usize = 200;

/// What a world is made from.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The enclave file.
    pub site: Site,
    /// Each machine: those that the file names first.
    pub machines: Vec<MachineLayout>,
}

/// What one machine is made from.
#[derive(Debug, Clone)]
pub struct MachineLayout {
    /// The name that it asks for.
    pub name: String,
    /// Its template.
    pub template: String,
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
    /// Lists of the refused are told to nobody.
    HideRefusals,
    /// Changes of views are told to nobody.
    HideViews,
    /// A token makes more members than it may.
    SpendTwice,
    /// After a kill the server comes back with what it had when it was backed up, as if that was all.
    ForgetCommit,
    /// The server tells nobody that a bundle is old.
    ForgetRenewals,
    /// Doors are told nothing any more of a token that was spent.
    ForgetSpent,
    /// Machines forget revocations when their daemon is killed.
    ForgetRevocations,
    /// Daemons forget how late it is when they are killed.
    ForgetTime,
}

/// By what a key asks to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Applied {
    machine: usize,
    /// The token; `None` where a person brought the request.
    token: Option<TokenId>,
    /// It shows a ticket.
    ticket: bool,
}

/// Something under way.
enum Happening {
    Arrive {
        to: SocketAddr,
        from: SocketAddr,
        bytes: Vec<u8>,
        authentic: bool,
    },
    Timer {
        machine: usize,
        token: u64,
    },
    Shell {
        machine: usize,
    },
    ToServer {
        machine: usize,
        connection: u64,
        asked: Asked,
    },
    FromServer {
        machine: usize,
        incarnation: u64,
        connection: u64,
        told: Told,
    },
    Boot {
        machine: usize,
        boots: u64,
    },
    Beat,
    Inspect,
}

/// Counts of a world.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Transitions that took place, by kind.
    pub transitions: BTreeMap<&'static str, u64>,
    /// Everything else that is counted.
    pub numbers: BTreeMap<&'static str, u64>,
    /// The longest that a pair took to talk after faults stopped.
    pub slowest: Duration,
}

/// A world.
pub struct World {
    now: Moment,
    rng: Rng,
    /// What the administrator wants.
    pub site: Site,
    /// The server.
    pub server: Server,
    /// All machines.
    pub machines: Vec<Machine>,
    /// The wire.
    pub link: Link,
    /// History as it was committed.
    pub truth: Truth,
    names: Vec<Name>,
    queue: Queue<Happening>,
    owners: BTreeMap<SocketAddr, usize>,
    addresses: u32,
    connections: u64,
    canary: Canary,
    wire_check: WireCheck,
    delivery: DeliveryCheck,
    handshakes: HandshakeCheck,
    /// Which machine made which static key, and by what it asks to be let in.
    applied: BTreeMap<PublicKey, Applied>,
    /// Static keys that were enrolled.
    enrolled: BTreeSet<PublicKey>,
    /// Communities that ever were.
    tags: BTreeMap<CommunityTag, Name>,
    /// Inside addresses of all members, as they were committed.
    roster: BTreeMap<Name, Vec<IpAddr>>,
    captured: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    backups: Vec<(store::Store, Site)>,
    /// Alarms about rollback have a cause since then: the server's clock or its state was set back.
    set_back: Option<Moment>,
    /// The farthest that the server's clock ever was ahead, in seconds.
    farthest: i64,
    /// When a backup was restored last, by the server's clock.
    restored: UnixTime,
    /// The revision of the server that was observed last.
    newest: Revision,
    spinning: (Moment, usize, u32),
    questions: u64,
    sabotage: Option<Sabotage>,
    /// What happened last.
    pub ladder: Ladder,
    /// Counts.
    pub totals: Totals,
    violation: Option<Violation>,
}

impl World {
    /// A world of `layout` whose chances come from `seed`. Machines that the file names are enrolled by hand and run; the others
    /// are switched off.
    ///
    /// # Panics
    /// When the file of `layout` is not accepted: a caller's error.
    #[must_use]
    pub fn new(seed: u64, layout: &Layout) -> Self {
        let mut rng = Rng::new(seed ^ 0x5e17_ed00_5e17_ed00);
        let mut canary = [0; 8];
        rng.fill(&mut canary);
        let canary = Canary(canary);
        let address = SocketAddr::from(([203, 0, 113, 250], 4750));
        let server = Server::new(&layout.site.text(), rng.next(), address, Moment::START)
            .expect("the layout's file is accepted");
        let link = Link::new(rng.split());
        let mut this = Self {
            now: Moment::START,
            rng,
            site: layout.site.clone(),
            server,
            machines: Vec::new(),
            link,
            truth: Truth::default(),
            names: Vec::new(),
            queue: Queue::default(),
            owners: BTreeMap::new(),
            addresses: 0,
            connections: 0,
            canary,
            wire_check: WireCheck::new(canary),
            delivery: DeliveryCheck::new(canary),
            handshakes: HandshakeCheck::default(),
            applied: BTreeMap::new(),
            enrolled: BTreeSet::new(),
            tags: BTreeMap::new(),
            roster: BTreeMap::new(),
            captured: VecDeque::new(),
            backups: Vec::new(),
            set_back: None,
            farthest: 0,
            restored: UnixTime(0),
            newest: 0,
            spinning: (Moment::START, 0, 0),
            questions: 0,
            sabotage: None,
            ladder: Ladder::default(),
            totals: Totals::default(),
            violation: None,
        };
        for m in &layout.machines {
            this.add_machine(m);
        }
        let named: Vec<usize> = (0..this.machines.len())
            .filter(|m| layout.site.members.contains_key(this.machines[*m].name.as_str()))
            .collect();
        for machine in named {
            this.enrol_by_hand(machine);
        }
        this.push(BEAT, Happening::Beat);
        this.push(INSPECT, Happening::Inspect);
        this
    }

    fn add_machine(&mut self, m: &MachineLayout) -> usize {
        let name = Name::new(&m.name).expect("names of layouts are names");
        let machine = self.machines.len();
        let address = match self.site.members.get(&m.name) {
            Some(seat) if !self.owners.contains_key(&seat.endpoint) => seat.endpoint,
            Some(_) | None => self.fresh_address(),
        };
        self.owners.insert(address, machine);
        if !self.names.contains(&name) {
            self.names.push(name.clone());
        }
        let same = self.machines.iter().filter(|other| other.name == name).count();
        self.machines.push(Machine {
            label: format!("{name}{}", "'".repeat(same)),
            name,
            template: m.template.clone(),
            clock: HostClock::new(m.boot, m.drift, m.wall_error),
            address,
            disk: Disk::default(),
            boots: 1,
            power: Power::Off,
            daemon: None,
            incarnation: 0,
            enrolments: Vec::new(),
            cut: false,
            broken: 0,
            hostile: None,
            captured: Vec::new(),
            answers: Vec::new(),
            timer: 0,
            timer_at: None,
            revision: 0,
            marks: Vec::new(),
            refusals: Vec::new(),
            order: [Moment::START; 3],
            told: None,
        });
        let wait = self.rng.between(Duration::ZERO, SHELL);
        self.push(wait, Happening::Shell { machine });
        machine
    }

    fn fresh_address(&mut self) -> SocketAddr {
        self.addresses += 1;
        let [_, _, high, low] = self.addresses.to_be_bytes();
        SocketAddr::from(([198, 18, high, low], 4747))
    }

    /// Puts a deliberate defect in.
    pub fn sabotage(&mut self, defect: Sabotage) {
        self.sabotage = Some(defect);
        self.server.forgets_renewals = defect == Sabotage::ForgetRenewals;
        self.server.forgets_spent = defect == Sabotage::ForgetSpent;
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

    /// For scenarios: nothing was broken so far.
    ///
    /// # Panics
    /// With what was broken and what happened before, if something was.
    pub fn must_hold(&self) {
        if let Some(violation) = self.violation() {
            panic!("{violation}\n{}", self.ladder.diagram());
        }
    }

    /// The machine of this label.
    #[must_use]
    pub fn machine(&self, label: &str) -> Option<usize> {
        self.machines.iter().position(|m| m.label == label)
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
            Happening::Arrive {
                to,
                from,
                bytes,
                authentic,
            } => self.arrive((from, to), bytes, authentic),
            Happening::Timer { machine, token } => self.tick(machine, token),
            Happening::Shell { machine } => {
                self.look_after(machine);
                self.push(SHELL, Happening::Shell { machine });
            }
            Happening::ToServer {
                machine,
                connection,
                asked,
            } => self.serve(machine, connection, asked),
            Happening::FromServer {
                machine,
                incarnation,
                connection,
                told,
            } => {
                let m = &self.machines[machine];
                if m.incarnation == incarnation && (connection == 0 || m.broken != connection) {
                    self.hear(machine, connection, told);
                }
            }
            Happening::Boot { machine, boots } => {
                let m = &self.machines[machine];
                if m.boots == boots && m.power == Power::On && m.daemon.is_none() {
                    self.start(machine);
                }
            }
            Happening::Beat => {
                let words = self.server.beat(self.now);
                self.say(words);
                self.push(BEAT, Happening::Beat);
            }
            Happening::Inspect => {
                self.inspect();
                self.push(INSPECT, Happening::Inspect);
            }
        }
    }

    fn tick(&mut self, machine: usize, token: u64) {
        if self.machines[machine].timer != token {
            return;
        }
        self.machines[machine].timer_at = None;
        let again = self.spinning.0 == self.now && self.spinning.1 == machine;
        self.spinning = (self.now, machine, if again { self.spinning.2 + 1 } else { 0 });
        if self.spinning.2 > 100 {
            let what = format!("{} wants to be woken again and again", self.machines[machine].label);
            return self.breach(Breach::new(Promise::Progress, what));
        }
        let at = self.local(machine);
        let out = match &mut self.machines[machine].daemon {
            Some(Daemon::Running(running)) => running.timeout(at),
            Some(Daemon::Visiting(visiting)) => visiting.timeout(at),
            None => return,
        };
        self.carry_out(machine, out);
    }

    /// What a machine's running time shows.
    fn local(&self, machine: usize) -> Instant {
        self.machines[machine].clock.boot(self.now)
    }

    /// Stores what is to be stored, sends what is to be sent, and judges what came out.
    fn carry_out(&mut self, machine: usize, out: Output) {
        self.keep(machine, &out);
        for (to, bytes) in out.control {
            self.leave(machine, to, bytes, true);
        }
        for (to, bytes) in out.packets {
            self.leave(machine, to, bytes, false);
        }
        for packet in &out.inside {
            self.inside(machine, packet);
        }
        for event in out.events {
            self.heed(machine, &event);
        }
        self.keep_books(machine);
        self.set_timer(machine);
    }

    fn keep(&mut self, machine: usize, out: &Output) {
        let now = self.now;
        let m = &mut self.machines[machine];
        let Some(Daemon::Running(running)) = &mut m.daemon else {
            return;
        };
        let (key, enrolment) = (*running.node.static_key(), running.enrolment);
        // After a fork its key is another, under which nothing is kept.
        let forked = running.forked;
        let mut recorded = Ok(());
        for record in out.persists.iter().filter(|_| !forked) {
            if recorded.is_ok() {
                recorded = self.handshakes.recorded(machine, enrolment, record);
            }
            m.disk.journals.entry(key).or_default().kept.keep(record);
            if let coterie_proto::Persist::Revocations(list) = record {
                m.disk.keep_revocations(list);
                m.refusals.push((list.revision, now));
            }
        }
        if let Some(door) = &mut running.door {
            while let Some(record) = door.poll_record() {
                m.disk.journals.entry(key).or_default().remember(record);
            }
        }
        self.check(recorded);
    }

    fn keep_books(&mut self, machine: usize) {
        let m = &self.machines[machine];
        let Some(running) = m.running() else { return };
        let kept = house::balance(&running.node, running.given, running.sealed)
            .and_then(|()| house::bounds(&running.node.held(), running.node.waiting()));
        if let Err(breach) = kept {
            let what = format!("{}: {}", m.label, breach.what);
            self.breach(Breach { what, ..breach });
        }
    }

    fn set_timer(&mut self, machine: usize) {
        let now = self.now;
        let m = &mut self.machines[machine];
        let wanted = m.daemon.as_ref().and_then(Daemon::due);
        let moment = wanted.and_then(|at| m.clock.when(at, now));
        if moment == m.timer_at {
            return;
        }
        m.timer += 1;
        m.timer_at = moment;
        let token = m.timer;
        if let Some(moment) = moment {
            self.push(moment.since(now), Happening::Timer { machine, token });
        }
    }

    /// A datagram leaves a machine.
    fn leave(&mut self, machine: usize, to: SocketAddr, bytes: Vec<u8>, control: bool) {
        self.count("datagrams", 1);
        let from = self.machines[machine].address;
        let owner = self.owners.get(&to).copied();
        if bytes.first() == Some(&coterie_proto::wire::datagram::QUESTION) {
            self.questions += 1;
        }
        if self.machines[machine].running().is_some_and(|running| running.forked) {
            let what = format!(
                "{} sent something after it noticed that it was copied",
                self.machines[machine].label
            );
            self.breach(Breach::new(Promise::Fork, what));
        }
        let passed = self
            .wire_check
            .leaves(owner.unwrap_or(usize::MAX), &bytes, control, false);
        self.check(passed);
        let Some(owner) = owner else { return };
        self.captured.push_back((from, to, bytes.clone()));
        if self.captured.len() > CAPTURED {
            self.captured.pop_front();
        }
        let flights = self.link.carry(machine, owner, &bytes);
        if flights.is_empty() {
            let (one, other) = (&self.machines[machine].label, &self.machines[owner].label);
            self.ladder.datagram(self.now, one, other, &bytes, "lost");
        }
        for flight in flights {
            let authentic = !flight.damaged;
            let bytes = flight.bytes;
            self.push(
                flight.after,
                Happening::Arrive {
                    to,
                    from,
                    bytes,
                    authentic,
                },
            );
        }
    }

    fn arrive(&mut self, (from, to): (SocketAddr, SocketAddr), bytes: Vec<u8>, authentic: bool) {
        let Some(machine) = self.owners.get(&to).copied() else {
            return;
        };
        let sender = self
            .owners
            .get(&from)
            .map_or("stranger", |o| self.machines[*o].label.as_str());
        let at = self.local(machine);
        let m = &self.machines[machine];
        if m.address != to || m.daemon.is_none() {
            self.ladder.datagram(self.now, sender, &m.label, &bytes, "nobody there");
            return;
        }
        self.ladder.datagram(self.now, sender, &m.label, &bytes, "");
        match &mut self.machines[machine].daemon {
            Some(Daemon::Running(running)) => {
                let enrolment = running.enrolment;
                let kind = bytes.first().copied().unwrap_or(0);
                let out = running.outside(bytes.clone(), from, at);
                let handled = out.outcome == Some(Outcome::Handled);
                use coterie_proto::wire::datagram::{INITIATION, QUESTION};
                if handled && authentic && matches!(kind, INITIATION | QUESTION) {
                    let took = self.handshakes.took(machine, enrolment, &bytes);
                    self.check(took);
                }
                self.carry_out(machine, out);
                self.take_visitors(machine);
            }
            Some(Daemon::Visiting(visiting)) => {
                let (out, answer) = visiting.outside(bytes, at);
                self.carry_out(machine, out);
                if let Some(answer) = answer {
                    self.take_reply(machine, &answer);
                }
            }
            None => {}
        }
    }

    /// Carries a commit to everybody: history, then those who follow.
    fn committed<T>(&mut self, result: Result<Committed<T>, NotDone>, tokens: bool) -> Result<T, NotDone> {
        if self.server.store.revision != self.newest {
            self.newest = self.server.store.revision;
            self.observe();
        }
        match result {
            Ok(Committed { value, changes }) => {
                let words = self.server.tell(&changes, tokens, self.now);
                self.say(words);
                Ok(value)
            }
            Err(NotDone::Died) => {
                self.note_server("died");
                self.count("kills of the server", 1);
                self.hang_up();
                Err(NotDone::Died)
            }
            Err(other) => Err(other),
        }
    }

    /// What was committed is history from here on.
    fn observe(&mut self) {
        let (now, revision) = (self.now, self.server.store.revision);
        let read = self.server.live.is_none().then(|| self.server.store.read());
        let live = self.server.live.as_ref().map(|live| &live.enclave);
        let Some(enclave) = live.or_else(|| read.as_ref().and_then(Option::as_ref)) else {
            return self.breach(Breach::new(Promise::Durable, "what was committed cannot be read"));
        };
        self.truth.observe(enclave, revision, now);
        let members = enclave
            .members()
            .map(|(name, member)| (name.clone(), member.addresses.clone()));
        self.roster = members.collect();
        for community in enclave.file().communities.keys() {
            if let Some(tag) = enclave.tag(community) {
                self.tags.insert(tag, community.clone());
            }
        }
    }

    fn note(&mut self, machine: usize, what: &str) {
        self.ladder.note(self.now, &self.machines[machine].label, what);
    }

    fn note_server(&mut self, what: &str) {
        self.ladder.note(self.now, "server", what);
    }

    fn count(&mut self, what: &'static str, by: u64) {
        *self.totals.numbers.entry(what).or_insert(0) += by;
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

/// What people read of an event.
fn describe(event: &Event) -> String {
    match event {
        Event::SessionUp { peer, epoch, .. } => format!("session with {peer} up, epoch {epoch}"),
        Event::SessionDown(peer) => format!("session down with {peer}"),
        Event::NoAnswer(peer) => format!("no answer from {peer}"),
        Event::Moved(peer, to) => format!("{peer} moved to {to}"),
        Event::Pong(_) => "pong".into(),
        Event::Alarm(alarm) => format!("alarm {alarm:?}"),
    }
}
