//! Carrying out transitions.

use std::net::SocketAddr;
use std::time::Duration;

use coterie_proto::wire::datagram;

use super::{Arrival, Happening, Sabotage, World};
use crate::{
    check::{Breach, Promise},
    clock::Moment,
    enclave::{Enclave, Knowledge},
    host::{Forked, Host, Input, Power, Stored},
    link::{Faults, Link, damage},
    transition::{Notice, Transition},
};

/// Most instances of machines that a world has.
const MAX_HOSTS: usize = 9;

impl World {
    /// Carries out a transition; false when there was nothing to carry out (the host is down, the member is gone).
    pub fn apply(&mut self, transition: &Transition) -> bool {
        let took_place = self.carry_through(transition);
        if took_place {
            *self.totals.transitions.entry(transition.kind()).or_insert(0) += 1;
        }
        took_place
    }

    fn carry_through(&mut self, transition: &Transition) -> bool {
        match *transition {
            Transition::SendPacket { from, to } => self.is_there(from, to) && self.send(from, to).is_some(),
            Transition::Burst { from, to, count } => {
                self.is_there(from, to) && (0..count).filter(|_| self.send(from, to).is_some()).count() > 0
            }
            Transition::OpenBothWays { a, b } => {
                a < self.hosts.len()
                    && b < self.hosts.len()
                    && self.hosts[a].machine != self.hosts[b].machine
                    && self.send(a, self.hosts[b].machine).is_some()
                    && self.send(b, self.hosts[a].machine).is_some()
            }
            Transition::Loss { permille } => self.change_wire(transition, |l| l.faults.loss = permille),
            Transition::Duplicate { permille } => self.change_wire(transition, |l| l.faults.duplicate = permille),
            Transition::Reorder { permille } => self.change_wire(transition, |l| l.faults.reorder = permille),
            Transition::CorruptDatagrams { permille } => self.change_wire(transition, |l| l.faults.corrupt = permille),
            Transition::Delay { delay, jitter } => {
                self.change_wire(transition, |l| (l.faults.delay, l.faults.jitter) = (delay, jitter))
            }
            Transition::Partition { a, b, one_way } => {
                let hosts = self.hosts.len();
                a != b && a < hosts && b < hosts && self.change_wire(transition, |l| l.cut(a, b, one_way))
            }
            Transition::Isolate { host } => {
                let hosts = self.hosts.len();
                self.change_wire(transition, |l| (0..hosts).for_each(|other| l.cut(host, other, false)))
            }
            Transition::Heal => self.heal(),
            Transition::Crash { host, torn } => self.crash(host, torn),
            Transition::Restart { host } => self.restart(host),
            Transition::ShutDown { host } => self.shut_down(host),
            Transition::ReEnrol { machine } => self.re_enrol(machine),
            Transition::Fork { host, notice } => self.fork(host, notice),
            Transition::Roam { host, told } => self.roam(host, told),
            Transition::ClockLeap { host, by } => self.leap(host, by),
            Transition::WallClock { host, by } => self.hosts.get_mut(host).map(|h| h.clock.set_wall(by)).is_some(),
            Transition::Pause { host, lasts, leaps } => self.pause(host, lasts, leaps),
            Transition::RollEpoch { community, ahead } => {
                community < self.enclave.communities.len()
                    && self.issue(transition, |e, now| e.roll(community, now, ahead))
            }
            Transition::RemovalRoll { community, machine } => {
                community < self.enclave.communities.len()
                    && self.enclave.is_member(community, machine)
                    && self.enclave.members(community).len() > 1
                    && self.issue(transition, |e, now| e.remove(community, machine, now))
            }
            Transition::Revoke { machine } => self.revoke(machine),
            Transition::RenewStatements { machine } => {
                self.may_be_told(machine) && self.issue(transition, |e, now| e.renew(machine, now))
            }
            Transition::AddMember { community, machine } => {
                community < self.enclave.communities.len()
                    && self.may_be_told(machine)
                    && !self.enclave.is_member(community, machine)
                    && self.issue(transition, |e, now| e.add(community, machine, now))
            }
            Transition::ChangeExclusion {
                host,
                ref exclude,
                restart,
            } => self.change_exclusion(host, exclude, restart),
            Transition::LoseUpdates { host } => self.lose_updates(host),
            Transition::StaleUpdate { host } => self.stale_update(host),
            Transition::ReplayOldDatagrams { count, elsewhere } => self.replay(count, elsewhere),
            Transition::InjectGarbage { host, count } => self.garbage(host, count),
        }
    }

