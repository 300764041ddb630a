//! The audit log.

use serde::{Deserialize, Serialize};

/// Query of `GET /v1/audit`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Entries after this number; without it the newest ones.
    #[serde(default)]
    pub after: Option<u64>,
    /// At most so many; at most, and unless told otherwise, [`super::MAX_AUDIT_PAGE`].
    #[serde(default)]
    pub limit: Option<u32>,
    /// Where there are none yet, wait for one so long, seconds; at most [`super::MAX_AUDIT_WAIT`].
    #[serde(default)]
    pub wait: Option<u64>,
}

/// What `GET /v1/audit` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// The oldest first.
    pub entries: Vec<AuditEntry>,
    /// What to ask after next.
    pub next: u64,
}

/// What somebody did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its number in the log of the whole server, from 1; numbers between belong to others.
    pub seq: u64,
    /// When, Unix seconds.
    pub time: u64,
    /// Who: name of a principal, of a member, or of a part of the server.
    pub actor: String,
    /// What: a noun and a verb, as in `token.create`.
    pub action: String,
    /// To what.
    pub object: String,
    /// More about it; no secrets.
    pub detail: serde_json::Value,
    /// Of the chain, this entry included: 64 hexadecimal digits.
    pub hash: String,
}
