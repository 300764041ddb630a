//! What the two Noise messages of a visit carry: as much as those of members, so that their length tells nothing.

use coterie_crypto::aead::Suite;
use coterie_model::{Malformed, Reader, Writer};

use crate::handshake::payload::Suites;

/// Bytes of either payload: what a member's has with a statement of middling length.
const LENGTH: usize = 256;

/// Payload of the visitor's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Knocking {
    /// Above every counter that this static key sent before.
    pub(super) counter: u64,
    /// Suites that the visitor has.
    pub(super) suites: Suites,
    /// The one that it would like.
    pub(super) preferred: Suite,
}

impl Knocking {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.counter).u8(self.suites.bits()).u8(self.preferred.bit());
        padded(w)
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = whole(bytes)?;
        let this = Self {
            counter: r.u64("counter")?,
            suites: {
                let bad = r.malformed("suites");
                Suites::from_bits(r.u8("suites")?).ok_or(bad)?
            },
            preferred: {
                let bad = r.malformed("suite");
                Suite::from_bit(r.u8("suite")?).ok_or(bad)?
            },
        };
        padding(&mut r)?;
        Ok(this)
    }
}

/// Payload of the door's message: the suite.
pub(super) fn opening(suite: Suite) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(suite.bit());
    padded(w)
}

/// The suite of [`opening`].
pub(super) fn parse_opening(bytes: &[u8]) -> Result<Suite, Malformed> {
    let mut r = whole(bytes)?;
    let bad = r.malformed("suite");
    let suite = Suite::from_bit(r.u8("suite")?).ok_or(bad)?;
    padding(&mut r)?;
    Ok(suite)
}

fn padded(w: Writer) -> Vec<u8> {
    let mut bytes = w.into_bytes();
    bytes.resize(LENGTH, 0);
    bytes
}

fn padding(r: &mut Reader<'_>) -> Result<(), Malformed> {
    let bad = r.malformed("padding");
    let rest = r.take(r.remaining(), "padding")?;
    if rest.iter().all(|b| *b == 0) { Ok(()) } else { Err(bad) }
}

fn whole(bytes: &[u8]) -> Result<Reader<'_>, Malformed> {
    let r = Reader::new(bytes);
    if bytes.len() == LENGTH {
        Ok(r)
    } else {
        Err(r.malformed("length"))
    }
}
