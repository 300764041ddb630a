//! The checkers, always on. Each is a small memory of what was observed from outside, beside the node and never inside it;
//! each is fed a violation in its own tests, or in `tests/checkers_notice.rs`, and must notice it.

pub mod alarm;
pub mod delivery;
pub mod handshake;
pub mod house;
pub mod twin;
pub mod wire;

use crate::clock::Moment;

/// What was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// No (key, nonce) twice.
    Nonce,
    /// No plaintext outside.
    Plaintext,
    /// No datagram of handshake, control or query above 1,232 bytes.
    Size,
    /// Every packet delivered, queued, or dropped with a counted reason.
    Accounting,
    /// No packet delivered twice, altered, or to a host that may not get it.
    Delivery,
    /// No session where the model allows none.
    Session,
    /// No handshake accepted twice, restarts included.
    Handshake,
    /// A node's memory is bounded.
    Bounds,
    /// A node does not spin.
    Progress,
    /// After a fork nothing leaves under the old keys where it was noticed, and peers notice where it was not.
    Fork,
    /// No alarm without its cause.
    Alarm,
    /// The same inputs give the same outputs.
    Determinism,
    /// Strangers get no answer.
    Silence,
    /// After faults stop, every allowed pair talks within ten seconds.
    Liveness,
    /// After faults stop, no forbidden pair does.
    Isolation,
    /// What the server has committed is there after it was killed, whole.
    Durable,
    /// Whoever is a member asked for it, and a token makes as many as it says.
    Token,
    /// Who is refused is refused in time, by everybody who is told.
    Refusal,
    /// A machine whose lease has ended is closed.
    Lease,
    /// Serials and revisions do not go back.
    Order,
    /// After faults stop, every node knows of its communities what the server does.
    Views,
}

/// A broken promise, without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// What was promised.
    pub promise: Promise,
    /// How it was broken.
    pub what: String,
}

impl Breach {
    /// A breach of `promise`.
    #[must_use]
    pub fn new(promise: Promise, what: impl Into<String>) -> Self {
        Self {
            promise,
            what: what.into(),
        }
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Moment,
    /// What.
    pub breach: Breach,
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?} at {}: {}", self.breach.promise, self.at, self.breach.what)
    }
}
