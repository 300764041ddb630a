//! Between a machine and the server: the daemon's side of the connection, and the door's post.

use std::net::SocketAddr;
use std::time::Duration;

use coterie_control::bundle::{Bundle, Keys, Opened, Request, root_hash};
use coterie_model::{Revision, Serial};
use coterie_proto::bootstrap::{Door, Knock};

use super::{
    Happening, World,
    entrance::last_second,
    feed::{Follow, Words},
    follower::{self, Effect, Fixed, Link, SILENCE},
    machine::{CARRY, Carried, Daemon, Hostility, entropy},
    server::NotDone,
};
use crate::{
    check::{Breach, Promise},
    host::Output,
};

/// How long a direct application waits for its reply.
const DIRECT: Duration = Duration::from_secs(3);
/// How long a daemon that is no member waits before it asks again.
const STRANGER: Duration = Duration::from_secs(10);

/// The ways of a connection, each in order.
const FEED: usize = 0;
const TO_SERVER: usize = 1;
const ANSWERS: usize = 2;

/// What a machine asks the server.
pub(super) enum Asked {
    /// To be told what changes.
    Follow {
        /// The last change that it was told.
        mark: Revision,
        /// The serial of its bundle.
        serial: Serial,
    },
    /// A new bundle.
    Bundle(String),
    /// To be let in, itself or a visitor.
    Enrol {
        /// The visit, at a door.
        visit: Option<u32>,
        /// Where the machine is.
        source: SocketAddr,
        /// The application.
        bytes: Vec<u8>,
    },
    /// Its machine stops for good.
    Bye,
}

/// What the server says.
pub(super) enum Told {
    /// A message of the stream.
    Message(Vec<u8>),
    /// A bundle, or none.
    Bundle(Result<String, String>),
    /// The reply to an application.
    Reply {
        /// The visit, at a door.
        visit: Option<u32>,
        /// The reply.
        bytes: Vec<u8>,
    },
    /// The connection is over.
    Closed,
    /// The machine is no member.
    Stranger,
}

impl World {
    /// The daemon looks after its connection, its lease and its visitors.
    pub(super) fn look_after(&mut self, machine: usize) {
        match &self.machines[machine].daemon {
            Some(Daemon::Running(running)) if !running.forked => {
                self.look_after_link(machine);
                self.look_after_bundle(machine);
                self.take_visitors(machine);
                self.send_post(machine);
            }
            Some(Daemon::Visiting(visiting)) if visiting.visitor.is_none() && visiting.again <= self.now => {
                let (source, bytes) = (self.machines[machine].address, visiting.sealed.bytes.clone());
                if let Some(Daemon::Visiting(visiting)) = &mut self.machines[machine].daemon {
                    visiting.again = self.now + DIRECT;
                }
                let visit = None;
                self.ask_server(machine, 0, Asked::Enrol { visit, source, bytes });
            }
            Some(Daemon::Running(_) | Daemon::Visiting(_)) | None => {}
        }
    }

    fn look_after_link(&mut self, machine: usize) {
        let now = self.now;
        let (connections, rng) = (&mut self.connections, &mut self.rng);
        let Some(running) = self.machines[machine].running_mut() else {
            return;
        };
        let follower = &mut running.follower;
        match follower.link {
            Link::Down { again, tries } if again <= now => {
                *connections += 1;
                let connection = *connections;
                follower.link = Link::Up {
                    connection,
                    heard: now,
                    tries,
                    since: None,
                };
                let (mark, serial) = (follower.mark, follower.serial);
                self.ask_server(machine, connection, Asked::Follow { mark, serial });
            }
            Link::Up { heard, .. } if now.since(heard) >= SILENCE => follower.lose(now, rng),
            Link::Down { .. } | Link::Up { .. } => {}
        }
    }

    fn look_after_bundle(&mut self, machine: usize) {
        let (now, at) = (self.now, self.local(machine));
        let rng = &mut self.rng;
        let Some(running) = self.machines[machine].running_mut() else {
            return;
        };
        let time = running.node.time(at);
        if !running.follower.should_ask(time, now, rng) {
            return;
        }
        let keys = running.keys.for_delivery(&mut *entropy(rng.next()));
        let Ok(request) = Request::new(&keys) else { return };
        running.follower.ask(keys, now);
        let Some(connection) = running.follower.connection() else {
            return;
        };
        self.ask_server(machine, connection, Asked::Bundle(request.to_text()));
    }

