//! Who reaches whom, through which community, and why.
//!
//! [`choose`] is the rule by which a sender picks one of the communities that it shares with a receiver:
//!
//! 1. drop every community that holds a member which the sender excludes;
//! 2. take the lowest priority number;
//! 3. among equals the fewest members, counting all holders of the current key, running or not;
//! 4. among equals the first name.
//!
//! [`explain`] gives the same answer together with the verdict on every shared community; there the rule itself is
//! [`coterie_model::choose`], the one that nodes follow, and a property test holds [`choose`] to it. The exclusions are
//! the sender's alone, so the way back may be another community: a session keeps the choice of the side that opened it.
//! [`changes()`] compares two topologies.

mod changes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use coterie_model::{
    CommunityTag, Name,
    choose::{Candidate, Verdict},
};
use serde::Serialize;

pub use changes::{ReachChange, ReachChanges, changes};

/// Communities with their holders, and members with their exclusions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    communities: BTreeMap<Name, Held>,
    members: BTreeMap<Name, Holder>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    priority: u16,
    holders: BTreeSet<Name>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Holder {
    communities: BTreeSet<Name>,
    exclude: BTreeSet<Name>,
}

impl Topology {
    /// An empty topology.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a community, or sets the priority of one that is there; lower numbers come first.
    pub fn add_community(&mut self, name: Name, priority: u16) {
        self.communities.entry(name).or_default().priority = priority;
    }

    /// Makes `member` a holder of each of `communities`. A community that was not added before gets priority 0.
    ///
    /// `exclude` are the members that `member` does not want to hear it; its own name among them means nothing.
    pub fn add_member(
        &mut self,
        member: Name,
        communities: impl IntoIterator<Item = Name>,
        exclude: impl IntoIterator<Item = Name>,
    ) {
        let holder = self.members.entry(member.clone()).or_default();
        holder
            .exclude
            .extend(exclude.into_iter().filter(|name| *name != member));
        for community in communities {
            self.communities
                .entry(community.clone())
                .or_default()
                .holders
                .insert(member.clone());
            holder.communities.insert(community);
        }
    }

    /// All members, in order of name.
    pub fn members(&self) -> impl Iterator<Item = &Name> {
        self.members.keys()
    }

    /// The holders of a community's key, in order of name; none where there is no such community.
    pub fn holders(&self, community: &Name) -> impl Iterator<Item = &Name> {
        self.communities
            .get(community)
            .into_iter()
            .flat_map(|held| held.holders.iter())
    }

    /// What decides a member's reach: its communities and its exclusions. Members alike in both are interchangeable,
    /// but for being themselves.
    pub(super) fn standing(&self, member: &Name) -> Option<(&BTreeSet<Name>, &BTreeSet<Name>)> {
        self.members
            .get(member)
            .map(|holder| (&holder.communities, &holder.exclude))
    }

    /// The communities that `sender` would use, best first: what [`choose`] picks is the first that the receiver holds.
    pub(super) fn ranked(&self, sender: &Name) -> Vec<&Name> {
        let Some(holder) = self.members.get(sender) else {
            return Vec::new();
        };
        let mut kept: Vec<(u16, usize, &Name)> = holder
            .communities
            .iter()
            .filter_map(|name| self.communities.get(name).map(|held| (name, held)))
            .filter(|(_, held)| held.holders.is_disjoint(&holder.exclude))
            .map(|(name, held)| (held.priority, held.holders.len(), name))
            .collect();
        kept.sort_unstable();
        kept.into_iter().map(|(_, _, name)| name).collect()
    }
}

/// The community that `from` uses to reach `to`; `None` where there is none, where one of them is not known, or where
/// they are the same member.
#[must_use]
pub fn choose<'t>(topology: &'t Topology, from: &Name, to: &Name) -> Option<&'t Name> {
    let receiver = topology.members.get(to).filter(|_| from != to)?;
    topology
        .ranked(from)
        .into_iter()
        .find(|community| receiver.communities.contains(*community))
}