    fn leap(&mut self, host: usize, by: Duration) -> bool {
        self.with_up(host, |w| {
            w.note(host, &format!("clock leaps {by:?}"));
            let now = w.now;
            w.hosts[host].clock.leap(now, by);
            w.set_timer(host);
        })
    }

    fn pause(&mut self, host: usize, lasts: Duration, leaps: bool) -> bool {
        self.with_up(host, |w| {
            w.note(host, &format!("suspended for {lasts:?}"));
            let now = w.now;
            let h = &mut w.hosts[host];
            h.clock.stand(now);
            h.power = Power::Paused;
            h.paused_at = now;
            h.timer += 1;
            h.timer_at = None;
            w.push(lasts, Happening::Resume { host, leaps });
        })
    }

    fn lose_updates(&mut self, host: usize) -> bool {
        self.with_up(host, |w| {
            w.hosts[host].deaf = !w.hosts[host].deaf;
            let what = if w.hosts[host].deaf {
                "hears nothing from the issuer"
            } else {
                "hears the issuer again"
            };
            w.note(host, what);
            w.send_news(host);
        })
    }

    fn is_there(&self, host: usize, machine: usize) -> bool {
        self.hosts.get(host).is_some_and(|h| h.machine != machine) && machine < self.enclave.machines.len()
    }

    fn with_up(&mut self, host: usize, change: impl FnOnce(&mut Self)) -> bool {
        let up = self.hosts.get(host).is_some_and(Host::is_up);
        if up {
            change(self);
        }
        up
    }

    fn change_wire(&mut self, transition: &Transition, change: impl FnOnce(&mut Link)) -> bool {
        change(&mut self.link);
        self.ladder
            .note(self.now, &self.hosts[0].label, &format!("wire: {transition:?}"));
        true
    }

    fn heal(&mut self) -> bool {
        let never = self.sabotage == Some(Sabotage::NeverHeal);
        self.change_wire(&Transition::Heal, |l| {
            if !never {
                l.mend();
                l.faults = Faults::NONE;
            }
        })
    }

    fn crash(&mut self, host: usize, torn: bool) -> bool {
        self.with_up(host, |w| {
            if torn {
                w.hosts[host].torn = true;
            } else {
                w.note(host, "killed");
                w.hosts[host].stop();
            }
        })
    }

    /// Starts a host that is down, or kills and starts one that is up.
    fn restart(&mut self, host: usize) -> bool {
        let Some(h) = self.hosts.get_mut(host) else {
            return false;
        };
        // A fork that noticed has no keys to come back with; only a new enrolment helps.
        if matches!(h.power, Power::Gone | Power::Paused) || h.forked == Forked::Told {
            return false;
        }
        h.stop();
        self.start(host);
        true
    }

    fn shut_down(&mut self, host: usize) -> bool {
        self.with_up(host, |w| {
            w.note(host, "goes down in good order");
            w.step(host, Input::ShutDown);
            w.hosts[host].stop();
        })
    }

    /// A machine comes back without its disk: new keys, and nobody of its old instances.
    pub(super) fn re_enrol(&mut self, machine: usize) -> bool {
        if !self.may_be_told(machine) {
            return false;
        }
        let now = self.now;
        self.enclave.enrol(machine, now);
        self.tellings[machine].clear();
        for host in 0..self.hosts.len() {
            if self.hosts[host].machine == machine {
                self.hosts[host].stop();
                if self.hosts[host].twin {
                    self.hosts[host].power = Power::Gone;
                }
            }
        }
        self.send_revocations();
        let knowledge = self.enclave.tell(machine, now, self.hosts[machine].traits.lazy);
        let enrolment = self.enclave.machines[machine].enrolments.len() - 1;
        let h = &mut self.hosts[machine];
        h.stored = Stored::new(knowledge);
        h.enrolment = enrolment;
        h.forked = Forked::Never;
        h.torn = false;
        h.clock.resume(now);
        self.note(machine, "enrolled anew");
        self.start(machine);
        self.send_news_to_all();
        true
    }

