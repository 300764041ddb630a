//! Members: who is there, and who is cut off.

use std::net::{IpAddr, SocketAddr};

use coterie_model::Name;
use serde::{Deserialize, Serialize};

/// A member: `GET /v1/enclaves/{e}/members` by name, `GET /v1/enclaves/{e}/members/{m}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: Name,
    /// Its template.
    pub template: Name,
    /// The communities that it holds, by name.
    pub communities: Vec<Name>,
    /// Inside addresses.
    pub addresses: Vec<IpAddr>,
    /// Where it is reached outside, as far as it is known.
    pub endpoints: Vec<SocketAddr>,
    /// What it is now.
    pub state: MemberState,
    /// Its enrolment, 32 hexadecimal digits; `null` when it has none.
    pub member_id: Option<String>,
    /// Of its newest bundle, 0 for none.
    pub serial: u64,
    /// When its newest statements end, Unix seconds; `null` when it has none.
    pub not_after: Option<u64>,
    /// Since when it follows the server, Unix seconds; `null` when it does not.
    pub connected_since: Option<u64>,
    /// When it was last heard of, Unix seconds; `null` when never.
    pub last_seen: Option<u64>,
    /// Up to which revision it has applied what it was told; `null` when it does not follow.
    pub acknowledged_revision: Option<u64>,
    /// How long its membership lasts after it was last seen, seconds; `null` when it is not ephemeral.
    pub ephemeral_ttl: Option<u64>,
    /// Fingerprint of its keys, as `coterie bundle request` shows it; `null` when it is not enrolled.
    pub fingerprint: Option<String>,
    /// `coteried`'s version, as it said when it was ready last.
    pub version: Option<String>,
}

/// What a member is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// The file names it; no machine has enrolled as it.
    Expected,
    /// A machine has enrolled; it does not follow the server now.
    Enrolled,
    /// It follows the server.
    Connected,
    /// Its keys are refused until it is released.
    Isolated,
}

impl MemberState {
    /// The state's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Enrolled => "enrolled",
            Self::Connected => "connected",
            Self::Isolated => "isolated",
        }
    }
}

/// Query of isolate, release and revoke.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutOffQuery {
    /// How long to wait for nodes to acknowledge it, milliseconds; at most, and unless told otherwise,
    /// [`super::MAX_CUT_OFF_WAIT_MS`].
    #[serde(default)]
    pub wait_ms: Option<u64>,
}

/// What came of isolate, release and revoke: whom the news has reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOff {
    /// The member.
    pub member: Name,
    /// False when it was so already.
    pub changed: bool,
    /// How many other members followed the server at that moment.
    pub connected: u64,
    /// How many of them have applied it by now.
    pub acknowledged: u64,
    /// Milliseconds from the commit until the last of those, or until waiting ended ([`super::MAX_CUT_OFF_WAIT_MS`]).
    pub milliseconds: u64,
    /// The revision of the revocations that says so.
    pub revision: u64,
    /// Communities with a new key: those that a revoked member held.
    pub communities_rolled: Vec<Name>,
}

/// Body of `POST /v1/enclaves/{e}/members/end`: their machines are gone for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndMembers {
    /// Their names.
    pub names: Vec<Name>,
}

/// What came of ending members, one (`DELETE`) or many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Whose membership is over now, by name.
    pub ended: Vec<Name>,
    /// Those of the names that have no enrolment: nothing was to be done.
    pub not_enrolled: Vec<Name>,
}