/// The choice of [`choose`] with the verdict on every community that the two share.
///
/// # Errors
/// [`ReachError`] where one of the two is not known, or where they are the same member.
pub fn explain(topology: &Topology, from: &Name, to: &Name) -> Result<Explanation, ReachError> {
    let look_up = |name: &Name| {
        topology
            .members
            .get(name)
            .ok_or_else(|| ReachError::UnknownMember { name: name.clone() })
    };
    let (sender, receiver) = (look_up(from)?, look_up(to)?);
    if from == to {
        return Err(ReachError::SameMember { name: from.clone() });
    }
    let candidates = sender
        .communities
        .intersection(&receiver.communities)
        .filter_map(|name| topology.communities.get(name).map(|held| (name, held)))
        .map(|(name, held)| Candidate {
            tag: CommunityTag::default(),
            community: name.clone(),
            priority: held.priority,
            holders: u32::try_from(held.holders.len()).unwrap_or(u32::MAX),
            excluded: held.holders.intersection(&sender.exclude).cloned().collect(),
            usable: true,
        })
        .collect();
    let verdicts = coterie_model::choose::choose(candidates);
    Ok(Explanation {
        from: from.clone(),
        to: to.clone(),
        chosen: coterie_model::choose::chosen(&verdicts).map(|candidate| candidate.community.clone()),
        shared: verdicts
            .into_iter()
            .map(|(candidate, verdict)| Considered {
                community: candidate.community,
                priority: candidate.priority,
                members: candidate.holders,
                verdict,
            })
            .collect(),
        from_communities: sender.communities.iter().cloned().collect(),
        to_communities: receiver.communities.iter().cloned().collect(),
    })
}

/// Why one member reaches another, or does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The sender.
    pub from: Name,
    /// The receiver.
    pub to: Name,
    /// The community that the sender uses; `None` where it does not reach the receiver.
    pub chosen: Option<Name>,
    /// Every community that both hold: those not dropped first, each group in order of preference.
    pub shared: Vec<Considered>,
    /// All communities of the sender, in order of name.
    pub from_communities: Vec<Name>,
    /// All communities of the receiver, in order of name.
    pub to_communities: Vec<Name>,
}

/// One shared community and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Considered {
    /// Its name.
    pub community: Name,
    /// Its priority number; lower comes first.
    pub priority: u16,
    /// How many members hold its key, running or not.
    pub members: u32,
    /// What became of it.
    pub verdict: Verdict,
}

/// Why there is nothing to explain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// No member has that name.
    #[error("there is no member `{name}`; name one of the enclave file's [member.NAME] tables")]
    UnknownMember {
        /// The name as given.
        name: Name,
    },
    /// Sender and receiver are the same.
    #[error("`{name}` is asked to reach itself; name two different members")]
    SameMember {
        /// The member.
        name: Name,
    },
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.chosen {
            Some(community) => write!(f, "{} reaches {} via {community}", self.from, self.to)?,
            None => write!(f, "{} does not reach {}", self.from, self.to)?,
        }
        if self.shared.is_empty() {
            write!(f, ": they share no community")?;
            write!(f, "\n  {} holds {}", self.from, list(&self.from_communities))?;
            write!(f, "\n  {} holds {}", self.to, list(&self.to_communities))?;
        } else if self.chosen.is_none() {
            write!(f, ": every shared community holds a member that {} excludes", self.from)?;
        }
        let width = self
            .shared
            .iter()
            .map(|considered| considered.community.as_str().len())
            .max()
            .unwrap_or_default();
        for considered in &self.shared {
            let Considered {
                community,
                priority,
                members,
                verdict,
            } = considered;
            let (community, plural) = (community.as_str(), if *members == 1 { "" } else { "s" });
            write!(
                f,
                "\n  {community:width$}  priority {priority}, {members} member{plural}: {verdict}"
            )?;
        }
        Ok(())
    }
}

/// Names in a row for a sentence; at most eight, so that a large enclave stays readable.
pub(super) fn list(names: &[Name]) -> String {
    const SHOWN: usize = 8;
    if names.is_empty() {
        return "none".to_owned();
    }
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(Name::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests;
