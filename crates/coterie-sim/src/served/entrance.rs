//! How a machine becomes a member: with a token, through a door or by the server itself, or by a person's hand.

use coterie_control::{
    bundle::{Bundle, Keys, Opened, Request, root_hash},
    enrol::{Application, Sealed, Token, seal},
    file::Facts,
};
use coterie_crypto::{Secret, aead::Suite, dh::PublicKey};
use coterie_model::{Instant, Name, UnixTime};
use coterie_proto::{
    bootstrap::{Rendezvous, Visit, Visitor},
    handshake::payload::Suites,
};

use super::{
    Applied, World,
    machine::{COUNTERS, Daemon, Identity, Power, Visiting, entropy},
};
use crate::check::{Breach, Promise};

impl World {
    /// Starts a machine's daemon from what is on its disk.
    pub(super) fn start(&mut self, machine: usize) {
        let now = self.now;
        let seed = self.rng.next();
        let m = &mut self.machines[machine];
        if m.power != Power::On || m.daemon.is_some() {
            return;
        }
        let boots = m.boots;
        let same_boot = |identity: &Identity| identity.boot.is_none_or(|boot| boot == boots);
        if m.disk.identity.as_ref().is_some_and(same_boot) {
            let Some(out) = m.start_member(now, seed) else {
                self.note(machine, "cannot start: its bundle does not open");
                return;
            };
            self.note(machine, "started");
            self.carry_out(machine, out);
            return;
        }
        if let Some(text) = m.disk.token.clone() {
            self.apply_with(machine, &text);
        }
    }

    /// A machine goes on its way in with a token.
    fn apply_with(&mut self, machine: usize, text: &str) {
        let Ok(token) = Token::parse(text) else { return };
        let (now, at) = (self.now, self.local(machine));
        let mut generator = entropy(self.rng.next());
        let visit_seed = self.rng.next();
        let m = &mut self.machines[machine];
        let keys = Keys::generate(m.name.clone(), &mut *generator);
        let Ok(request) = Request::new(&keys) else { return };
        let facts = Facts {
            name: Some(m.name.to_string()),
            ..Facts::default()
        };
        let ticket = m.disk.ticket.map(Secret::new);
        let application = Application { request, facts, ticket };
        let Ok(sealed) = seal(&token, &keys.static_key(), &application, &mut *generator) else {
            return;
        };
        let public = *keys.static_key().public();
        m.disk.journals.entry(public).or_default().kept.counter = 1 + COUNTERS;
        m.enrolments.push(public);
        let visitor = visit(&token, &keys, &sealed, &[], visit_seed, at);
        let shown = self.machines[machine].disk.ticket.is_some();
        self.applied.insert(
            public,
            Applied {
                machine,
                token: Some(token.id),
                ticket: shown,
            },
        );
        self.machines[machine].daemon = Some(Daemon::Visiting(Box::new(Visiting {
            visitor,
            enrolment: self.machines[machine].enrolments.len() - 1,
            keys,
            sealed,
            token,
            refused: Vec::new(),
            again: now,
        })));
        self.note(machine, "applies");
        self.set_timer(machine);
    }

    /// The server's answer reached the machine that applied.
    pub(super) fn take_reply(&mut self, machine: usize, answer: &[u8]) {
        let (at, wall) = (self.local(machine), self.machines[machine].clock.wall(self.now));
        let m = &mut self.machines[machine];
        let Some(Daemon::Visiting(visiting)) = m.daemon.take() else {
            return;
        };
        m.timer += 1;
        m.timer_at = None;
        let reply = visiting.sealed.open_reply(answer);
        if reply.is_err() {
            self.count("forged answers noticed", 1);
        }
        let Ok(Some(reply)) = reply else {
            return self.try_another_door(machine, *visiting);
        };
        let m = &mut self.machines[machine];
        let text = String::from_utf8_lossy(&reply.bundle).into_owned();
        let bundle = Bundle::parse(text.as_bytes());
        let opened = bundle.and_then(|b| {
            let time = wall.min(last_second(&b));
            b.open(&visiting.keys, Some(visiting.token.root_hash), time, 0)
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let what = format!("{}: the reply is no bundle: {error}", m.label);
                return self.breach(Breach::new(Promise::Token, what));
            }
        };
        let boots = m.boots;
        m.disk.ticket = reply.ticket.map(|ticket| *ticket.expose());
        self.become_member(
            machine,
            &opened,
            text,
            &visiting.keys,
            (visiting.enrolment, Some(boots)),
            at,
        );
        self.count("enrolments", 1);
    }

