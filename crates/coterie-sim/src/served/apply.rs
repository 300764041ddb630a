//! Carrying out transitions of an enclave with a server.

use std::time::Duration;

use coterie_control::{
    bundle::Keys,
    enrol::{Application, Token, seal},
    file::Facts,
    issue::Roll,
};
use coterie_model::{Name, UnixTime};

use super::{
    Happening, MachineLayout, Sabotage, World,
    action::{Edit, Transition},
    follower::Link,
    machine::{Daemon, Hostility, Power, entropy},
    server::Crash,
    shell::Asked,
};
use crate::{
    check::{Breach, Promise},
    link::Faults,
};

/// Most machines of a world.
const MAX_MACHINES: usize = 16;
/// How far the server's clock may be ahead, in seconds.
const FARTHEST: i64 = 2000;
/// How far it may be set back: for so long the enclave's time stands, while leases run.
const STANDS: i64 = 100;

impl World {
    /// Carries out a transition; false when there was nothing to carry out.
    pub fn apply(&mut self, transition: &Transition) -> bool {
        let took_place = self.carry_through(transition);
        if took_place {
            *self.totals.transitions.entry(transition.kind()).or_insert(0) += 1;
        }
        took_place
    }

    fn carry_through(&mut self, transition: &Transition) -> bool {
        match *transition {
            Transition::CreateToken {
                machine,
                uses,
                lasts,
                direct,
            } => self.give_token(machine, uses, lasts, (direct, false)),
            Transition::Enrol { machine } => self.is_new(machine) && self.switch_on(machine),
            Transition::EnrolSpent { machine, other } => self.enrol_spent(machine, other),
            Transition::EnrolByHand { machine } => {
                let m = &self.machines[machine];
                self.site.members.contains_key(m.name.as_str()) && m.power != Power::Gone && self.enrol_by_hand(machine)
            }
            Transition::HostileDoor { machine, does } => self.turn(machine, does),
            Transition::DoorAttacks { machine } => self.attack(machine),
            Transition::TakeOver { machine } => self.take_over(machine),
            Transition::RebootWithToken { machine } => {
                let is_on = self.machines[machine].power == Power::On && self.machines[machine].disk.token.is_some();
                is_on && self.give_token(machine, 1, Duration::from_secs(300), (false, true)) && self.reboot(machine)
            }
            Transition::Reboot { machine } => self.machines[machine].power == Power::On && self.reboot(machine),
            Transition::Clone { machine } => self.clone_disk(machine),
            Transition::Isolate { machine } => {
                let name = self.machines[machine].name.clone();
                self.deed(|enclave, now, _| enclave.isolate(&name, now)).is_ok()
            }
            Transition::Release { machine } => self.release(machine),
            Transition::Revoke { machine } => {
                let name = self.machines[machine].name.clone();
                self.leaves_some(1) && self.revoke(&[name]).is_ok()
            }
            Transition::Leave { machine } => self.leave_for_good(machine),
            Transition::End { machine } => {
                let name = self.machines[machine].name.clone();
                self.leaves_some(1) && self.end(&[name]).is_ok()
            }
            Transition::EndMany { ref machines } => self.end_many(machines),
            Transition::RollScheduled { ref community, ahead } => {
                self.roll(community, Roll::Scheduled { activates_in: ahead })
            }
            Transition::RollRemoval { ref community } => self.roll(community, Roll::Removal),
            Transition::MoveMember { ref edit }
            | Transition::AddCommunity { ref edit }
            | Transition::RemoveCommunity { ref edit }
            | Transition::ChangeTemplate { ref edit } => self.edit(edit),
            Transition::Renew { machine } => self.want_bundle(machine),
            Transition::ServerDown => self.stop_server(),
            Transition::ServerUp => self.start_server(),
            Transition::KillBeforeCommit => self.kill_server(Crash::BeforeCommit),
            Transition::KillAfterCommit => self.kill_server(Crash::AfterCommit),
            Transition::ServerClock { by } => self.set_server_clock(by),
            Transition::Backup => self.back_up(),
            Transition::Restore => self.restore(),
            Transition::RotateRoot => self.rotate_root(),
            Transition::PruneLog => self.prune_log(),
            Transition::BreakStream { machine } => self.break_stream(machine),
            Transition::Lag { machine } => self.lag(machine),
            Transition::CutServer { machine } => self.cut_server(machine),
            Transition::KillNode { machine } => self.stop_node(machine, Duration::from_millis(100)),
            Transition::StopNode { machine, lasts } => self.stop_node(machine, lasts),
            Transition::Fork { machine } => self.fork(machine),
            Transition::Faults {
                loss,
                duplicate,
                reorder,
                corrupt,
            } => self.spoil_wire(Faults {
                loss,
                duplicate,
                reorder,
                corrupt,
                ..Faults::NONE
            }),
            Transition::Partition { a, b, one_way } => self.partition(a, b, one_way),
            Transition::Heal => self.heal(),
            Transition::ClockLeap { machine, by } => self.leap(machine, by),
            Transition::Traffic { from, to, count } => (0..count).filter(|_| self.send(from, to).is_some()).count() > 0,
            Transition::Query { from, to } => self.query(from, to),
            Transition::ReplayDatagrams { count } => self.replay(count),
        }
    }

