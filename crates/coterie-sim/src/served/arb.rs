//! Scenarios drawn from a seed: short stories, and things that happen in between.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::{
    Layout, MachineLayout,
    action::{Edit, Transition},
    machine::Hostility,
    site::{Seat, Site, Template},
};
use crate::rng::Rng;

/// The membership lease of every scenario.
pub const LEASE: Duration = Duration::from_secs(300);
const COMMUNITIES: [&str; 4] = ["red", "green", "blue", "late"];
const TEMPLATES: [&str; 3] = ["web", "db", "app"];
/// Machines that the file names: two doors, and two others.
const NAMED: usize = 4;
const SECOND: Duration = Duration::from_secs(1);

/// What happens to a world.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What it is made from.
    pub layout: Layout,
    /// What happens, each after some time.
    pub steps: Vec<(Duration, Transition)>,
}

/// The scenario of a seed.
#[must_use]
pub fn scenario(seed: u64, steps: usize) -> Scenario {
    let mut rng = Rng::new(seed);
    let layout = layout(&mut rng);
    let mut drawing = Drawing {
        machines: layout.machines.len(),
        steps: Vec::new(),
        rng,
    };
    for machine in NAMED..NAMED + 3 {
        drawing.enrol(machine);
    }
    while drawing.steps.len() < steps {
        drawing.story();
    }
    Scenario {
        layout,
        steps: drawing.steps,
    }
}

/// A plain enclave for scenario tests: doors `door-1` and `door-2` in both communities, `file-1` in `red`, `file-2` in `green`,
/// and machines `vm-0` to `vm-4` of templates `web` (`red`), `db` (`green`), `app` (both, and tickets), `web`, `app`.
#[must_use]
pub fn plain_layout() -> Layout {
    layout_of(&mut Rng::new(7), &["web", "db", "app", "web", "app"], false)
}

fn layout(rng: &mut Rng) -> Layout {
    let machines = 3 + rng.index(3);
    let templates: Vec<&str> = (0..machines).map(|_| rng.pick(&TEMPLATES)).collect();
    layout_of(rng, &templates, true)
}

fn layout_of(rng: &mut Rng, templates: &[&str], wrong: bool) -> Layout {
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<String>>()
    };
    let template = |communities: &[&str], ticket, door| Template {
        communities: set(communities),
        ticket,
        door,
        roaming: false,
    };
    let mut communities: BTreeMap<String, u16> = BTreeMap::new();
    for name in &COMMUNITIES[..3] {
        let priority = if rng.chance(500) { 100 } else { 10 };
        communities.insert((*name).to_owned(), priority);
    }
    let kinds = [
        ("edge", template(&["red", "green"], false, true)),
        ("web", template(&["red"], false, false)),
        ("db", template(&["green"], false, false)),
        ("app", template(&["red", "green"], true, false)),
    ];
    let named = [
        ("door-1", "edge"),
        ("door-2", "edge"),
        ("file-1", "web"),
        ("file-2", "db"),
    ];
    let seats = named.iter().zip(1u8..).map(|((name, template), n)| {
        let seat = Seat {
            template: (*template).to_owned(),
            communities: BTreeSet::new(),
            endpoint: SocketAddr::from(([203, 0, 113, n], 4747)),
        };
        ((*name).to_owned(), seat)
    });
    let site = Site {
        lease: LEASE,
        communities,
        templates: kinds.map(|(name, template)| (name.to_owned(), template)).into(),
        members: seats.collect(),
    };
    let vms = templates
        .iter()
        .enumerate()
        .map(|(n, template)| (format!("vm-{n}"), *template));
    let all = named
        .iter()
        .map(|(name, template)| ((*name).to_owned(), *template))
        .chain(vms);
    let machines = all.map(|(name, template)| MachineLayout {
        name,
        template: template.to_owned(),
        boot: Duration::from_secs(rng.below(100_000)),
        drift: if wrong {
            i64::try_from(rng.below(400)).unwrap_or(0) - 200
        } else {
            0
        },
        wall_error: match rng.below(10) {
            0 if wrong => 400_000_000,
            1 if wrong => -400_000_000,
            _ => 0,
        },
    });
    Layout {
        machines: machines.collect(),
        site,
    }
}

