//! What messages 1 and 2 carry under seal (WIRE sections 3.1 and 3.4).

use coterie_crypto::aead::Suite;
use coterie_model::{Era, Malformed, Reader, Revision, Statement, Unverified, Writer};

/// Most lanes of a session.
pub const MAX_LANES: u8 = 16;

/// Payload of message 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitiationPayload {
    /// Above every counter that this static key sent before.
    pub counter: u64,
    /// Lanes that the initiator sends on.
    pub lanes: u8,
    /// Suites that it has.
    pub suites: Suites,
    /// The one that it would like.
    pub preferred: Suite,
    /// Era that it knows.
    pub era: Era,
    /// Revision of the revocations that it knows.
    pub revision: Revision,
    /// Its statement for the community.
    pub statement: Unverified<Statement>,
}

/// Payload of message 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponsePayload {
    /// Lanes that the responder sends on.
    pub lanes: u8,
    /// The suite for both directions.
    pub suite: Suite,
    /// Era that it knows.
    pub era: Era,
    /// Revision of the revocations that it knows.
    pub revision: Revision,
    /// Its statement for the community.
    pub statement: Unverified<Statement>,
}

/// A non-empty set of suites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suites(u8);

impl Suites {
    /// The set of `suites`; `None` when it is empty.
    #[must_use]
    pub fn new(suites: &[Suite]) -> Option<Self> {
        Self::from_bits(suites.iter().fold(0, |bits, s| bits | s.bit()))
    }

    /// The set of these wire bits; `None` when it is empty or has unknown bits.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        (bits != 0 && bits < 8).then_some(Self(bits))
    }

    /// The wire bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// True when `suite` is in the set.
    #[must_use]
    pub const fn has(self, suite: Suite) -> bool {
        self.0 & suite.bit() != 0
    }

    /// What the responder chooses (WIRE section 3.4): a misuse-resistant suite if either side wants it, else ChaCha20 if
    /// either lacks AES in hardware, else AES-GCM; `None` without a suite in common.
    #[must_use]
    pub fn choose(self, preferred: Suite, theirs: Self, their_preferred: Suite) -> Option<Suite> {
        let common = Self(self.0 & theirs.0);
        let wanted = |s: Suite| common.has(s) && (preferred == s || their_preferred == s);
        [Suite::Aes256GcmSiv, Suite::ChaCha20Poly1305]
            .into_iter()
            .find(|s| wanted(*s))
            .or_else(|| Suite::ALL.into_iter().find(|s| common.has(*s)))
    }
}

impl InitiationPayload {
    /// The bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.counter)
            .u8(self.lanes)
            .u8(self.suites.0)
            .u8(self.preferred.bit());
        w.u64(self.era).u64(self.revision).bytes(self.statement.bytes());
        w.into_bytes()
    }

    /// Parses them.
    ///
    /// # Errors
    /// [`Malformed`] when a field is out of range or bytes are missing or left over.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let this = Self {
            counter: r.u64("counter")?,
            lanes: lanes(&mut r)?,
            suites: {
                let bad = r.malformed("suites");
                Suites::from_bits(r.u8("suites")?).ok_or(bad)?
            },
            preferred: suite(&mut r)?,
            era: r.u64("era")?,
            revision: r.u64("revision")?,
            statement: Unverified::take(&mut r)?,
        };
        r.finish()?;
        Ok(this)
    }
}

impl ResponsePayload {
    /// The bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(self.lanes)
            .u8(self.suite.bit())
            .u64(self.era)
            .u64(self.revision)
            .bytes(self.statement.bytes());
        w.into_bytes()
    }

    /// Parses them.
    ///
    /// # Errors
    /// [`Malformed`] when a field is out of range or bytes are missing or left over.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let this = Self {
            lanes: lanes(&mut r)?,
            suite: suite(&mut r)?,
            era: r.u64("era")?,
            revision: r.u64("revision")?,
            statement: Unverified::take(&mut r)?,
        };
        r.finish()?;
        Ok(this)
    }
}

fn lanes(r: &mut Reader<'_>) -> Result<u8, Malformed> {
    let bad = r.malformed("lanes");
    let lanes = r.u8("lanes")?;
    if (1..=MAX_LANES).contains(&lanes) {
        Ok(lanes)
    } else {
        Err(bad)
    }
}

fn suite(r: &mut Reader<'_>) -> Result<Suite, Malformed> {
    let bad = r.malformed("suite");
    Suite::from_bit(r.u8("suite")?).ok_or(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_of_a_suite_is_the_same_from_both_ends() {
        for a in 1..8u8 {
            for b in 1..8u8 {
                let (a, b) = (Suites::from_bits(a).unwrap(), Suites::from_bits(b).unwrap());
                for pa in Suite::ALL.into_iter().filter(|s| a.has(*s)) {
                    for pb in Suite::ALL.into_iter().filter(|s| b.has(*s)) {
                        let chosen = a.choose(pa, b, pb);
                        assert_eq!(chosen, b.choose(pb, a, pa));
                        assert_eq!(chosen.is_some(), a.bits() & b.bits() != 0);
                        assert!(chosen.is_none_or(|s| a.has(s) && b.has(s)));
                    }
                }
            }
        }
        assert_eq!(Suites::from_bits(0), None);
        assert_eq!(Suites::from_bits(8), None);
    }
}
