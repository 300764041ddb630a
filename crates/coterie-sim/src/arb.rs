//! From a seed to a scenario: what the world is made from, and what happens to it when.

use std::time::Duration;

use coterie_crypto::aead::Suite;
use coterie_proto::{handshake::payload::Suites, membership::Freshness};

use crate::{
    host::Traits,
    rng::Rng,
    transition::{Notice, Transition},
    world::{Layout, MachineLayout},
};

/// Machines of a world, at least and at most.
const MACHINES: (u64, u64) = (3, 6);

/// A scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The world at its beginning.
    pub layout: Layout,
    /// What happens, each after a wait.
    pub steps: Vec<(Duration, Transition)>,
}

/// The scenario of `seed` with about `steps` transitions.
#[must_use]
pub fn scenario(seed: u64, steps: usize) -> Scenario {
    // Another stream than the world's own.
    let mut rng = Rng::new(seed ^ 0xa5a5_5a5a_0f0f_f0f0);
    let layout = layout(&mut rng);
    let machines = layout.machines.len();
    let steps = (0..steps)
        .map(|_| (wait(&mut rng), transition(&mut rng, machines, layout.communities)))
        .collect();
    Scenario { layout, steps }
}

/// Traits with every suite, one lane, roaming: what most hosts have.
///
/// # Panics
/// Never: three suites are a set.
#[must_use]
pub fn plain_traits() -> Traits {
    Traits {
        lanes: 1,
        suites: Suites::new(&Suite::ALL).expect("three suites are not none"),
        preferred: Suite::Aes256Gcm,
        roaming: true,
        gateway: false,
        lazy: false,
    }
}

/// A plain site without pulses: a lease of an hour, as many communities as are named, and one plain machine for each entry,
/// which is the list of its communities.
#[must_use]
pub fn plain_layout(machines: &[&[usize]]) -> Layout {
    let machine = |communities: &&[usize]| MachineLayout {
        communities: communities.to_vec(),
        traits: plain_traits(),
        exclude: vec![],
        boot: Duration::from_secs(1000),
        drift: 0,
        wall_error: 0,
    };
    Layout {
        freshness: Freshness::Offline,
        lease: Duration::from_secs(3600),
        communities: machines.iter().flat_map(|m| m.iter()).max().map_or(0, |c| c + 1),
        machines: machines.iter().map(machine).collect(),
    }
}

fn layout(rng: &mut Rng) -> Layout {
    let communities = 1 + rng.index(4);
    let freshness = if rng.chance(400) {
        Freshness::Heads
    } else {
        Freshness::Offline
    };
    let lease = Duration::from_secs(rng.pick(&[600, 900, 3600]));
    let count = MACHINES.0 + rng.below(MACHINES.1 - MACHINES.0 + 1);
    let machines = (0..count)
        .map(|_| machine(rng, communities, usize::try_from(count).unwrap_or(3)))
        .collect();
    Layout {
        freshness,
        lease,
        communities,
        machines,
    }
}

fn machine(rng: &mut Rng, communities: usize, count: usize) -> MachineLayout {
    let mut member: Vec<usize> = (0..communities).filter(|_| rng.chance(600)).collect();
    if member.is_empty() && rng.chance(900) {
        member.push(rng.index(communities));
    }
    // Every host has AES-GCM, so that every pair has a suite.
    let mut suites = vec![Suite::Aes256Gcm];
    suites.extend(Suite::ALL.into_iter().skip(1).filter(|_| rng.chance(500)));
    let traits = Traits {
        lanes: 1 + u8::try_from(rng.below(4)).unwrap_or(0),
        preferred: rng.pick(&suites),
        suites: Suites::new(&suites).unwrap_or_else(|| plain_traits().suites),
        roaming: rng.chance(600),
        gateway: rng.chance(200),
        lazy: rng.chance(150),
    };
    MachineLayout {
        communities: member,
        traits,
        exclude: if rng.chance(150) {
            vec![rng.index(count)]
        } else {
            vec![]
        },
        boot: rng.between(Duration::ZERO, Duration::from_secs(1_000_000)),
        drift: i64::try_from(rng.below(401)).unwrap_or(0) - 200,
        wall_error: if rng.chance(300) {
            i64::try_from(rng.below(121)).unwrap_or(0) - 60
        } else {
            0
        },
    }
}

fn wait(rng: &mut Rng) -> Duration {
    let (low, high) = match rng.below(20) {
        0..=7 => (0, 300),
        8..=14 => (200, 2_500),
        15..=18 => (1_000, 12_000),
        _ => (20_000, 140_000),
    };
    rng.between(Duration::from_millis(low), Duration::from_millis(high))
}