struct Drawing {
    rng: Rng,
    machines: usize,
    steps: Vec<(Duration, Transition)>,
}

impl Drawing {
    fn then(&mut self, wait: Duration, transition: Transition) {
        self.steps.push((wait, transition));
    }

    /// A while.
    fn while_(&mut self) -> Duration {
        if self.rng.chance(100) {
            return self.rng.between(10 * SECOND, 40 * SECOND);
        }
        self.rng.between(SECOND / 10, 5 * SECOND)
    }

    fn soon(&mut self) -> Duration {
        self.rng.between(SECOND / 50, SECOND)
    }

    fn any(&mut self) -> usize {
        self.rng.index(self.machines)
    }

    /// One that no file names.
    fn vm(&mut self) -> usize {
        NAMED + self.rng.index(self.machines - NAMED)
    }

    fn door(&mut self) -> usize {
        self.rng.index(2)
    }

    fn enrol(&mut self, machine: usize) {
        let direct = self.rng.chance(200);
        let uses = if self.rng.chance(300) { 2 } else { 1 };
        let lasts = self.rng.pick(&[60, 300, 900]);
        let (first, second) = (self.while_(), self.soon());
        self.then(
            first,
            Transition::CreateToken {
                machine,
                uses,
                lasts: Duration::from_secs(lasts),
                direct,
            },
        );
        self.then(second, Transition::Enrol { machine });
    }

    fn traffic(&mut self) {
        let (from, to) = (self.any(), self.any());
        let count = u32::try_from(1 + self.rng.below(5)).unwrap_or(1);
        let wait = self.soon();
        self.then(wait, Transition::Traffic { from, to, count });
    }

    fn story(&mut self) {
        let wait = self.while_();
        match self.rng.below(24) {
            0 => {
                let machine = self.vm();
                self.enrol(machine);
            }
            1 => self.spent(wait),
            2 => self.isolation(wait),
            3 | 4 => self.removal(wait),
            5 => self.roll(wait),
            6 | 7 => self.edit(wait),
            8 | 9 => self.server_away(wait),
            10 | 11 => self.killed(wait),
            12 => self.hostile(wait),
            13 => self.comes_back(wait),
            14 => self.query(wait),
            15 => self.restored(wait),
            16 | 17 => self.stream(wait),
            18 | 19 => self.node(wait),
            20 => self.wire(wait),
            21 => self.clock(wait),
            _ => (0..4).for_each(|_| self.traffic()),
        }
        if self.rng.chance(600) {
            self.traffic();
        }
    }

    fn spent(&mut self, wait: Duration) {
        let (machine, other) = (self.vm(), self.vm());
        self.then(wait, Transition::EnrolSpent { machine, other });
    }

    fn isolation(&mut self, wait: Duration) {
        let machine = self.any();
        self.then(wait, Transition::Isolate { machine });
        self.traffic();
        self.traffic();
        if self.rng.chance(800) {
            let after = self.while_();
            self.then(after, Transition::Release { machine });
        }
    }

    /// Somebody goes, in one of the ways in which one goes.
    fn removal(&mut self, wait: Duration) {
        let machine = self.vm();
        let deed = match self.rng.below(6) {
            0 | 1 => Transition::Revoke { machine },
            2 | 3 => Transition::Leave { machine },
            4 => Transition::End { machine },
            _ => {
                let machines = (0..2 + self.rng.index(3)).map(|_| self.vm()).collect();
                Transition::EndMany { machines }
            }
        };
        let far = self.rng.chance(400).then(|| self.any());
        if let Some(machine) = far {
            self.then(wait, Transition::CutServer { machine });
        }
        self.traffic();
        let after = self.soon();
        self.then(after, deed);
        self.traffic();
        if self.rng.chance(500) {
            self.enrol(machine);
        }
        if let Some(machine) = far {
            let after = self.while_();
            self.then(after, Transition::CutServer { machine });
        }
    }