    fn change_exclusion(&mut self, host: usize, exclude: &[usize], restart: bool) -> bool {
        let noticed = self.hosts.get(host).is_some_and(|h| h.forked == Forked::Told);
        if noticed
            || self
                .hosts
                .get(host)
                .is_none_or(|h| !h.is_up() || h.exclude == exclude || h.twin)
        {
            return false;
        }
        self.note(host, &format!("excludes {exclude:?}"));
        if restart {
            self.shut_down(host);
        }
        self.hosts[host].exclude = exclude.to_vec();
        self.hosts[host].excluded_at = self.now;
        if restart {
            self.start(host);
        } else {
            let names = exclude.iter().map(|m| self.enclave.machines[*m].name.clone()).collect();
            let knowledge = Knowledge::exclusions(names);
            self.step(host, Input::Tell(Box::new(knowledge)));
        }
        true
    }

    fn fork(&mut self, host: usize, notice: Notice) -> bool {
        let possible = self
            .hosts
            .get(host)
            .is_some_and(|h| h.is_up() && !h.twin && h.forked == Forked::Never && !h.torn);
        let Some(running) = self
            .hosts
            .get(host)
            .and_then(|h| h.running.as_ref())
            .filter(|_| possible)
        else {
            return false;
        };
        if self.hosts.len() >= MAX_HOSTS || running.was_forked() {
            return false;
        }
        let copy = match running.fork(&self.enclave) {
            Ok(copy) => copy,
            Err(_diverged) => {
                let what = format!(
                    "{} lived the same life twice, and it came out otherwise",
                    self.hosts[host].label
                );
                self.breach(Breach::new(Promise::Determinism, what));
                return true;
            }
        };
        let twin = self.hosts.len();
        if self.sabotage != Some(Sabotage::SameEntropy) {
            let number = u64::try_from(twin).unwrap_or(1);
            running.set_instance(2 * number);
            copy.set_instance(2 * number + 1);
        }
        let address = self.fresh_address(twin);
        let forked = if notice == Notice::None {
            Forked::Unaware
        } else {
            Forked::Told
        };
        let h = &mut self.hosts[host];
        let image = Host {
            machine: h.machine,
            enrolment: h.enrolment,
            twin: true,
            label: format!("{}'", h.label),
            clock: h.clock.clone(),
            address,
            power: Power::Up,
            running: Some(copy),
            stored: h.stored.clone(),
            traits: h.traits,
            exclude: h.exclude.clone(),
            excluded_at: h.excluded_at,
            incarnation: 1,
            deaf: h.deaf,
            torn: false,
            forked,
            told: h.told.clone(),
            revision: h.revision,
            tell_after: self.now,
            paused: h.paused,
            paused_at: h.paused_at,
            timer: 0,
            timer_at: None,
        };
        h.forked = if notice == Notice::Both {
            Forked::Told
        } else {
            Forked::Unaware
        };
        let was = (host, h.incarnation);
        let (now, machine) = (self.now, image.machine);
        self.hosts.push(image);
        self.forks.insert(machine, now);
        self.handshakes.fork(host, twin);
        self.delivery.fork(host);
        self.twins.fork(was, (twin, 1));
        self.note(host, "forked");
        if self.sabotage != Some(Sabotage::IgnoreFork) {
            let noticed: &[usize] = match notice {
                Notice::None => &[],
                Notice::Twin => &[twin],
                Notice::Both => &[twin, host],
            };
            for instance in noticed {
                self.step(*instance, Input::Fork);
            }
        }
        self.set_timer(twin);
        true
    }

    fn roam(&mut self, host: usize, told: bool) -> bool {
        if self.hosts.get(host).is_none_or(|h| h.power == Power::Gone) {
            return false;
        }
        let address = self.fresh_address(host);
        self.hosts[host].address = address;
        self.note(host, &format!("moves to {address}"));
        if !self.hosts[host].twin {
            self.enclave.moved(self.hosts[host].machine, address);
            if told {
                self.send_news_to_all();
            }
        }
        true
    }

