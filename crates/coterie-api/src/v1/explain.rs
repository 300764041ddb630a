//! Why one member reaches another: what policy says, and what both ends have installed.

use coterie_model::{Name, choose};
use serde::{Deserialize, Serialize};

use crate::node;

/// Query of `GET /v1/enclaves/{e}/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// The sender.
    pub from: Name,
    /// The receiver.
    pub to: Name,
}

/// What `GET /v1/enclaves/{e}/explain` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// What the enclave's policy says of the way from the sender to the receiver.
    pub policy: Policy,
    /// What the sender says of the way to the receiver.
    pub from: Installed,
    /// What the receiver says of the way to the sender.
    pub to: Installed,
}

/// What a node was asked, and what it said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Installed {
    /// What it has.
    Told(node::Explanation),
    /// Why it did not say: it refused, does not follow the server, or did not answer in time.
    Untold(node::Failure),
}

/// What policy says of one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The sender.
    pub from: Name,
    /// The receiver.
    pub to: Name,
    /// The community that the sender uses; `null` where it does not reach the receiver.
    pub chosen: Option<Name>,
    /// Every community that both hold, best first, those left out last.
    pub shared: Vec<Considered>,
    /// All communities of the sender, by name.
    pub from_communities: Vec<Name>,
    /// All communities of the receiver, by name.
    pub to_communities: Vec<Name>,
}

/// A shared community and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// Its name.
    pub community: Name,
    /// Lower comes first.
    pub priority: u16,
    /// Holders of its key.
    pub members: u32,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a shared community; in JSON as [`choose::Verdict`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Carries the session.
    Chosen,
    /// Left out: these members of it are excluded by the sender.
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

impl From<choose::Verdict> for Verdict {
    fn from(verdict: choose::Verdict) -> Self {
        match verdict {
            choose::Verdict::Chosen => Self::Chosen,
            choose::Verdict::HoldsExcluded(names) => Self::HoldsExcluded(names),
            choose::Verdict::NoLiveKey => Self::NoLiveKey,
            choose::Verdict::WorsePriority => Self::WorsePriority,
            choose::Verdict::MoreHolders => Self::MoreHolders,
            choose::Verdict::LaterName => Self::LaterName,
        }
    }
}

impl From<Verdict> for choose::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Chosen => Self::Chosen,
            Verdict::HoldsExcluded(names) => Self::HoldsExcluded(names),
            Verdict::NoLiveKey => Self::NoLiveKey,
            Verdict::WorsePriority => Self::WorsePriority,
            Verdict::MoreHolders => Self::MoreHolders,
            Verdict::LaterName => Self::LaterName,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_have_the_words_of_the_model() {
        let excluded = choose::Verdict::HoldsExcluded(vec![Name::new("spy").unwrap()]);
        for verdict in [
            choose::Verdict::Chosen,
            excluded,
            choose::Verdict::NoLiveKey,
            choose::Verdict::WorsePriority,
            choose::Verdict::MoreHolders,
            choose::Verdict::LaterName,
        ] {
            let json = serde_json::to_value(&verdict).unwrap();
            let ours = Verdict::from(verdict.clone());
            assert_eq!(serde_json::to_value(&ours).unwrap(), json);
            let back: Verdict = serde_json::from_value(json).unwrap();
            assert_eq!(choose::Verdict::from(back), verdict);
        }
    }
}