fn transition(rng: &mut Rng, machines: usize, communities: usize) -> Transition {
    // Some numbers name forks, which exist only sometimes.
    let host = if rng.chance(100) {
        machines + rng.index(2)
    } else {
        rng.index(machines)
    };
    let (machine, other, community) = (rng.index(machines), rng.index(machines), rng.index(communities));
    match rng.below(100) {
        0..=17 => Transition::SendPacket { from: host, to: other },
        18..=26 => Transition::Burst {
            from: host,
            to: other,
            count: 2 + u32::try_from(rng.below(80)).unwrap_or(0),
        },
        27..=31 => Transition::OpenBothWays { a: machine, b: other },
        32..=52 => wire(rng, host, other),
        53..=76 => trouble(rng, host, machine),
        77..=91 => issuer(rng, host, machine, (community, machines)),
        92..=95 => Transition::ReplayOldDatagrams {
            count: 5 + u32::try_from(rng.below(60)).unwrap_or(0),
            elsewhere: rng.chance(500),
        },
        _ => Transition::InjectGarbage {
            host,
            count: 5 + u32::try_from(rng.below(100)).unwrap_or(0),
        },
    }
}

fn wire(rng: &mut Rng, host: usize, other: usize) -> Transition {
    match rng.below(12) {
        0 | 1 => Transition::Loss {
            permille: rng.below(400),
        },
        2 => Transition::Duplicate {
            permille: rng.below(300),
        },
        3 => Transition::Reorder {
            permille: rng.below(500),
        },
        4 => Transition::CorruptDatagrams {
            permille: rng.below(200),
        },
        5 => Transition::Delay {
            delay: rng.between(Duration::ZERO, Duration::from_millis(300)),
            jitter: rng.between(Duration::ZERO, Duration::from_millis(200)),
        },
        6..=8 => Transition::Partition {
            a: host,
            b: other,
            one_way: rng.chance(400),
        },
        9 => Transition::Isolate { host },
        _ => Transition::Heal,
    }
}

fn trouble(rng: &mut Rng, host: usize, machine: usize) -> Transition {
    match rng.below(24) {
        0..=3 => Transition::Crash {
            host,
            torn: rng.chance(400),
        },
        4..=9 => Transition::Restart { host },
        10 => Transition::ShutDown { host },
        11 => Transition::ReEnrol { machine },
        12..=14 => Transition::Fork {
            host: machine,
            notice: rng.pick(&[Notice::None, Notice::None, Notice::Twin, Notice::Both]),
        },
        15..=17 => Transition::Roam {
            host,
            told: rng.chance(500),
        },
        18 | 19 => {
            let longest = rng.pick(&[3, 30, 200, 7200]);
            Transition::ClockLeap {
                host,
                by: rng.between(Duration::from_millis(1), Duration::from_secs(longest)),
            }
        }
        20 => Transition::WallClock {
            host,
            by: i64::try_from(rng.below(7201)).unwrap_or(0) - 3600,
        },
        _ => {
            let longest = rng.pick(&[2, 20, 60]);
            let lasts = rng.between(Duration::from_millis(10), Duration::from_secs(longest));
            Transition::Pause {
                host,
                lasts,
                leaps: rng.chance(500),
            }
        }
    }
}

fn issuer(rng: &mut Rng, host: usize, machine: usize, (community, machines): (usize, usize)) -> Transition {
    match rng.below(15) {
        0..=2 => Transition::RollEpoch {
            community,
            ahead: rng.between(Duration::ZERO, Duration::from_secs(90)),
        },
        3 | 4 => Transition::RemovalRoll { community, machine },
        5 => Transition::Revoke { machine },
        6 | 7 => Transition::RenewStatements { machine },
        8 | 9 => Transition::AddMember { community, machine },
        10 | 11 => {
            let exclude = if rng.chance(400) {
                vec![]
            } else {
                vec![rng.index(machines)]
            };
            Transition::ChangeExclusion {
                host: machine,
                exclude,
                restart: rng.chance(500),
            }
        }
        12 | 13 => Transition::LoseUpdates { host },
        _ => Transition::StaleUpdate { host },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_of_transition_is_drawn() {
        let kinds: BTreeSet<_> = (0..100)
            .flat_map(|seed| scenario(seed, 60).steps)
            .map(|(_, t)| t.kind())
            .collect();
        let all: BTreeSet<_> = Transition::KINDS.iter().copied().collect();
        assert_eq!(kinds, all);
    }
}