    /// What visitors brought to the door of a machine.
    pub(super) fn take_visitors(&mut self, machine: usize) {
        let now = self.now;
        let m = &mut self.machines[machine];
        let hostile = m.hostile;
        let Some(Daemon::Running(running)) = &mut m.daemon else {
            return;
        };
        let Some(door) = &mut running.door else { return };
        let mut brought = Vec::new();
        while let Some(request) = door.poll_request() {
            brought.push(request);
        }
        for request in brought {
            m.captured.push((request.from, request.bytes.clone()));
            let mut carried = Carried {
                visit: request.visit,
                source: request.from,
                bytes: request.bytes,
                sent: None,
                until: now + CARRY,
            };
            match hostile {
                Some(Hostility::Drop) => continue,
                Some(Hostility::Forge) => {
                    let at = carried.bytes.len() / 2;
                    carried.bytes[at] ^= 1;
                }
                Some(Hostility::Replay) | None => {}
            }
            running.carried.push(carried);
        }
        self.send_post(machine);
    }

    /// Applications go on to the server, again where the connection that they went by is over.
    fn send_post(&mut self, machine: usize) {
        let now = self.now;
        let Some(running) = self.machines[machine].running_mut() else {
            return;
        };
        running.carried.retain(|carried| carried.until > now);
        let Some(connection) = running
            .follower
            .connection()
            .filter(|_| running.follower.flows_since().is_some())
        else {
            return;
        };
        let mut out = Vec::new();
        for carried in running
            .carried
            .iter_mut()
            .filter(|carried| carried.sent != Some(connection))
        {
            carried.sent = Some(connection);
            out.push((Some(carried.visit), carried.source, carried.bytes.clone()));
        }
        for (visit, source, bytes) in out {
            self.ask_server(machine, connection, Asked::Enrol { visit, source, bytes });
        }
    }

    /// Something is sent to the server; what is sent to nobody breaks the connection.
    pub(super) fn ask_server(&mut self, machine: usize, connection: u64, asked: Asked) {
        if !self.passes(machine, connection) {
            return;
        }
        let after = self.delay(machine, TO_SERVER);
        self.push(
            after,
            Happening::ToServer {
                machine,
                connection,
                asked,
            },
        );
    }

    pub(super) fn tell_machine(&mut self, machine: usize, connection: u64, told: Told) {
        if !self.passes(machine, connection) {
            return;
        }
        // Answers are streams of their own: they pass what the feed says, and are passed.
        let way = match &told {
            Told::Message(_) | Told::Closed | Told::Stranger => FEED,
            Told::Bundle(_) | Told::Reply { .. } => ANSWERS,
        };
        let after = self.delay(machine, way);
        let incarnation = self.machines[machine].incarnation;
        self.push(
            after,
            Happening::FromServer {
                machine,
                incarnation,
                connection,
                told,
            },
        );
    }

    fn passes(&mut self, machine: usize, connection: u64) -> bool {
        let m = &mut self.machines[machine];
        if m.cut && connection != 0 {
            m.broken = connection;
        }
        !m.cut && (connection == 0 || m.broken != connection)
    }

    /// How long something is under way: nothing overtakes what was sent before on the same way.
    fn delay(&mut self, machine: usize, way: usize) -> Duration {
        let most = if way == ANSWERS && self.rng.chance(100) {
            500
        } else {
            30
        };
        let wait = self.rng.between(Duration::from_millis(1), Duration::from_millis(most));
        let order = &mut self.machines[machine].order[way];
        let at = (self.now + wait).max(*order);
        *order = at;
        at.since(self.now)
    }

    /// Words of the feed go out.
    pub(super) fn say(&mut self, words: Vec<Words>) {
        for Words {
            machine,
            connection,
            messages,
            ends,
        } in words
        {
            for message in messages {
                self.tell_machine(machine, connection, Told::Message(message));
            }
            if ends {
                self.tell_machine(machine, connection, Told::Stranger);
            }
        }
    }

    /// The server is gone: whoever is connected notices, unless nothing passes.
    pub(super) fn hang_up(&mut self) {
        for machine in 0..self.machines.len() {
            let connection = self.machines[machine]
                .running()
                .and_then(|running| running.follower.connection());
            if let Some(connection) = connection {
                self.tell_machine(machine, connection, Told::Closed);
            }
        }
    }

    /// A request reaches the server.
    pub(super) fn serve(&mut self, machine: usize, connection: u64, asked: Asked) {
        if connection != 0 && self.machines[machine].broken == connection {
            return;
        }
        if self.server.live.is_none() {
            self.tell_machine(machine, connection, Told::Closed);
            return;
        }
        match asked {
            Asked::Follow { mark, serial } => self.seat(machine, connection, Follow { mark, serial }),
            Asked::Bundle(text) => self.renew(machine, connection, &text),
            Asked::Enrol { visit, source, bytes } => {
                match self.enrol(&bytes, source) {
                    Ok(reply) => self.tell_machine(machine, connection, Told::Reply { visit, bytes: reply }),
                    // Who asked is not told that the server died over it.
                    Err(NotDone::Died | NotDone::Down) => {}
                    Err(NotDone::Refused(reason)) => {
                        self.note_server(&format!("refuses an application: {reason}"));
                        self.count("applications refused", 1);
                        let bytes = coterie_control::enrol::REFUSED.to_vec();
                        self.tell_machine(machine, connection, Told::Reply { visit, bytes });
                    }
                }
            }
            Asked::Bye => {
                let key = self.machines[machine].enrolments.last().copied();
                let name = self.machines[machine].name.clone();
                let is_member = self
                    .server
                    .live
                    .as_ref()
                    .and_then(|live| live.enclave.static_key(&name))
                    .copied();
                if key.is_some() && is_member == key {
                    let _ended = self.end(&[name]);
                }
            }
        }
    }

