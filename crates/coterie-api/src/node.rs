//! What the hand can ask a node (`coterie status`, `ping`, `explain`, `wait`, `down`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use coterie_model::Name;
use serde::{Deserialize, Serialize};

/// A request to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// The whole state.
    Status,
    /// Why a destination is reached as it is.
    Explain {
        /// A member's name, or an inside address.
        destination: String,
    },
    /// Makes a session if there is none and measures a sealed round trip.
    Ping {
        /// A member's name, or an inside address.
        destination: String,
        /// How long to wait, in milliseconds.
        timeout_ms: u64,
    },
    /// Reads the bundle again, as SIGHUP does.
    Reload,
    /// Ends every session and stops the daemon. Lockdown stays: the machine is dark, not open.
    Down,
    /// Tells the server that this machine goes for good: its membership ends. Nothing is stopped.
    Leave,
    /// Takes lockdown away: from now on programs of this machine may send in clear text.
    Unlock,
    /// Metrics in Prometheus text format.
    Metrics,
}

/// An answer: what was asked for, or why not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// What was asked for.
    Ok(Answer),
    /// Why not.
    Error(Failure),
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Explain`].
    Explanation(Explanation),
    /// To [`Request::Ping`].
    Pong(Pong),
    /// To [`Request::Reload`], [`Request::Down`], [`Request::Leave`] and [`Request::Unlock`].
    Done,
    /// To [`Request::Metrics`].
    Metrics(String),
}

/// Why a request was not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A word that programs can compare: a drop reason's name, `unknown-member`, `timeout`, `bad-request`, `bad-bundle`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// A node's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub name: Name,
    /// The enclave.
    pub enclave: Name,
    /// `coteried`'s version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// The inside interface.
    pub interface: String,
    /// Inside addresses.
    pub addresses: Vec<String>,
    /// UDP port outside.
    pub port: u16,
    /// Seconds since the daemon started.
    pub uptime: f64,
    /// Protocol time, Unix seconds.
    pub protocol_time: u64,
    /// When the membership ends, Unix seconds, the earliest of its communities.
    pub membership_ends: u64,
    /// `current`, or `ended: ` and why.
    #[serde(default)]
    pub membership: String,
    /// The server, where the enclave has one.
    #[serde(default)]
    pub server: Option<Server>,
    /// Whether a join token made this machine a member.
    #[serde(default)]
    pub by_token: bool,
    /// What the machine does as a door, if it is one.
    #[serde(default)]
    pub door: Option<Door>,
    /// What should not have happened, counted by kind: `rollback` (somebody showed something older than what is known),
    /// `foreign`, `twin`, `forked`, `revoked-knocked`.
    #[serde(default)]
    pub alarms: BTreeMap<String, u64>,
    /// True after a fork: keys are gone and a new bundle is needed.
    pub forked: bool,
    /// How the identity came: `bundle`, `enrolled` (by a join token), `recovered` (after kill -9 or restart).
    pub identity: String,
    /// Lockdown: `off`, `in-force`, or what is missing.
    pub lockdown: String,
    /// Revision of the revocations.
    pub revision: u64,
    /// Communities.
    pub communities: Vec<Community>,
    /// Other members.
    pub peers: Vec<Peer>,
    /// Counts since start.
    pub counters: Counters,
}

/// A node's way to the server of its enclave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// Where it is, or was tried last.
    pub address: Option<SocketAddr>,
    /// `following`, `connecting` or `away`.
    pub state: String,
    /// Since how many seconds it is followed, or is not.
    pub since: f64,
    /// The revision that everything was told and applied up to.
    pub mark: u64,
    /// Seconds since something was heard.
    pub heard: Option<f64>,
    /// Why the server could not be reached, or did not give what it was asked for, last.
    pub trouble: Option<String>,
    /// The serial of the bundle in use.
    pub serial: u64,
}

/// A node that lets machines with a join token in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// Tokens that open it.
    pub tokens: usize,
    /// Visits under way.
    pub visits: usize,
}

/// A community of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Community {
    /// Its name.
    pub name: Name,
    /// Lower is preferred.
    pub priority: u16,
    /// Holders of its key.
    pub holders: u32,
    /// The epoch in use.
    pub epoch: Option<u64>,
    /// When this node's statement ends, Unix seconds.
    pub not_after: u64,
}

/// Another member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: Name,
    /// Inside addresses.
    pub addresses: Vec<String>,
    /// Where it is reached.
    pub endpoint: Option<SocketAddr>,
    /// `silent`, `connecting`, `up` or `revoked`.
    pub state: String,
    /// The live session.
    pub session: Option<Session>,
    /// Packets sent in the live session.
    pub sent: u64,
    /// Packets delivered from it.
    pub delivered: u64,
}

/// A live session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The community that admits it.
    pub community: Name,
    /// Its epoch.
    pub epoch: u64,
    /// The cipher.
    pub suite: String,
    /// Age of its keys, seconds.
    pub age: f64,
    /// True when this node made it.
    pub initiator: bool,
}

/// Counts since the daemon started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Inside packets sealed.
    pub sent_packets: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Outside packets delivered.
    pub delivered_packets: u64,
    /// Bytes of them.
    pub delivered_bytes: u64,
    /// Sessions made as initiator.
    pub initiated: u64,
    /// Sessions made as responder.
    pub responded: u64,
    /// Drops by reason.
    pub drops: BTreeMap<String, u64>,
}

/// Why a destination is reached as it is: policy beside installed state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The inside address asked about.
    pub destination: IpAddr,
    /// The member that has it.
    pub member: Option<Name>,
    /// Communities shared with it, best first.
    pub candidates: Vec<Candidate>,
    /// What policy chooses now.
    pub chosen: Option<Name>,
    /// The community of the live session; the choice holds until the next rekey.
    pub installed: Option<Name>,
    /// Why nothing can be sent, if so: a drop reason's name.
    pub refused: Option<String>,
}

/// A shared community, weighed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name.
    pub community: Name,
    /// Lower is preferred.
    pub priority: u16,
    /// Holders of its key.
    pub holders: u32,
    /// What became of it, in words.
    pub verdict: String,
}

/// A measured round trip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// Who answered.
    pub member: Name,
    /// The community of the session.
    pub community: Name,
    /// Sealed round trip, milliseconds.
    pub rtt_ms: f64,
    /// Milliseconds that making the session took, when there was none.
    pub handshake_ms: Option<f64>,
}
