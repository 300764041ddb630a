//! What a member knows of the others of one community, under that community's key (claim 4): enough to start without a
//! directory. Whoever carries the bundle learns nothing from it.

use coterie_crypto::{
    Entropy, Refused, Secret,
    aead::{Key, Suite},
    hash,
    wrap::{self, WRAPPED_LEN},
};
use coterie_model::{
    DirectoryEntry, Epoch, EpochKey, Malformed, MemberId, Reader, Serial, Statement, Unverified, Writer,
};

use super::delivery::Label;

/// Most entries of one view: larger communities resolve on demand.
pub const MAX_ENTRIES: usize = 1000;

/// A view as it stands in a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SealedView {
    /// Which community, in the words of the bundle certificate.
    pub(crate) label: Label,
    /// The epoch whose key opens it.
    pub(crate) epoch: Epoch,
    /// The query key of that epoch (WIRE section 2), wrapped.
    pub(crate) query: [u8; WRAPPED_LEN],
    /// Random.
    pub(crate) nonce: [u8; 12],
    /// Entries, sealed.
    pub(crate) sealed: Vec<u8>,
}

/// Which bundle a view belongs to: bound to its seal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) member: MemberId,
    pub(crate) serial: Serial,
}

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

/// Why a view does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Sealed,
    Malformed(Malformed),
}

impl From<Refused> for Fault {
    fn from(_refused: Refused) -> Self {
        Self::Sealed
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Opens a view; the entries' statements are still to be verified.
pub(crate) fn open(
    place: Place,
    view: &SealedView,
    key: &EpochKey,
) -> Result<Vec<DirectoryEntry<Unverified<Statement>>>, Fault> {
    let query = wrap::unwrap(&derive(key, b"coterie/1 query wrap"), &view.query)?;
    if query != query_key(key) {
        return Err(Fault::Sealed);
    }
    let mut text = view.sealed.clone();
    let text = Key::new(Suite::Aes256GcmSiv, &derive(key, b"coterie/1 view")).open(
        view.nonce,
        &aad(place, &view.label),
        &mut text,
    )?;
    let mut r = Reader::new(text);
    let bad = r.malformed("count of entries");
    let count = usize::from(r.u16("count of entries")?);
    if count > MAX_ENTRIES {
        return Err(bad.into());
    }
    let entries = (0..count)
        .map(|_| DirectoryEntry::decode(&mut r))
        .collect::<Result<_, _>>()?;
    r.finish()?;
    Ok(entries)
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