    fn seat(&mut self, machine: usize, connection: u64, follow: Follow) {
        let Some(key) = self.machines[machine].key() else {
            return;
        };
        let name = self.machines[machine].name.clone();
        match self
            .server
            .follow((machine, connection), (&name, &key), follow, self.now)
        {
            Some(words) => self.say(vec![words]),
            None => self.tell_machine(machine, connection, Told::Stranger),
        }
    }

    fn renew(&mut self, machine: usize, connection: u64, text: &str) {
        let Ok(request) = Request::parse(text.as_bytes()) else {
            return;
        };
        let time = self.server.time(self.now);
        let renewed = self.server.renew(&request, time);
        let answer = match self.committed(renewed, false) {
            Ok(bundle) => {
                self.count("renewals", 1);
                Ok(bundle)
            }
            Err(NotDone::Refused(reason)) => Err(reason),
            Err(NotDone::Died | NotDone::Down) => return,
        };
        self.tell_machine(machine, connection, Told::Bundle(answer));
    }

    /// Something of the server reaches a machine.
    pub(super) fn hear(&mut self, machine: usize, connection: u64, told: Told) {
        let (now, rng) = (self.now, &mut self.rng);
        if let Told::Reply { visit: None, bytes } = &told {
            let direct = matches!(&self.machines[machine].daemon, Some(Daemon::Visiting(v)) if v.visitor.is_none());
            if direct {
                let bytes = bytes.clone();
                self.take_reply(machine, &bytes);
            }
            return;
        }
        let Some(running) = self.machines[machine].running_mut() else {
            return;
        };
        if running.forked || running.follower.connection() != Some(connection) {
            return;
        }
        match told {
            Told::Message(framed) => {
                running.follower.hear(now);
                self.learn(machine, &framed[4..]);
            }
            Told::Bundle(answer) => self.take_bundle(machine, answer),
            Told::Reply { visit, bytes } => self.answer_visit(machine, visit, bytes),
            Told::Closed => running.follower.lose(now, rng),
            Told::Stranger => {
                running.follower.lose(now, rng);
                running.follower.link = Link::Down {
                    again: now + STRANGER,
                    tries: 0,
                };
            }
        }
    }

    /// A message of the stream.
    fn learn(&mut self, machine: usize, body: &[u8]) {
        let (now, at) = (self.now, self.local(machine));
        let rng = &mut self.rng;
        let m = &mut self.machines[machine];
        let known = m.disk.known();
        let Some(Daemon::Running(running)) = &mut m.daemon else {
            return;
        };
        let before = running.follower.mark;
        match running.follower.take(body, known, now, rng) {
            Effect::Update(mut update, head) => {
                match self.sabotage {
                    Some(super::Sabotage::HideRefusals) => (update.revocations, update.head) = (None, None),
                    Some(super::Sabotage::HideViews) => update.views.clear(),
                    Some(_) | None => {}
                }
                update.views.iter().for_each(|piece| m.disk.keep_view(piece));
                let out = running.learn(*update, at);
                if let Some(head) = head {
                    m.keep_head(&head, at);
                }
                self.carry_out(machine, out);
            }
            Effect::Epochs(tag, epochs) => {
                let missing = epochs.iter().any(|epoch| !running.follower.holds(tag, epoch.epoch));
                m.disk.epochs.insert(tag, epochs.clone());
                running.node.handle_epochs(tag, epochs, at);
                let out = running.drain(Output::default());
                self.count("epochs without a key", u64::from(missing));
                self.carry_out(machine, out);
            }
            Effect::Knocks(knocks) => {
                let key = *running.node.static_key();
                if running.door.is_none() {
                    let callers = m.disk.journals.entry(key).or_default().callers();
                    let fixed = running.follower.fixed;
                    let generator = entropy(rng.next());
                    running.door = Some(Door::new(running.keys.static_key(), fixed.suites, callers, generator));
                }
                let knocks = knocks.into_iter().map(|knock| Knock {
                    key: knock.key,
                    not_after: knock.not_after,
                });
                if let Some(door) = &mut running.door {
                    door.handle_knocks(knocks.collect());
                }
                self.carry_out(machine, Output::default());
            }
            Effect::Nothing => {
                let mark = running.follower.mark;
                m.disk.renew |= running.follower.wants.is_some();
                if mark != before {
                    m.marks.push((mark, now));
                    m.disk.mark = (*running.node.static_key(), mark);
                }
                if mark < before && self.set_back.is_none() {
                    let what = format!("{} was told revision {mark} after {before}", m.label);
                    self.breach(Breach::new(Promise::Order, what));
                }
            }
            Effect::Bad => {
                let what = format!("{} was told what does not check", m.label);
                self.breach(Breach::new(Promise::Alarm, what));
            }
        }
    }