    fn may_be_told(&self, machine: usize) -> bool {
        self.enclave.machines.get(machine).is_some_and(|m| !m.expelled)
    }

    /// The issuer does something, and everybody is told.
    fn issue(&mut self, transition: &Transition, change: impl FnOnce(&mut Enclave, Moment)) -> bool {
        let now = self.now;
        change(&mut self.enclave, now);
        self.ladder
            .note(now, &self.hosts[0].label, &format!("issuer: {transition:?}"));
        self.send_news_to_all();
        true
    }

    /// Revocations go out before new keys; three machines are always left.
    fn revoke(&mut self, machine: usize) -> bool {
        let left = self.enclave.machines.iter().filter(|m| !m.expelled).count();
        if left <= 3 || !self.may_be_told(machine) {
            return false;
        }
        let now = self.now;
        self.enclave.revoke(machine, now);
        self.send_revocations();
        self.issue(&Transition::Revoke { machine }, |_, _| {})
    }

    fn stale_update(&mut self, host: usize) -> bool {
        let Some(h) = self.hosts.get(host).filter(|h| h.is_up()) else {
            return false;
        };
        let Some(oldest) = self.tellings[h.machine].first().cloned() else {
            return false;
        };
        if oldest.version >= h.stored.knowledge.version {
            return false;
        }
        self.note(host, &format!("is told version {} again", oldest.version));
        self.step(host, Input::Tell(Box::new(oldest)));
        true
    }

    fn replay(&mut self, count: u32, elsewhere: bool) -> bool {
        let mut any = false;
        for _ in 0..count {
            let at = self.rng.index(self.captured.len());
            let Some(c) = self.captured.get(at) else { return any };
            // Handshakes are what a replay is worth most of.
            let again = c.bytes[0] == datagram::SEALED && self.rng.chance(500);
            let at = if again { self.rng.index(self.captured.len()) } else { at };
            let Some(c) = self.captured.get(at) else { return any };
            let (from, to, bytes) = (c.from, c.to, c.bytes.clone());
            let from = if elsewhere { self.stranger() } else { from };
            let wait = self.rng.between(Duration::ZERO, Duration::from_millis(500));
            self.push(
                wait,
                Happening::Arrive(Arrival {
                    to,
                    from,
                    bytes,
                    authentic: true,
                    attack: elsewhere,
                }),
            );
            any = true;
        }
        any
    }

    fn garbage(&mut self, host: usize, count: u32) -> bool {
        let Some(to) = self.hosts.get(host).map(|h| h.address) else {
            return false;
        };
        for _ in 0..count {
            let bytes = self.nonsense(to);
            let from = self.stranger();
            let wait = self.rng.between(Duration::ZERO, Duration::from_secs(1));
            self.push(
                wait,
                Happening::Arrive(Arrival {
                    to,
                    from,
                    bytes,
                    authentic: false,
                    attack: true,
                }),
            );
        }
        true
    }

    /// Random bytes with a type, or something that passed on the wire, damaged.
    fn nonsense(&mut self, to: SocketAddr) -> Vec<u8> {
        let at = self.rng.index(self.captured.len());
        let seen = self.captured.get(at).filter(|c| c.to == to).map(|c| c.bytes.clone());
        if let Some(mut bytes) = seen {
            let before = bytes.clone();
            damage(&mut bytes, &mut self.rng);
            // Bits of a mac2 that nobody asked for, and of nothing else, are no damage.
            let only_mac2 = matches!(before[0], datagram::INITIATION | datagram::RESPONSE)
                && bytes.len() == before.len()
                && bytes[..bytes.len() - 16] == before[..before.len() - 16];
            if bytes != before && !only_mac2 {
                return bytes;
            }
        }
        let mut bytes = vec![0; 1 + self.rng.index(1400)];
        self.rng.fill(&mut bytes);
        bytes[0] = u8::try_from(self.rng.below(9)).unwrap_or(0);
        bytes.iter_mut().skip(1).take(3).for_each(|b| *b = 0);
        bytes
    }
}