    /// It was never a member.
    fn is_new(&self, machine: usize) -> bool {
        let m = &self.machines[machine];
        m.power == Power::Off && m.disk.token.is_some() && m.disk.identity.is_none()
    }

    fn enrol_spent(&mut self, machine: usize, other: usize) -> bool {
        let token = self.machines[other].disk.token.clone();
        let m = &self.machines[machine];
        let may = m.power == Power::Off && m.disk.identity.is_none() && machine != other;
        let Some(token) = token.filter(|_| may && self.is_spent(other)) else {
            return false;
        };
        self.machines[machine].disk.token = Some(token);
        self.switch_on(machine)
    }

    fn turn(&mut self, machine: usize, does: Hostility) -> bool {
        let is_door = self.machines[machine]
            .running()
            .is_some_and(|running| running.door.is_some());
        if is_door {
            self.machines[machine].hostile = Some(does);
            self.note(machine, &format!("serves another master: {does:?}"));
        }
        is_door
    }

    fn release(&mut self, machine: usize) -> bool {
        let name = self.machines[machine].name.clone();
        let live = self.server.live.as_ref();
        live.is_some_and(|live| live.enclave.is_isolated(&name))
            && self.deed(|enclave, now, _| enclave.release(&name, now)).is_ok()
    }

    fn end_many(&mut self, machines: &[usize]) -> bool {
        let enrolled = self.enrolled_names();
        let mut names: Vec<Name> = machines.iter().map(|m| self.machines[*m].name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| enrolled.contains(name));
        names.len() > 1 && self.leaves_some(names.len()) && self.end(&names).is_ok()
    }

    fn roll(&mut self, community: &str, kind: Roll) -> bool {
        let Ok(community) = Name::new(community) else {
            return false;
        };
        self.deed(|enclave, now, entropy| enclave.roll(&community, kind, now, entropy))
            .is_ok()
    }

    fn edit(&mut self, edit: &Edit) -> bool {
        let before = self.site.clone();
        self.site.change(edit);
        if self.site == before || !self.site.is_whole() {
            self.site = before;
            return false;
        }
        let applied = self.apply_file().is_ok();
        // The server may have died before it committed, or after.
        let committed = self.server.store.read();
        if committed.is_some_and(|enclave| enclave.text() == self.site.text()) {
            self.note_server(&format!("file: {edit:?}"));
        } else {
            self.site = before;
        }
        applied
    }

    fn set_server_clock(&mut self, by: i64) -> bool {
        let offset = self.server.offset + by;
        if offset < self.farthest - STANDS || offset > FARTHEST {
            return false;
        }
        self.server.offset = offset;
        self.farthest = self.farthest.max(offset);
        if by < 0 {
            self.set_back = Some(self.now);
        }
        self.note_server(&format!("its clock is set by {by} s"));
        true
    }

    fn back_up(&mut self) -> bool {
        let backup = (self.server.store.clone(), self.site.clone());
        self.backups.push(backup);
        self.note_server("is backed up");
        true
    }

    fn prune_log(&mut self) -> bool {
        self.server.store.prune(1);
        self.note_server("cuts its log");
        true
    }

    fn want_bundle(&mut self, machine: usize) -> bool {
        let (now, rng) = (self.now, &mut self.rng);
        let running = self.machines[machine].running_mut();
        running.map(|running| running.follower.want(now, rng)).is_some()
    }

