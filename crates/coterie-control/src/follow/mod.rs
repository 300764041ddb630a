//! The stream by which nodes follow their enclave: who is told what, and in which bytes.
//!
//! Nothing in it is secret but a door's knock keys: signed objects, and of each community's members what the others may know.
//! So what a change means for a community is made once, for all who follow it. Keys come in bundles, for which a node asks
//! when it is told to ([`Message::Renew`]).
//!
//! 1. The server writes what an operation changed ([`crate::issue::Enclave::take_records`]) under a revision.
//! 2. [`news()`] says what that means for everybody, and for the members of each community.
//!    Of a community that is too large to be told to each of its members, only mirrors ([`News::of_mirror`]) are told the whole.
//! 3. A node that comes back names the revision that it was told last and gets the [`news()`] since then, or, where that is too
//!    long ago, [`everything`].

pub mod message;
mod news;

pub use message::{Knocking, MAX_MESSAGE, Message, ViewPiece};
pub use news::{News, everything, news};