    fn roll(&mut self, wait: Duration) {
        let community = self.rng.pick(&COMMUNITIES).to_owned();
        let roll = if self.rng.chance(600) {
            let ahead = self.rng.between(10 * SECOND, 40 * SECOND);
            Transition::RollScheduled { community, ahead }
        } else {
            Transition::RollRemoval { community }
        };
        self.then(wait, roll);
        self.traffic();
    }

    fn edit(&mut self, wait: Duration) {
        let community = self.rng.pick(&COMMUNITIES).to_owned();
        let template = self.rng.pick(&TEMPLATES).to_owned();
        let member = self.rng.pick(&["file-1", "file-2", "door-1", "door-2"]).to_owned();
        let change = match self.rng.below(7) {
            0 | 1 => Transition::MoveMember {
                edit: Edit::Move { member, community },
            },
            2 => Transition::AddCommunity {
                edit: Edit::Add { community, template },
            },
            3 => Transition::RemoveCommunity {
                edit: Edit::Remove {
                    community: self.rng.pick(&["blue", "late"]).to_owned(),
                },
            },
            4 | 5 => Transition::ChangeTemplate {
                edit: Edit::Hold { template, community },
            },
            _ => Transition::ChangeTemplate {
                edit: Edit::Roam { template },
            },
        };
        self.then(wait, change);
        self.traffic();
    }

    fn server_away(&mut self, wait: Duration) {
        self.then(wait, Transition::ServerDown);
        self.traffic();
        self.traffic();
        if self.rng.chance(300) {
            let machine = self.any();
            let after = self.soon();
            self.then(after, Transition::KillNode { machine });
        }
        let after = self.while_();
        self.then(after, Transition::ServerUp);
    }

    /// The server dies over something.
    fn killed(&mut self, wait: Duration) {
        let before = self.rng.chance(500);
        let kill = if before {
            Transition::KillBeforeCommit
        } else {
            Transition::KillAfterCommit
        };
        self.then(wait, kill);
        let soon = self.soon();
        match self.rng.below(5) {
            0 => self.removal(soon),
            1 => self.roll(soon),
            2 => self.edit(soon),
            3 => {
                let machine = self.vm();
                self.enrol(machine);
            }
            _ => {
                let machine = self.any();
                self.then(soon, Transition::Renew { machine });
            }
        }
        let after = self.while_();
        self.then(after, Transition::ServerUp);
    }

    fn hostile(&mut self, wait: Duration) {
        let machine = self.door();
        let does = self.rng.pick(&[Hostility::Drop, Hostility::Replay, Hostility::Forge]);
        self.then(wait, Transition::HostileDoor { machine, does });
        for _ in 0..2 {
            let visitor = self.vm();
            self.enrol(visitor);
        }
        let after = self.while_();
        self.then(after, Transition::DoorAttacks { machine });
    }

    /// A machine comes back, or somebody in its name.
    fn comes_back(&mut self, wait: Duration) {
        let machine = self.vm();
        let back = match self.rng.below(6) {
            0 => Transition::RebootWithToken { machine },
            1 | 2 => Transition::Reboot { machine },
            3 => Transition::Clone { machine },
            4 => Transition::TakeOver { machine },
            _ => Transition::Fork { machine },
        };
        let forked = matches!(back, Transition::Fork { .. });
        self.then(wait, back);
        if forked || self.rng.chance(300) {
            let after = self.while_();
            let again = if self.rng.chance(500) {
                Transition::RebootWithToken { machine }
            } else {
                Transition::Reboot { machine }
            };
            self.then(after, again);
        }
    }

