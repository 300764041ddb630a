//! The nouns of Coterie, valid by construction: identifiers, names, time, addresses, signed objects, the directory.
//!
//! Pure: no clock, no randomness, no sockets, no files. A value of a type of this crate has passed its checks; parsing
//! happens once, at the edge ([`codec`]), and every decoder is fuzzed.

pub mod addr;
pub mod choose;
pub mod codec;
pub mod directory;
pub mod id;
pub mod keyring;
pub mod signed;
pub mod time;

pub use addr::Prefix;
pub use codec::{Malformed, Reader, Writer};
pub use directory::DirectoryEntry;
pub use id::{CommunityTag, EnclaveId, Epoch, Era, MemberId, Name, NameError, Revision, Serial};
pub use keyring::{EpochKey, commitment};
pub use signed::{
    Authority, EpochKind, Head, Manifest, Revocation, Revocations, Signed, SignedObject, Statement, Unverified,
};
pub use time::{Instant, UnixTime};
