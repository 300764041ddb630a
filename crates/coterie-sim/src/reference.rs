//! The model: who may reach whom now, said once more and more simply than the node says it. It knows the enclave's truth and
//! each machine's protocol time; it knows no packets, sessions or peers.

use std::time::Duration;

use coterie_model::UnixTime;

use crate::enclave::{Community, Enclave, EpochRecord};

/// How long before an epoch activates a responder admits it.
const EARLY: Duration = Duration::from_secs(60);

/// Where a machine stands.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The machine.
    pub machine: usize,
    /// Its protocol time.
    pub time: UnixTime,
    /// Machines that must not be able to hear what it starts.
    pub exclude: &'a [usize],
}

/// What the model says about a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It must talk.
    Must,
    /// It must not.
    MustNot,
    /// It depends on seconds.
    Unclear,
}

/// The community under which `from` can make a session with `to`, when everybody knows what the issuer knows.
#[must_use]
pub fn initiates(enclave: &Enclave, from: Standing<'_>, to: Standing<'_>) -> Option<usize> {
    if enclave.machines[from.machine].expelled || enclave.machines[to.machine].expelled {
        return None;
    }
    let current = |c: usize, who: usize, time| {
        let last = enclave.machines[who].enrolments.len() - 1;
        enclave.statement_ends(c, who, last).is_some_and(|end| end > time)
    };
    let shared = (0..enclave.communities.len())
        .filter(|c| enclave.is_member(*c, from.machine) && enclave.is_member(*c, to.machine))
        .filter(|c| current(*c, from.machine, from.time))
        .filter(|c| !from.exclude.iter().any(|x| enclave.is_member(*c, *x)))
        .filter(|c| epoch_of(&enclave.communities[*c], from).is_some());
    let rank = |c: &usize| {
        let community = &enclave.communities[*c];
        (
            community.priority,
            holders(community, from.time),
            community.name.clone(),
        )
    };
    let chosen = shared.min_by_key(rank)?;
    let epoch = epoch_of(&enclave.communities[chosen], from)?;
    let admitted = epoch.holders.contains(&to.machine)
        && epoch.activates <= to.time.plus(EARLY)
        && to.time < epoch.retires
        && current(chosen, from.machine, to.time)
        && current(chosen, to.machine, to.time)
        && current(chosen, to.machine, from.time);
    admitted.then_some(chosen)
}

/// The epoch that an initiation of `from` uses.
fn epoch_of<'a>(community: &'a Community, from: Standing<'_>) -> Option<&'a EpochRecord> {
    let live =
        |e: &&EpochRecord| e.activates <= from.time && from.time < e.retires && e.holders.contains(&from.machine);
    community.epochs.iter().rev().find(live)
}

fn holders(community: &Community, time: UnixTime) -> usize {
    let active = community.epochs.iter().rev().find(|e| e.activates <= time);
    active
        .or_else(|| community.epochs.last())
        .map_or(0, |e| e.holders.len())
}

/// What holds for a pair over the next seconds, whatever the clocks' fractions: `earlier` and `later` are how far times may be
/// off.
#[must_use]
pub fn verdict(enclave: &Enclave, a: Standing<'_>, b: Standing<'_>, (earlier, later): (u64, u64)) -> Verdict {
    let shifted = |s: Standing<'_>, by: i64| UnixTime(s.time.0.saturating_add_signed(by));
    let by = |n: u64| i64::try_from(n).unwrap_or(0);
    let shifts = [-by(earlier), 0, by(later)];
    let always = |from: Standing<'_>, to: Standing<'_>| {
        let reached = shifts.iter().filter(|s| {
            let from = Standing {
                time: shifted(from, **s),
                ..from
            };
            initiates(
                enclave,
                from,
                Standing {
                    time: shifted(to, **s),
                    ..to
                },
            )
            .is_some()
        });
        reached.count()
    };
    match (always(a, b), always(b, a)) {
        (3, _) | (_, 3) => Verdict::Must,
        (0, 0) => Verdict::MustNot,
        _ => Verdict::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use coterie_proto::membership::Freshness;

    use super::*;
    use crate::{clock::Moment, rng::Rng};

    #[test]
    fn the_model_follows_membership_epochs_leases_and_exclusions() {
        let lease = Duration::from_secs(600);
        let machines = [vec![0], vec![0, 1], vec![1], vec![0]];
        let mut e = Enclave::new(Rng::new(1), Freshness::Offline, lease, 2, &machines);
        let now = Moment::START + Duration::from_secs(60);
        let standing = |machine| Standing {
            machine,
            time: now.unix(),
            exclude: &[],
        };
        assert_eq!(initiates(&e, standing(0), standing(1)), Some(0));
        assert_eq!(initiates(&e, standing(1), standing(2)), Some(1));
        assert_eq!(initiates(&e, standing(0), standing(2)), None, "nothing shared");
        assert_eq!(
            initiates(
                &e,
                Standing {
                    exclude: &[3],
                    ..standing(0)
                },
                standing(1)
            ),
            None,
            "an excluded listener"
        );
        let late = Standing {
            time: now.unix().plus(lease),
            ..standing(0)
        };
        assert_eq!(initiates(&e, late, standing(1)), None, "its lease ended");
        let ahead = Standing {
            time: now.unix().plus(Duration::from_secs(100)),
            ..standing(0)
        };
        e.roll(0, now, Duration::from_secs(90));
        assert_eq!(
            initiates(&e, ahead, standing(1)),
            None,
            "an epoch that nobody else admits yet"
        );
        assert_eq!(
            verdict(&e, ahead, standing(1), (3, 13)),
            Verdict::Must,
            "but it admits theirs"
        );
        e.remove(0, 3, now);
        assert_eq!(initiates(&e, standing(3), standing(0)), None);
        e.revoke(1, now);
        assert_eq!(verdict(&e, standing(0), standing(1), (3, 13)), Verdict::MustNot);
    }
}
