//! Who reaches whom otherwise when one topology takes the place of another.
//!
//! Members alike are looked at together: senders that rank the same communities in the same order before and after, receivers
//! that hold the same ones before and after. A sender whose ranking stays is compared with those receivers alone that hold
//! something else than before, so that what did not change costs nothing.

use std::collections::{BTreeMap, BTreeSet};

use coterie_model::Name;

use super::Topology;

/// A sender that reaches a receiver otherwise than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReachChange {
    /// The sender.
    pub from: Name,
    /// The receiver.
    pub to: Name,
    /// The community that it used before; `None` where it did not reach it.
    pub before: Option<Name>,
    /// The community that it uses afterwards; `None` where it does not reach it any more.
    pub after: Option<Name>,
}

/// All that is otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReachChanges {
    /// The first of them, in order of sender and receiver.
    pub first: Vec<ReachChange>,
    /// How many there are.
    pub total: u64,
}

/// What is otherwise when `after` takes the place of `before`; at most `most` of it one by one. A member that one of them does
/// not know reaches nobody there, and nobody reaches it.
#[must_use]
pub fn changes(before: &Topology, after: &Topology, most: usize) -> ReachChanges {
    let classes = Classes::of(before, after);
    let mut total = 0;
    for (s, sender) in classes.senders.iter().enumerate() {
        for (r, _, _) in classes.differing(sender) {
            let pairs = sender.members.len() * classes.receivers[r].members.len();
            let itself = classes.both.get(&(s, r)).copied().unwrap_or(0);
            total += u64::try_from(pairs - itself).unwrap_or(u64::MAX);
        }
    }
    let mut first = Vec::new();
    for (from, (s, _)) in &classes.places {
        if first.len() == most {
            break;
        }
        let mut others: Vec<_> = classes
            .differing(&classes.senders[*s])
            .flat_map(|(r, before, after)| {
                let receivers = classes.receivers[r].members.iter();
                receivers.map(move |to| (*to, before, after))
            })
            .filter(|(to, _, _)| to != from)
            .collect();
        others.sort_unstable();
        let room = most - first.len();
        first.extend(others.into_iter().take(room).map(|(to, before, after)| ReachChange {
            from: (*from).clone(),
            to: to.clone(),
            before: before.cloned(),
            after: after.cloned(),
        }));
    }
    ReachChanges { first, total }
}

/// Members in groups of those that are alike before and after. Communities are numbers: places in [`Self::communities`].
struct Classes<'t> {
    communities: Vec<&'t Name>,
    senders: Vec<Class<'t>>,
    receivers: Vec<Class<'t>>,
    /// To which of the senders and of the receivers each member belongs.
    places: BTreeMap<&'t Name, (usize, usize)>,
    /// How many members belong to the two.
    both: BTreeMap<(usize, usize), usize>,
}

/// Members that are alike. Of senders the communities that they would use, best first; of receivers those that they hold.
struct Class<'t> {
    before: Vec<usize>,
    after: Vec<usize>,
    members: Vec<&'t Name>,
}

impl<'t> Classes<'t> {
    fn of(before: &'t Topology, after: &'t Topology) -> Self {
        let communities: BTreeSet<&Name> = before.communities.keys().chain(after.communities.keys()).collect();
        let numbers: BTreeMap<&Name, usize> = communities.iter().enumerate().map(|(n, name)| (*name, n)).collect();
        let number = |name: &&Name| numbers.get(*name).copied();
        let ranked = |topology: &'t Topology, name| topology.ranked(name).iter().filter_map(number).collect();
        let held = |topology: &'t Topology, name| -> Vec<usize> {
            let standing = topology.standing(name);
            let held = standing.into_iter().flat_map(|(communities, _)| communities);
            held.filter_map(|community| number(&community)).collect()
        };
        let mut this = Self {
            communities: communities.into_iter().collect(),
            senders: Vec::new(),
            receivers: Vec::new(),
            places: BTreeMap::new(),
            both: BTreeMap::new(),
        };
        let (mut senders, mut receivers) = (BTreeMap::new(), BTreeMap::new());
        let members: BTreeSet<&Name> = before.members().chain(after.members()).collect();
        for name in members {
            let sends = (ranked(before, name), ranked(after, name));
            let receives = (held(before, name), held(after, name));
            let s = join(&mut this.senders, &mut senders, sends, name);
            let r = join(&mut this.receivers, &mut receivers, receives, name);
            this.places.insert(name, (s, r));
            *this.both.entry((s, r)).or_default() += 1;
        }
        this
    }

    /// The receivers that `sender` reaches otherwise, with what it used and what it uses.
    fn differing(&self, sender: &Class<'t>) -> impl Iterator<Item = (usize, Option<&'t Name>, Option<&'t Name>)> {
        let stays = sender.before == sender.after;
        let (before, after) = (self.ranks(&sender.before), self.ranks(&sender.after));
        let receivers = self.receivers.iter().enumerate();
        receivers.filter_map(move |(r, receiver)| {
            if stays && receiver.before == receiver.after {
                return None;
            }
            let used = chosen(&before, &receiver.before);
            let uses = chosen(&after, &receiver.after);
            let name = |community: Option<usize>| community.map(|c| self.communities[c]);
            (used != uses).then(|| (r, name(used), name(uses)))
        })
    }

    /// The place of each community in a ranking.
    fn ranks(&self, ranked: &[usize]) -> Vec<Option<usize>> {
        let mut ranks = vec![None; self.communities.len()];
        ranked
            .iter()
            .enumerate()
            .for_each(|(rank, community)| ranks[*community] = Some(rank));
        ranks
    }
}

