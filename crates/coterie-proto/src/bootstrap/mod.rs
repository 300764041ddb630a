//! The way of a machine that is no member yet (WIRE section 8): a join token makes a *bootstrap community* of the machine and of
//! whoever stands at the door of the enclave. Under its knock key the machine makes an ordinary handshake and carries one
//! request in and one answer out; it reaches nothing else, because nothing else is here.
//!
//! 1. [`Visitor`] is the machine: rendezvous and knock keys from its token, and a request that only the server can read.
//! 2. [`Door`] is a node that stands at the door: the server told it the knock keys, which open nothing but this handshake,
//!    so that it cannot enrol in the machine's place. To everybody without a token it is as silent as any node.
//!
//! Both are sans-IO like [`crate::node::Node`], beside which a door runs on the same port.

mod callers;
mod carry;
mod door;
mod payload;
mod visitor;

pub use callers::{MAX_VISITORS, MAX_VISITORS_OF_TOKEN};
pub use carry::CHUNK;
pub use door::{Caller, Door, Knock, MAX_KNOCKS, Record, Request};
pub use visitor::{Rendezvous, Visit, Visitor};

use crate::{session::Session, wire::datagram::SEALED_OVERHEAD};

/// Longest request that a door carries.
pub const MAX_REQUEST: usize = 16 * 1024;
/// Longest answer that a visitor takes.
pub const MAX_ANSWER: usize = 1024 * 1024 + 4096;

/// A control frame, sealed on the one lane of a visit; `None` when the session's counter is spent.
fn seal_control(session: &mut Session, salt: [u8; 4], text: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0; text.len() + SEALED_OVERHEAD];
    session.seal(0, salt, text, &mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests;
