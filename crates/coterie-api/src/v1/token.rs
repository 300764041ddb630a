//! Join tokens.

use std::net::{IpAddr, SocketAddr};

use coterie_model::Name;
use serde::{Deserialize, Serialize};

use super::SecretText;

/// Body of `POST /v1/enclaves/{e}/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// The template of the members that it makes.
    pub template: Name,
    /// The one name that its member may have; `null`: the machine says its own.
    #[serde(default)]
    pub member: Option<Name>,
    /// How many members it makes, 1 or more; 1 where `member` is given.
    #[serde(default = "once")]
    pub uses: u32,
    /// How long it can be used, seconds.
    pub ttl_seconds: u64,
    /// Its members are ephemeral: their membership ends so many seconds after they were last seen. `null`: they are not.
    #[serde(default)]
    pub ephemeral_seconds: Option<u64>,
    /// Network in CIDR notation from which it can be used; `null`: from anywhere.
    #[serde(default)]
    pub from: Option<String>,
}

fn once() -> u32 {
    1
}

/// What `POST /v1/enclaves/{e}/tokens` answers, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenMade {
    /// Its id, 32 hexadecimal digits; not secret.
    pub id: String,
    /// The token itself. Secret; it is not shown again.
    pub text: SecretText,
    /// The last second in which it can be used, Unix seconds.
    pub not_after: u64,
    /// Members that let its holder in, where they are reached by UDP.
    pub doors: Vec<SocketAddr>,
    /// The server itself, by TCP, where its holder can reach it.
    pub servers: Vec<SocketAddr>,
}

/// A token: `GET /v1/enclaves/{e}/tokens` the oldest first, `GET /v1/enclaves/{e}/tokens/{k}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id, 32 hexadecimal digits.
    pub id: String,
    /// The template of the members that it makes.
    pub template: Name,
    /// The one name that its member may have.
    pub member: Option<Name>,
    /// How many members it makes.
    pub uses_allowed: u32,
    /// How many it made.
    pub uses_made: u32,
    /// The last second in which it can be used, Unix seconds.
    pub not_after: u64,
    /// Network in CIDR notation from which it can be used.
    pub from: Option<String>,
    /// How long the membership of its members lasts after they were last seen, seconds; `null` when they are not ephemeral.
    pub ephemeral_seconds: Option<u64>,
    /// Name of the principal that made it.
    pub made_by: String,
    /// When it was made, Unix seconds.
    pub created: u64,
    /// Since when it is revoked, Unix seconds.
    pub revoked: Option<u64>,
    /// Whom it made, the first first; empty in the list of all tokens.
    pub uses: Vec<TokenUse>,
}

/// A use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// Name of the member that it made; `null` when that is gone.
    pub member: Option<Name>,
    /// Its enrolment, 32 hexadecimal digits.
    pub member_id: String,
    /// When, Unix seconds.
    pub time: u64,
    /// From where.
    pub source: IpAddr,
}
