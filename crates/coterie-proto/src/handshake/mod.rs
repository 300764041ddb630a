//! The handshake: five messages that make a session, and the states they pass through (WIRE section 3).
//!
//! 1. States ([`initiator::ExpectResponse`], [`exchange::Offered`], …) are consumed to make the next, so that data of a past state
//!    cannot be touched and is wiped with it.
//! 2. [`noise`] has the two Noise messages, [`payload`] what they carry, [`exchange`] offer, answer and confirm.
//!
//! Nothing here knows sockets, sessions or peers: keys and bytes in, bytes and keys out.

pub mod cookie;
pub mod exchange;
pub mod frame;
pub mod initiator;
pub mod noise;
pub mod payload;
pub mod responder;