    /// A new bundle came, or none.
    fn take_bundle(&mut self, machine: usize, answer: Result<String, String>) {
        let (now, at) = (self.now, self.local(machine));
        let rng = &mut self.rng;
        let m = &mut self.machines[machine];
        let Some(Daemon::Running(running)) = &mut m.daemon else {
            return;
        };
        let Some(asked) = running.follower.asked.take() else {
            return;
        };
        let text = match answer {
            Ok(text) => text,
            Err(reason) => {
                running.follower.wants = Some(now + STRANGER);
                return self.note(machine, &format!("gets no bundle: {reason}"));
            }
        };
        if asked.overtaken {
            // Something changed while it was under way: the next one knows that.
            running.follower.want(now, rng);
        }
        m.disk.renew = asked.overtaken;
        let key = *running.node.static_key();
        let floor = m.disk.journals.get(&key).map_or(0, |journal| journal.serial);
        let opened = Bundle::parse(text.as_bytes())
            .and_then(|bundle| bundle.open(&asked.keys, m.disk.root, last_second(&bundle), floor));
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let what = format!("{} cannot take its new bundle: {error}", m.label);
                return self.breach(Breach::new(Promise::Order, what));
            }
        };
        if let Some(identity) = &mut m.disk.identity {
            identity.bundle = text;
            identity.keys = asked.keys.to_text().to_string();
        }
        m.disk.journals.entry(key).or_default().serial = opened.serial;
        m.disk.root = Some(root_hash(&opened.root));
        self.note(machine, &format!("has bundle {}", opened.serial));
        self.put_in_force(machine, &opened, asked.keys, at);
    }

    /// A bundle is in force: the core learns it, or another core takes over.
    fn put_in_force(&mut self, machine: usize, opened: &Opened, keys: Keys, at: coterie_model::Instant) {
        let seed = self.rng.next();
        let m = &mut self.machines[machine];
        m.disk.keep_directory(opened);
        let Some(Daemon::Running(running)) = &mut m.daemon else {
            return;
        };
        let fixed = Fixed::of(&opened.template);
        let same = running.follower.fixed == fixed;
        running.follower.note(opened);
        running.keys = keys;
        if same {
            let out = running.learn(follower::renewal(opened), at);
            self.carry_out(machine, out);
            return;
        }
        self.note(machine, "the bundle changes what a running core cannot");
        let m = &mut self.machines[machine];
        let Some(Daemon::Running(running)) = &mut m.daemon else {
            return;
        };
        running.node.shut_down();
        let out = running.drain(Output::default());
        self.carry_out(machine, out);
        let m = &mut self.machines[machine];
        let Some(Daemon::Running(running)) = &mut m.daemon else {
            return;
        };
        let time = running.node.time(at);
        let config = m.disk.config(opened, &running.keys, Some(time));
        running.node = coterie_proto::Node::new(config, entropy(seed), at);
        m.disk.tell_later(opened, &mut running.node, at);
        (running.given, running.sealed) = (0, 0);
        // It is told everything anew.
        running.follower.mark = 0;
        m.disk.mark.1 = 0;
        running.follower.lose(self.now, &mut self.rng);
        let out = running.drain(Output::default());
        self.carry_out(machine, out);
    }

    /// The server's answer to what a visitor brought.
    fn answer_visit(&mut self, machine: usize, visit: Option<u32>, mut bytes: Vec<u8>) {
        let at = self.local(machine);
        let m = &mut self.machines[machine];
        let Some(Daemon::Running(running)) = &mut m.daemon else {
            return;
        };
        let Some(visit) = visit else { return };
        if !running.carried.iter().any(|carried| carried.visit == visit) {
            // Applied on its own account: nobody waits.
            m.answers.push(bytes);
            return;
        }
        running.carried.retain(|carried| carried.visit != visit);
        match m.hostile {
            Some(Hostility::Replay) => bytes = m.answers.first().cloned().unwrap_or(bytes),
            Some(Hostility::Forge) => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            Some(Hostility::Drop) => return,
            None => m.answers.push(bytes.clone()),
        }
        if let Some(door) = &mut running.door {
            door.answer(visit, bytes, at);
        }
        let out = running.drain(Output::default());
        self.carry_out(machine, out);
    }
}