    /// A member whose statement has ended is away while another one joins, which then does not hear of its return.
    fn query(&mut self, wait: Duration) {
        if self.rng.chance(600) {
            return self.traffic();
        }
        let (to, from) = (2 + self.rng.index(2), self.vm());
        let lasts = LEASE + 30 * SECOND;
        self.then(wait, Transition::StopNode { machine: to, lasts });
        self.then(LEASE + 5 * SECOND, Transition::Reboot { machine: from });
        self.enrol(from);
        self.then(SECOND / 2, Transition::RebootWithToken { machine: from });
        self.then(8 * SECOND, Transition::CutServer { machine: from });
        self.then(40 * SECOND, Transition::Query { from, to });
        self.then(SECOND, Transition::CutServer { machine: from });
    }

    fn restored(&mut self, wait: Duration) {
        self.then(wait, Transition::Backup);
        for _ in 0..1 + self.rng.index(3) {
            let soon = self.soon();
            match self.rng.below(4) {
                0 => self.removal(soon),
                1 => self.roll(soon),
                2 => self.edit(soon),
                _ => {
                    let machine = self.vm();
                    self.enrol(machine);
                }
            }
        }
        let after = self.while_();
        if self.rng.chance(500) {
            self.then(after, Transition::Restore);
        } else {
            self.then(after, Transition::RotateRoot);
        }
    }

    fn stream(&mut self, wait: Duration) {
        let machine = self.any();
        let what = match self.rng.below(5) {
            0 => Transition::BreakStream { machine },
            1 => Transition::Lag { machine },
            2 => Transition::PruneLog,
            3 => Transition::Renew { machine },
            _ => Transition::CutServer { machine },
        };
        let cut = matches!(what, Transition::CutServer { .. });
        self.then(wait, what);
        if self.rng.chance(300) {
            let soon = self.soon();
            self.roll(soon);
        }
        if cut && self.rng.chance(800) {
            let after = self.while_();
            self.then(after, Transition::CutServer { machine });
        }
    }

    fn node(&mut self, wait: Duration) {
        let machine = self.any();
        let what = match self.rng.below(4) {
            0 | 1 => Transition::KillNode { machine },
            2 => Transition::StopNode {
                machine,
                lasts: self.while_(),
            },
            _ => Transition::EnrolByHand {
                machine: self.rng.index(NAMED),
            },
        };
        self.then(wait, what);
    }

    fn wire(&mut self, wait: Duration) {
        if self.rng.chance(500) {
            let (a, b) = (self.any(), self.any());
            let one_way = self.rng.chance(300);
            self.then(wait, Transition::Partition { a, b, one_way });
        } else {
            let (loss, duplicate) = (self.rng.below(300), self.rng.below(200));
            let (reorder, corrupt) = (self.rng.below(200), self.rng.below(50));
            self.then(
                wait,
                Transition::Faults {
                    loss,
                    duplicate,
                    reorder,
                    corrupt,
                },
            );
        }
        (0..3).for_each(|_| self.traffic());
        let soon = self.soon();
        let count = u32::try_from(1 + self.rng.below(40)).unwrap_or(1);
        self.then(soon, Transition::ReplayDatagrams { count });
        if self.rng.chance(700) {
            let after = self.while_();
            self.then(after, Transition::Heal);
        }
    }

    fn clock(&mut self, wait: Duration) {
        let seconds = i64::try_from(1 + self.rng.below(100)).unwrap_or(1);
        let far = i64::try_from(400 + self.rng.below(400)).unwrap_or(400);
        let what = if self.rng.chance(100) {
            Transition::ServerClock { by: far }
        } else if self.rng.chance(600) {
            Transition::ServerClock {
                by: if self.rng.chance(500) { seconds } else { -seconds },
            }
        } else {
            Transition::ClockLeap {
                machine: self.any(),
                by: Duration::from_secs(seconds.unsigned_abs()),
            }
        };
        self.then(wait, what);
    }
}