/// Puts a member with those that are like it; gives their place.
fn join<'t>(
    classes: &mut Vec<Class<'t>>,
    known: &mut BTreeMap<(Vec<usize>, Vec<usize>), usize>,
    alike: (Vec<usize>, Vec<usize>),
    name: &'t Name,
) -> usize {
    let place = match known.get(&alike) {
        Some(place) => *place,
        None => {
            let (before, after) = alike.clone();
            classes.push(Class {
                before,
                after,
                members: Vec::new(),
            });
            known.insert(alike, classes.len() - 1);
            classes.len() - 1
        }
    };
    classes[place].members.push(name);
    place
}

/// The best of the communities that a receiver holds.
fn chosen(ranks: &[Option<usize>], held: &[usize]) -> Option<usize> {
    let ranked = held
        .iter()
        .filter_map(|community| Some((ranks[*community]?, *community)));
    ranked.min().map(|(_, community)| community)
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test looks at the clock"
)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{super::choose, *};

    fn name(prefix: &str, n: usize) -> Name {
        Name::new(&format!("{prefix}{n:04}")).unwrap()
    }

    /// Pair by pair, as the rule says it.
    fn plainly(before: &Topology, after: &Topology) -> Vec<ReachChange> {
        let members: BTreeSet<&Name> = before.members().chain(after.members()).collect();
        let pairs = members
            .iter()
            .flat_map(|from| members.iter().map(move |to| (*from, *to)));
        pairs
            .map(|(from, to)| ReachChange {
                from: from.clone(),
                to: to.clone(),
                before: choose(before, from, to).cloned(),
                after: choose(after, from, to).cloned(),
            })
            .filter(|change| change.before != change.after)
            .collect()
    }

    /// Priorities of communities; of each member, if it is there, bits of the communities that it holds and a member that it
    /// excludes.
    fn arbitrary() -> impl Strategy<Value = Topology> {
        let members = prop::collection::vec(prop::option::of((0_u8..32, prop::option::weighted(0.2, 0_usize..8))), 8);
        (prop::collection::vec(0_u16..3, 5), members).prop_map(|(priorities, members)| {
            let mut topology = Topology::new();
            for (c, priority) in priorities.into_iter().enumerate() {
                topology.add_community(name("c", c), priority);
            }
            for (m, member) in members.into_iter().enumerate() {
                let Some((held, excluded)) = member else { continue };
                let held = (0..5).filter(|c| held & (1 << c) != 0).map(|c| name("c", c));
                topology.add_member(name("m", m), held, excluded.map(|x| name("m", x)));
            }
            topology
        })
    }

    proptest! {
        #[test]
        fn is_what_the_rule_says_pair_by_pair(before in arbitrary(), after in arbitrary(), most in 0_usize..70) {
            let plain = plainly(&before, &after);
            let found = changes(&before, &after, most);
            prop_assert_eq!(found.total, u64::try_from(plain.len()).unwrap());
            let first: Vec<_> = plain.into_iter().take(most).collect();
            prop_assert_eq!(found.first, first);
        }
    }

    /// 5,000 members, each of a kind of its own: holding two communities that no other holds together.
    fn large(but: Option<usize>) -> Topology {
        let mut topology = Topology::new();
        for m in 0..5_000 {
            let mut held = vec![name("c", m / 99), name("c", 51 + m % 99)];
            if but == Some(m) {
                held.pop();
            }
            topology.add_member(name("m", m), held, None);
        }
        topology
    }

    #[test]
    fn what_did_not_change_costs_nothing() {
        let (before, after) = (large(None), large(Some(7)));
        let began = Instant::now();
        let found = changes(&before, &after, 1_000);
        // Pair by pair it would be 25 million choices: minutes.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(
            found.total > 0
                && found
                    .first
                    .iter()
                    .all(|c| c.from == name("m", 7) || c.to == name("m", 7))
        );
        assert_eq!(changes(&before, &before, 1_000), ReachChanges::default());
    }
}