    /// A refusal is a word without a proof, and one door's word ends nothing while there is another.
    fn try_another_door(&mut self, machine: usize, mut visiting: Visiting) {
        let (at, seed) = (self.local(machine), self.rng.next());
        let door = visiting.visitor.as_ref().map(|visitor| visitor.at().static_key);
        visiting.refused.extend(door);
        let Visiting {
            token,
            keys,
            sealed,
            refused,
            ..
        } = &visiting;
        visiting.visitor = visit(token, keys, sealed, refused, seed, at);
        if visiting.visitor.is_none() {
            return self.note(machine, "refused");
        }
        self.note(machine, "refused, and tries another door");
        self.machines[machine].daemon = Some(Daemon::Visiting(Box::new(visiting)));
        self.set_timer(machine);
    }

    /// A machine has a bundle, and starts with it.
    pub(super) fn become_member(
        &mut self,
        machine: usize,
        opened: &Opened,
        bundle: String,
        keys: &Keys,
        (enrolment, boot): (usize, Option<u64>),
        at: Instant,
    ) {
        let m = &mut self.machines[machine];
        let key = *keys.static_key().public();
        let journal = m.disk.journals.entry(key).or_default();
        journal.serial = opened.serial;
        // What was told before was told to another one.
        m.disk.views.clear();
        m.disk.epochs.clear();
        (m.disk.mark, m.disk.renew) = ((key, 0), false);
        m.disk.root = Some(root_hash(&opened.root));
        m.disk.identity = Some(Identity {
            bundle,
            keys: keys.to_text().to_string(),
            boot,
            enrolment,
        });
        m.disk.keep_directory(opened);
        if let Some(list) = &opened.revocations {
            m.disk.keep_revocations(list);
            m.refusals.push((list.revision, self.now));
        }
        if let Some(head) = opened.head.as_ref().filter(|_| boot.is_some()) {
            m.keep_head(head, at);
        }
        self.start(machine);
    }

    /// A person brings the request of a machine that the file names to the server, and the bundle back; false when the server
    /// is not there or refuses.
    pub(super) fn enrol_by_hand(&mut self, machine: usize) -> bool {
        let at = self.local(machine);
        let mut generator = entropy(self.rng.next());
        let name: Name = self.machines[machine].name.clone();
        let keys = Keys::generate(name, &mut *generator);
        let Ok(request) = Request::new(&keys) else { return false };
        let public = *keys.static_key().public();
        self.applied.insert(
            public,
            Applied {
                machine,
                token: None,
                ticket: false,
            },
        );
        let time = self.server.time(self.now);
        let admitted = self.server.admit(&request, time);
        let Ok(text) = self.committed(admitted, false) else {
            return false;
        };
        let opened =
            Bundle::parse(text.as_bytes()).and_then(|bundle| bundle.open(&keys, None, last_second(&bundle), 0));
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let what = format!("{}: no bundle: {error}", self.machines[machine].label);
                self.breach(Breach::new(Promise::Token, what));
                return false;
            }
        };
        let m = &mut self.machines[machine];
        m.stop();
        m.power = Power::On;
        m.enrolments.push(public);
        m.disk.journals.entry(public).or_default().kept.counter = 1;
        let enrolment = m.enrolments.len() - 1;
        self.note(machine, "enrolled by hand");
        self.become_member(machine, &opened, text, &keys, (enrolment, None), at);
        true
    }
}

/// The last second in which a bundle is valid, as it says: whoever is late opens it all the same, and is closed by its clock.
pub(super) fn last_second(bundle: &Bundle) -> UnixTime {
    UnixTime(bundle.claimed_not_after().0.saturating_sub(1))
}

/// A visit to the doors that have not refused; `None` when there is none.
fn visit(
    token: &Token,
    keys: &Keys,
    sealed: &Sealed,
    refused: &[PublicKey],
    seed: u64,
    at: Instant,
) -> Option<Visitor> {
    let doors = token.doors.iter().filter(|door| !refused.contains(&door.static_key));
    let rendezvous: Vec<Rendezvous> = doors
        .map(|door| Rendezvous {
            endpoint: door.endpoint,
            static_key: door.static_key,
            knock: token.knock_key(&door.static_key),
        })
        .collect();
    if rendezvous.is_empty() {
        return None;
    }
    let visit = Visit {
        keys: keys.static_key(),
        rendezvous,
        suites: (Suites::new(&Suite::ALL)?, Suite::Aes256Gcm),
        request: sealed.bytes.clone(),
        // Above every call of the visits before.
        counter: 1 + 256 * u64::try_from(refused.len()).unwrap_or(0),
    };
    Some(Visitor::new(visit, entropy(seed), at))
}