    fn break_stream(&mut self, machine: usize) -> bool {
        let (now, rng) = (self.now, &mut self.rng);
        let m = &mut self.machines[machine];
        let Some(Daemon::Running(running)) = &mut m.daemon else {
            return false;
        };
        let Some(connection) = running.follower.connection() else {
            return false;
        };
        m.broken = connection;
        running.follower.lose(now, rng);
        self.note(machine, "its connection breaks");
        true
    }

    fn lag(&mut self, machine: usize) -> bool {
        let live = self.server.live.as_mut();
        let stream = live.and_then(|live| live.streams.get_mut(&machine));
        let lags = stream.map(|stream| stream.lagging = true).is_some();
        if lags {
            self.note(machine, "does not keep up");
        }
        lags
    }

    fn cut_server(&mut self, machine: usize) -> bool {
        let cut = !self.machines[machine].cut;
        self.machines[machine].cut = cut;
        let what = if cut {
            "is cut from the server"
        } else {
            "reaches the server again"
        };
        self.note(machine, what);
        true
    }

    fn leap(&mut self, machine: usize, by: Duration) -> bool {
        let now = self.now;
        self.machines[machine].clock.leap(now, by);
        self.note(machine, &format!("its clock leaps {by:?}"));
        self.set_timer(machine);
        true
    }

    fn spoil_wire(&mut self, faults: Faults) -> bool {
        self.link.faults = faults;
        self.ladder.note(self.now, "server", &format!("wire: {faults:?}"));
        true
    }

    fn partition(&mut self, a: usize, b: usize, one_way: bool) -> bool {
        self.link.cut(a, b, one_way);
        let what = format!("is cut from {}", self.machines[b].label);
        self.note(a, &what);
        a != b
    }

    fn heal(&mut self) -> bool {
        self.link.faults = Faults::NONE;
        self.link.mend();
        self.ladder.note(self.now, "server", "wire: healed");
        true
    }

    fn query(&mut self, from: usize, to: usize) -> bool {
        let before = self.questions;
        let running = self.machines[from].running();
        let alone = running.is_some_and(|running| running.follower.flows_since().is_none());
        alone && self.send(from, to).is_some() && self.questions > before
    }

    /// A few members are always left.
    fn leaves_some(&self, less: usize) -> bool {
        self.enrolled_names().len() > less + 2
    }

    fn is_spent(&self, machine: usize) -> bool {
        let text = self.machines[machine].disk.token.as_deref();
        let token = text.and_then(|text| Token::parse(text).ok());
        let row = token.and_then(|token| self.server.store.book.tokens.get(&token.id));
        row.is_some_and(|row| row.used.len() >= row.uses)
    }

    /// A token is made for a machine, and put on its disk.
    fn give_token(&mut self, machine: usize, uses: usize, lasts: Duration, (direct, for_name): (bool, bool)) -> bool {
        let m = &self.machines[machine];
        if m.power == Power::Gone {
            return false;
        }
        let (name, template) = (m.name.clone(), Name::new(&m.template));
        let Ok(template) = template else { return false };
        let not_after = self.server.time(self.now).plus(lasts);
        let member = for_name.then_some(&name);
        let created = self.server.create_token((&template, member), uses, not_after, direct);
        let Ok((_, text)) = self.committed(created, true) else {
            return false;
        };
        self.machines[machine].disk.token = Some(text);
        self.note(machine, "is given a token");
        true
    }

    fn switch_on(&mut self, machine: usize) -> bool {
        self.machines[machine].power = Power::On;
        self.start(machine);
        true
    }

    /// A machine loses its memory, and what is bound to a boot.
    fn reboot(&mut self, machine: usize) -> bool {
        let m = &mut self.machines[machine];
        m.stop();
        m.boots += 1;
        (m.disk.pulse, m.told) = (None, None);
        let boots = m.boots;
        self.note(machine, "reboots");
        self.push(Duration::from_millis(300), Happening::Boot { machine, boots });
        true
    }

