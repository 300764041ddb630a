//! Enclaves: what is there, what a file would change, communities and their keys, the root.

use coterie_model::Name;
use serde::{Deserialize, Serialize};

/// An enclave: `GET /v1/enclaves` by name, `GET /v1/enclaves/{e}`. Its `ETag` is [`Self::version`] in quotes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnclaveSummary {
    /// Its name.
    pub name: Name,
    /// Its identifier, 32 hexadecimal digits.
    pub id: String,
    /// Grows by one with each file that changed it.
    pub version: u64,
    /// Grows with every change, of members as well: what the stream's marks count.
    pub revision: u64,
    /// How many members it has: those of its file, and those that tokens made.
    pub members: u64,
    /// How many of them are enrolled.
    pub enrolled: u64,
    /// How many of them follow the server now.
    pub connected: u64,
    /// How many communities it has.
    pub communities: u64,
    /// When it was made, Unix seconds.
    pub created: u64,
    /// What machines pin of it: the hash of its root key, 64 hexadecimal digits.
    pub root_hash: String,
}

/// Query of `PUT /v1/enclaves/{e}`, whose body is the enclave file. `If-Match` with the version in quotes makes sure that
/// nobody changed it in between; `If-None-Match: *` that it is a new one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyQuery {
    /// Says what would change, and changes nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a file changed, or would change. Names are in alphabetical order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The enclave's version afterwards; with `dry_run` the version that it has now, 0 where it does not exist.
    pub version: u64,
    /// Whether nothing was changed because it was asked for only.
    pub dry_run: bool,
    /// Whether the enclave is new.
    pub created: bool,
    /// Whether anything changed at all, be it a setting only.
    pub changed: bool,
    /// Communities that are new.
    pub communities_added: Vec<Name>,
    /// Communities that are no more.
    pub communities_removed: Vec<Name>,
    /// Communities with a new key, because a member that held the old one holds it no more.
    pub communities_rolled: Vec<Name>,
    /// Members that are new in the file, not enrolled yet.
    pub members_added: Vec<Name>,
    /// Members that are no more; where they were enrolled, their keys are revoked.
    pub members_revoked: Vec<Name>,
    /// Who reaches whom otherwise than before, by sender and receiver: the first [`super::MAX_REACH_ROWS`].
    pub reach: Vec<ReachChange>,
    /// How many pairs of sender and receiver that are in all.
    pub reach_total: u64,
    /// How many tests of the file passed: all of them, else the file would be refused.
    pub tests_passed: u64,
}

/// A sender that reaches a receiver otherwise than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachChange {
    /// The sender.
    pub from: Name,
    /// The receiver.
    pub to: Name,
    /// The community that it used before; `null` where it did not reach it.
    pub before: Option<Name>,
    /// The community that it uses from now on; `null` where it does not reach it any more.
    pub after: Option<Name>,
}

/// A community: `GET /v1/enclaves/{e}/communities` by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Community {
    /// Its name.
    pub name: Name,
    /// Its tag in signed objects, 32 hexadecimal digits.
    pub tag: String,
    /// Lower is preferred.
    pub priority: u16,
    /// Holders of its key, running or not.
    pub members: u64,
    /// The epoch in use.
    pub epoch: u64,
    /// Since when that epoch is used, Unix seconds.
    pub activates: u64,
    /// How often its key is replaced, seconds.
    pub period: u64,
    /// The epoch that comes next, where it is known already.
    pub next: Option<NextEpoch>,
}

/// An epoch that is not used yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextEpoch {
    /// Its number.
    pub epoch: u64,
    /// When it begins, Unix seconds.
    pub activates: u64,
}

/// Body of `POST /v1/enclaves/{e}/communities/{c}/rotate-key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollRequest {
    /// Why the key is replaced.
    pub kind: RollKind,
}

/// Why a community's key is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RollKind {
    /// It is time: the new key is told first and used later, and no packet is lost.
    Scheduled,
    /// Somebody holds it who should not: at once, to a key that nobody was given before.
    Removal,
}

/// What became of a community's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledKey {
    /// The community.
    pub community: Name,
    /// Its newest epoch.
    pub epoch: u64,
    /// When that epoch is used, Unix seconds.
    pub activates: u64,
    /// False when nobody was given the newest key yet, so that it stays.
    pub changed: bool,
}

/// What `POST /v1/enclaves/{e}/root/rotate` did: the enclave has a new root; members trust both until they have a bundle
/// under the new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRotated {
    /// The hash of the new root key, 64 hexadecimal digits.
    pub root_hash: String,
    /// The hash of the root key before, 64 hexadecimal digits.
    pub previous_root_hash: String,
    /// The number of the authority under the new root.
    pub era: u64,
    /// How many members are to get a bundle under the new root.
    pub members: u64,
}
