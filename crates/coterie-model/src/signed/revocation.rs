use coterie_crypto::{dh::PublicKey, hash};

use super::authority::kind;
use crate::{EnclaveId, Era, Malformed, MemberId, Reader, Revision, Signed, SignedObject, UnixTime, Writer};

/// Most entries of one list: 900 fit a reassembled difference of 64 KiB.
pub const MAX_REVOCATIONS: usize = 900;

/// One member that is refused at once, by its static key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The member.
    pub member: MemberId,
    /// Its static key: revoked by the key itself, not by a fingerprint of an encoding.
    pub static_key: PublicKey,
    /// When its last statement ends by itself and the entry leaves the list.
    pub until: UnixTime,
}

/// All members of an enclave that are revoked and whose statements have not ended: cumulative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocations {
    /// Era of the authority that signed.
    pub era: Era,
    /// The enclave.
    pub enclave: EnclaveId,
    /// Grows with each change.
    pub revision: Revision,
    /// At most [`MAX_REVOCATIONS`], sorted by static key.
    pub entries: Vec<Revocation>,
}

impl SignedObject for Revocations {
    const LABEL: &'static str = "coterie/1 revocations";

    fn encode(&self, w: &mut Writer) {
        w.u8(4).u64(self.era).bytes(&self.enclave.0).u64(self.revision);
        w.u16(u16::try_from(self.entries.len()).expect("at most 900 entries, checked where a list is made"));
        for e in &self.entries {
            w.bytes(&e.member.0).bytes(&e.static_key).u64(e.until.0);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        kind(r, 4, "revocations")?;
        Ok(Self {
            era: r.u64("era")?,
            enclave: EnclaveId(r.array("enclave")?),
            revision: r.u64("revision")?,
            entries: {
                let bad = r.malformed("revocation count");
                let count = usize::from(r.u16("revocation count")?);
                if count > MAX_REVOCATIONS {
                    return Err(bad);
                }
                let entries = (0..count).map(|_| entry(r)).collect::<Result<Vec<_>, _>>()?;
                if !entries.is_sorted_by(|a, b| a.static_key < b.static_key) {
                    return Err(bad);
                }
                entries
            },
        })
    }
}

fn entry(r: &mut Reader<'_>) -> Result<Revocation, Malformed> {
    Ok(Revocation {
        member: MemberId(r.array("revoked member")?),
        static_key: r.array("revoked static key")?,
        until: UnixTime(r.u64("revoked until")?),
    })
}

/// The enclave's pulse: every 10 s while there is a server, valid 60 s. Carries protocol time and pins the lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Era of the authority that signed.
    pub era: Era,
    /// The enclave.
    pub enclave: EnclaveId,
    /// Revision of the revocations that it pins.
    pub revision: Revision,
    /// Protocol time when it was signed.
    pub time: UnixTime,
    /// [`head_hash`] of what it pins.
    pub hash: [u8; 32],
}

impl SignedObject for Head {
    const LABEL: &'static str = "coterie/1 head";

    fn encode(&self, w: &mut Writer) {
        w.u8(5)
            .u64(self.era)
            .bytes(&self.enclave.0)
            .u64(self.revision)
            .u64(self.time.0)
            .bytes(&self.hash);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        kind(r, 5, "head")?;
        Ok(Self {
            era: r.u64("era")?,
            enclave: EnclaveId(r.array("enclave")?),
            revision: r.u64("revision")?,
            time: UnixTime(r.u64("head time")?),
            hash: r.array("head hash")?,
        })
    }
}

/// `SHA-256("coterie/1 head" | revocations)`: body and signature of the list that the head pins.
#[must_use]
pub fn head_hash(revocations: &Signed<Revocations>) -> [u8; 32] {
    hash::sha256(&[b"coterie/1 head", revocations.bytes()])
}
