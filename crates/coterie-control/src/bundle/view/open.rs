//! Reading a view: opened, then decoded.

use coterie_crypto::{
    Refused,
    aead::{Key, Suite},
    wrap,
};
use coterie_model::{DirectoryEntry, EpochKey, Malformed, Reader, Statement, Unverified};

use super::{MAX_ENTRIES, Place, SealedView, aad, derive, query_key};

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
    Ok(decode(text)?)
}

/// Reads the text of a view: at most [`super::MAX_ENTRIES`] entries, whose statements are still to be verified.
///
/// # Errors
/// [`Malformed`] when it is cut, says that there are more, or something follows.
pub fn decode(text: &[u8]) -> Result<Vec<DirectoryEntry<Unverified<Statement>>>, Malformed> {
    let mut r = Reader::new(text);
    let bad = r.malformed("count of entries");
    let count = usize::from(r.u16("count of entries")?);
    if count > MAX_ENTRIES {
        return Err(bad);
    }
    let entries = (0..count)
        .map(|_| DirectoryEntry::decode(&mut r))
        .collect::<Result<_, _>>()?;
    r.finish()?;
    Ok(entries)
}
