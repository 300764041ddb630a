use coterie_crypto::sign::VerifyingKey;

use crate::{EnclaveId, Era, Malformed, Name, Reader, SignedObject, UnixTime, Writer};

/// The root's word on who may sign for an enclave. Signed by the enclave's root key, which a node is given with its
/// seed or bundle; everything else is signed by the statement key that stands here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Grows when the enclave's state was restored or lost; a node never accepts a lower one.
    pub era: Era,
    /// The enclave.
    pub enclave: EnclaveId,
    /// Its name, for people.
    pub name: Name,
    /// The key that signs statements, manifests, revocations and heads.
    pub statement_key: VerifyingKey,
    /// Protocol time after which the key signs nothing more.
    pub not_after: UnixTime,
}

impl SignedObject for Authority {
    const LABEL: &'static str = "coterie/1 authority";

    fn encode(&self, w: &mut Writer) {
        w.u8(1).u64(self.era).bytes(&self.enclave.0).name(&self.name);
        w.bytes(&self.statement_key.0).u64(self.not_after.0);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        kind(r, 1, "authority")?;
        Ok(Self {
            era: r.u64("era")?,
            enclave: EnclaveId(r.array("enclave")?),
            name: r.name("enclave name")?,
            statement_key: VerifyingKey(r.array("statement key")?),
            not_after: UnixTime(r.u64("not-after")?),
        })
    }
}

/// Takes the byte that names an object's kind.
pub(super) fn kind(r: &mut Reader<'_>, expected: u8, what: &'static str) -> Result<(), Malformed> {
    let bad = r.malformed(what);
    if r.u8(what)? == expected { Ok(()) } else { Err(bad) }
}
