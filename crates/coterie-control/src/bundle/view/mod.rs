//! What a member knows of the others of one community, under that community's key (claim 4): enough to start without a
//! directory. Whoever carries the bundle learns nothing from it.
//! `make` seals, `open` decodes and opens.

mod make;
mod open;

use coterie_crypto::{Secret, hash, wrap::WRAPPED_LEN};
use coterie_model::{Epoch, EpochKey, MemberId, Serial, Writer};

use super::delivery::Label;

pub(crate) use make::seal;
pub use open::decode;
pub(crate) use open::{Fault, open};

/// Most entries of one view: larger communities resolve on demand.
pub const MAX_ENTRIES: usize = 1000;

/// A view as it stands in a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedView {
    /// Which community, in the words of the bundle certificate.
    pub label: Label,
    /// The epoch whose key opens it.
    pub epoch: Epoch,
    /// The query key of that epoch (WIRE section 2), wrapped.
    pub query: [u8; WRAPPED_LEN],
    /// Random.
    pub nonce: [u8; 12],
    /// Entries, sealed.
    pub sealed: Vec<u8>,
}

/// Which bundle a view belongs to: bound to its seal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) member: MemberId,
    pub(crate) serial: Serial,
}

fn aad(place: Place, label: &Label) -> Vec<u8> {
    let mut w = Writer::new();
    w.bytes(label).bytes(&place.member.0).u64(place.serial);
    w.into_bytes()
}

/// `k_query` of WIRE section 2.
fn query_key(key: &EpochKey) -> Secret<32> {
    derive(key, b"coterie/1 query")
}

fn derive(key: &EpochKey, label: &[u8]) -> Secret<32> {
    hash::derive(b"", key.key.expose(), &[label, &key.tag.0, &key.epoch.to_be_bytes()])
}