    fn stop_node(&mut self, machine: usize, lasts: Duration) -> bool {
        let m = &mut self.machines[machine];
        if m.daemon.is_none() {
            return false;
        }
        m.stop();
        match self.sabotage {
            Some(Sabotage::ForgetRevocations) => m.disk.revocations = None,
            Some(Sabotage::ForgetTime) => {
                let at = m.clock.boot(self.now);
                m.disk.pulse.iter_mut().for_each(|pulse| pulse.at = at);
            }
            Some(_) | None => {}
        }
        let boots = m.boots;
        self.note(machine, "its daemon is killed");
        self.push(lasts, Happening::Boot { machine, boots });
        true
    }

    fn fork(&mut self, machine: usize) -> bool {
        let m = &mut self.machines[machine];
        let Some(Daemon::Running(running)) = &mut m.daemon else {
            return false;
        };
        if running.forked {
            return false;
        }
        running.node.handle_fork();
        running.door = None;
        running.forked = true;
        let out = running.drain(crate::host::Output::default());
        // What is kept is wiped too: only a new token or a ticket lets it back in.
        m.disk.identity = None;
        self.note(machine, "notices that it was copied");
        self.carry_out(machine, out);
        true
    }

    fn leave_for_good(&mut self, machine: usize) -> bool {
        let m = &mut self.machines[machine];
        let connection = m.running().filter(|r| !r.forked).and_then(|r| r.follower.connection());
        let Some(connection) = connection else { return false };
        if self.site.members.contains_key(m.name.as_str()) || !self.leaves_some(1) {
            return false;
        }
        self.ask_server(machine, connection, Asked::Bye);
        let m = &mut self.machines[machine];
        if let Some(running) = m.running_mut() {
            running.node.shut_down();
            let out = running.drain(crate::host::Output::default());
            self.carry_out(machine, out);
        }
        let m = &mut self.machines[machine];
        m.stop();
        m.power = Power::Off;
        m.disk = super::machine::Disk::default();
        self.note(machine, "leaves for good");
        true
    }

    /// Another machine, made anew from nothing, gets a token for the name.
    fn take_over(&mut self, machine: usize) -> bool {
        let Some(other) = self.another(machine) else {
            return false;
        };
        if !self.give_token(other, 1, Duration::from_secs(300), (false, true)) {
            return false;
        }
        self.switch_on(other)
    }

    /// A copy of a machine's disk boots elsewhere.
    fn clone_disk(&mut self, machine: usize) -> bool {
        if self.machines[machine].disk.token.is_none() || self.machines[machine].disk.identity.is_none() {
            return false;
        }
        let Some(other) = self.another(machine) else {
            return false;
        };
        let disk = self.machines[machine].disk.clone();
        let boots = self.machines[machine].boots;
        let m = &mut self.machines[other];
        m.disk = disk;
        m.disk.pulse = None;
        m.boots = boots + 1;
        self.note(other, "is a copy, and boots");
        self.switch_on(other)
    }

    /// One more machine with a name.
    fn another(&mut self, machine: usize) -> Option<usize> {
        let m = &self.machines[machine];
        let named = self.site.members.contains_key(m.name.as_str());
        if self.machines.len() >= MAX_MACHINES || named || m.power == Power::Gone {
            return None;
        }
        let layout = MachineLayout {
            name: m.name.to_string(),
            template: m.template.clone(),
            boot: Duration::from_secs(self.rng.below(1000)),
            drift: 0,
            wall_error: 0,
        };
        Some(self.add_machine(&layout))
    }

    /// A door uses what it knows: it applies with a token's knock key in the place of its secret, and shows the server again what
    /// it carried.
    fn attack(&mut self, machine: usize) -> bool {
        let mut generator = entropy(self.rng.next());
        let m = &self.machines[machine];
        let Some(running) = m
            .running()
            .filter(|running| m.hostile.is_some() && running.door.is_some())
        else {
            return false;
        };
        let Some(connection) = running.follower.connection() else {
            return false;
        };
        let key = *running.node.static_key();
        let (own, captured) = (m.address, m.captured.clone());
        let stolen = self.server.store.book.tokens.values().next_back().map(|row| {
            let token = row.token();
            let knock = token.knock_key(&key);
            Token::from_parts(
                token.id,
                knock.key,
                (token.enclave, token.root_hash),
                token.server,
                token.not_after,
                token.doors,
                token.servers,
            )
        });
        let forged = stolen.and_then(|token| {
            let keys = Keys::generate(Name::new("mallory").ok()?, &mut *generator);
            let application = Application {
                request: coterie_control::bundle::Request::new(&keys).ok()?,
                facts: Facts::default(),
                ticket: None,
            };
            Some(
                seal(&token, &keys.static_key(), &application, &mut *generator)
                    .ok()?
                    .bytes,
            )
        });
        for (source, bytes) in captured.into_iter().chain(forged.map(|bytes| (own, bytes))) {
            let visit = Some(0);
            self.ask_server(machine, connection, Asked::Enrol { visit, source, bytes });
        }
        self.note(machine, "attacks with what it knows as a door");
        true
    }

