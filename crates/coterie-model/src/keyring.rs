//! Community keys and what a manifest says about them.

use coterie_crypto::{Secret, hash};

use crate::{CommunityTag, Epoch};

/// The key of one community in one epoch: 32 random bytes, from which everything else is derived (WIRE section 2).
#[derive(Debug)]
pub struct EpochKey {
    /// The community.
    pub tag: CommunityTag,
    /// The epoch.
    pub epoch: Epoch,
    /// The key.
    pub key: Secret<32>,
}

impl EpochKey {
    /// A second copy, wiped on its own.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self {
            tag: self.tag,
            epoch: self.epoch,
            key: self.key.duplicate(),
        }
    }
}

/// What a manifest publishes of a key: `SHA-256("coterie/1 commitment" | tag | epoch | key)`.
#[must_use]
pub fn commitment(tag: CommunityTag, epoch: Epoch, key: &Secret<32>) -> [u8; 32] {
    hash::sha256(&[b"coterie/1 commitment", &tag.0, &epoch.to_be_bytes(), key.expose()])
}
