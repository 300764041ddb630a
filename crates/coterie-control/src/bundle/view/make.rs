//! Making a view.

use coterie_crypto::{
    Entropy,
    aead::{Key, Suite},
    wrap,
};
use coterie_model::{DirectoryEntry, EpochKey, Writer};

use super::{Place, SealedView, aad, derive, query_key};
use crate::bundle::delivery::Label;

/// Seals `entries` under `key`.
pub(crate) fn seal(
    place: Place,
    label: Label,
    key: &EpochKey,
    entries: &[DirectoryEntry],
    entropy: &mut dyn Entropy,
) -> SealedView {
    let mut w = Writer::new();
    w.u16(u16::try_from(entries.len()).expect("at most MAX_ENTRIES, checked where a view is made"));
    for entry in entries {
        entry.encode(&mut w);
    }
    let mut sealed = w.into_bytes();
    let mut nonce = [0; 12];
    entropy.fill(&mut nonce);
    let tag =
        Key::new(Suite::Aes256GcmSiv, &derive(key, b"coterie/1 view")).seal(nonce, &aad(place, &label), &mut sealed);
    sealed.extend_from_slice(&tag);
    let query = wrap::wrap(&derive(key, b"coterie/1 query wrap"), &query_key(key));
    SealedView {
        label,
        epoch: key.epoch,
        query,
        nonce,
        sealed,
    }
}
