//! Which of several shared communities carries a session (¶39), and why.
//!
//! One pure function, used by the node for every session and by `explain` for people: communities that hold a member the
//! initiator does not want to hear it are left out; of the rest the lowest priority number wins, then the fewest
//! holders of the key, running or not (every one is a potential listener), then the name. The initiator's choice holds
//! until the next rekey.

use crate::{CommunityTag, Name};

/// A community that both ends are members of, as the initiator sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Candidate {
    /// The community.
    #[serde(skip)]
    pub tag: CommunityTag,
    /// Its name.
    pub community: Name,
    /// Lower is preferred.
    pub priority: u16,
    /// Holders of the current key.
    pub holders: u32,
    /// Members of it that the initiator excludes.
    pub excluded: Vec<Name>,
    /// False when no live epoch's key is held, so that no handshake can use it now.
    pub usable: bool,
}

/// What became of one candidate.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Carries the session.
    Chosen,
    /// Left out: these members of it are excluded by the initiator.
    HoldsExcluded(Vec<Name>),
    /// Left out: no key of a live epoch.
    NoLiveKey,
    /// Another has a lower priority number.
    WorsePriority,
    /// Another of the same priority has fewer holders.
    MoreHolders,
    /// Another of the same priority and size has the earlier name.
    LaterName,
}

impl core::fmt::Display for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Chosen => f.write_str("chosen"),
            Self::HoldsExcluded(names) => {
                let names: Vec<&str> = names.iter().map(Name::as_str).collect();
                write!(f, "left out: holds {}, excluded by the sender", names.join(", "))
            }
            Self::NoLiveKey => f.write_str("left out: no key of a live epoch"),
            Self::WorsePriority => f.write_str("not chosen: another has a lower priority number"),
            Self::MoreHolders => f.write_str("not chosen: another of the same priority has fewer members"),
            Self::LaterName => f.write_str("not chosen: same priority and size, later name"),
        }
    }
}

/// Every candidate with its verdict, best first; at most one is chosen.
#[must_use]
pub fn choose(candidates: Vec<Candidate>) -> Vec<(Candidate, Verdict)> {
    let (mut kept, left_out): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|c| c.excluded.is_empty() && c.usable);
    kept.sort_by(|a, b| rank(a).cmp(&rank(b)));
    let best = kept.first().map(|c| (c.priority, c.holders));
    let mut result: Vec<_> = kept
        .into_iter()
        .enumerate()
        .map(|(place, c)| {
            let verdict = match (place, best) {
                (0, _) | (_, None) => Verdict::Chosen,
                (_, Some((priority, _))) if c.priority > priority => Verdict::WorsePriority,
                (_, Some((_, holders))) if c.holders > holders => Verdict::MoreHolders,
                (_, Some(_)) => Verdict::LaterName,
            };
            (c, verdict)
        })
        .collect();
    let mut left_out = left_out;
    left_out.sort_by(|a, b| rank(a).cmp(&rank(b)));
    result.extend(left_out.into_iter().map(|c| {
        let verdict = if c.excluded.is_empty() {
            Verdict::NoLiveKey
        } else {
            Verdict::HoldsExcluded(c.excluded.clone())
        };
        (c, verdict)
    }));
    result
}

/// The chosen community of [`choose`]'s answer.
#[must_use]
pub fn chosen(verdicts: &[(Candidate, Verdict)]) -> Option<&Candidate> {
    verdicts.iter().find(|(_, v)| *v == Verdict::Chosen).map(|(c, _)| c)
}

fn rank(c: &Candidate) -> (u16, u32, &str) {
    (c.priority, c.holders, c.community.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, priority: u16, holders: u32) -> Candidate {
        Candidate {
            tag: CommunityTag::default(),
            community: Name::new(name).unwrap(),
            priority,
            holders,
            excluded: vec![],
            usable: true,
        }
    }

    fn verdicts(candidates: Vec<Candidate>) -> Vec<(String, Verdict)> {
        choose(candidates)
            .into_iter()
            .map(|(c, v)| (c.community.to_string(), v))
            .collect()
    }

    #[test]
    fn priority_then_size_then_name() {
        assert_eq!(
            verdicts(vec![
                candidate("d", 20, 1),
                candidate("c", 10, 9),
                candidate("b", 10, 5),
                candidate("a", 10, 5),
            ]),
            [
                ("a".into(), Verdict::Chosen),
                ("b".into(), Verdict::LaterName),
                ("c".into(), Verdict::MoreHolders),
                ("d".into(), Verdict::WorsePriority),
            ]
        );
    }

    #[test]
    fn excluded_and_keyless_are_left_out_whatever_their_rank() {
        let mut excluded = candidate("a", 1, 1);
        excluded.excluded = vec![Name::new("spy").unwrap()];
        let mut keyless = candidate("b", 1, 1);
        keyless.usable = false;
        assert_eq!(
            verdicts(vec![excluded.clone(), keyless, candidate("c", 9, 9)]),
            [
                ("c".into(), Verdict::Chosen),
                ("a".into(), Verdict::HoldsExcluded(excluded.excluded)),
                ("b".into(), Verdict::NoLiveKey),
            ]
        );
        assert_eq!(chosen(&choose(vec![])), None);
    }
}