    fn stop_server(&mut self) -> bool {
        let Some(live) = self.server.live.take() else {
            return false;
        };
        self.note_server("stops");
        // Everything that it knew was committed.
        let kept = self.server.store.read().map(|enclave| enclave.to_files());
        let whole = kept.is_some_and(|kept| {
            let knew = live.enclave.to_files();
            kept.iter()
                .zip(&knew)
                .all(|(a, b)| a.path == b.path && *a.bytes == *b.bytes)
        });
        if !whole {
            self.breach(Breach::new(
                Promise::Durable,
                "the server knew what it had not committed",
            ));
        }
        self.hang_up();
        true
    }

    pub(super) fn start_server(&mut self) -> bool {
        if self.server.live.is_some() {
            return false;
        }
        let now = self.now;
        if self.sabotage == Some(Sabotage::ForgetCommit)
            && let Some((store, _)) = self.backups.last()
        {
            self.server.store = store.clone();
        }
        if !self.server.start(now) {
            self.breach(Breach::new(
                Promise::Durable,
                "the server cannot read what it committed",
            ));
        }
        self.note_server("starts");
        true
    }

    fn kill_server(&mut self, crash: Crash) -> bool {
        let alive = self.server.live.is_some() && self.server.crash.is_none();
        if alive {
            self.server.crash = Some(crash);
            self.note_server(&format!("will be killed: {crash:?}"));
        }
        alive
    }

    /// The newest backup takes the place of what there is.
    fn restore(&mut self) -> bool {
        let Some((store, site)) = self.backups.last().cloned() else {
            return false;
        };
        self.hang_up();
        // Whoever restores sees that the clock is right: what is given out is told by the time.
        let time = self
            .server
            .time(self.now)
            .max(self.restored.plus(Duration::from_secs(1)));
        self.restored = time;
        (self.server.live, self.server.crash) = (None, None);
        self.server.store = store;
        self.server.store.restore(time);
        self.site = site;
        self.set_back = Some(self.now);
        self.note_server("is restored from its backup");
        self.start_server();
        let recovered = self.deed(|enclave, _, entropy| enclave.recover(time, entropy));
        if let Err(refused) = recovered {
            let what = format!("a restored server does not go on: {refused:?}");
            self.breach(Breach::new(Promise::Durable, what));
        }
        self.forget_lost_members();
        true
    }

    fn rotate_root(&mut self) -> bool {
        let rotated = self
            .deed(|enclave, now, entropy| enclave.rotate_root(now, entropy))
            .is_ok();
        if rotated {
            self.note_server("has a new root");
        }
        rotated
    }

    /// Somebody sends again what passed on the wire.
    fn replay(&mut self, count: u32) -> bool {
        let all = self.captured.len();
        for _ in 0..count {
            let Some((from, to, bytes)) = self.captured.get(self.rng.index(all)).cloned() else {
                return false;
            };
            let wait = self.rng.between(Duration::ZERO, Duration::from_secs(1));
            let authentic = true;
            self.push(
                wait,
                Happening::Arrive {
                    to,
                    from,
                    bytes,
                    authentic,
                },
            );
        }
        all > 0
    }

    /// Everybody who is away from the server tries at once.
    pub(super) fn hurry(&mut self) {
        let now = self.now;
        for machine in &mut self.machines {
            if let Some(running) = machine.running_mut()
                && let Link::Down { again, .. } = &mut running.follower.link
            {
                *again = now;
            }
        }
    }

    /// Protocol time of a machine's core.
    #[must_use]
    pub fn protocol_time(&self, machine: usize) -> Option<UnixTime> {
        let at = self.local(machine);
        Some(self.machines[machine].running()?.node.time(at))
    }
}
