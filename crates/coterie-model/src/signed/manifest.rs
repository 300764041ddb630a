use super::authority::kind;
use crate::{CommunityTag, EnclaveId, Epoch, Era, Malformed, Name, Reader, SignedObject, UnixTime, Writer};

/// Why an epoch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochKind {
    /// By schedule: the previous epoch admits for one membership lease more.
    Scheduled,
    /// Because a member was removed: the previous epoch admits for 10 seconds more.
    Removal,
}

/// One epoch of one community: what its key is (by commitment) and when it admits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Era of the authority that signed.
    pub era: Era,
    /// The enclave.
    pub enclave: EnclaveId,
    /// The community.
    pub tag: CommunityTag,
    /// The community's name, for people.
    pub name: Name,
    /// Lower is preferred when members share several communities (¶39).
    pub priority: u16,
    /// The epoch's number.
    pub epoch: Epoch,
    /// [`crate::commitment`] of the key.
    pub commitment: [u8; 32],
    /// Protocol time from which initiators use this epoch.
    pub activates: UnixTime,
    /// Protocol time from which nobody accepts it.
    pub retires: UnixTime,
    /// Why it began.
    pub kind: EpochKind,
    /// Holders of the key, running or not: potential listeners (¶39).
    pub holders: u32,
}

impl SignedObject for Manifest {
    const LABEL: &'static str = "coterie/1 manifest";

    fn encode(&self, w: &mut Writer) {
        w.u8(3)
            .u64(self.era)
            .bytes(&self.enclave.0)
            .bytes(&self.tag.0)
            .name(&self.name)
            .u16(self.priority);
        w.u64(self.epoch)
            .bytes(&self.commitment)
            .u64(self.activates.0)
            .u64(self.retires.0);
        w.u8(match self.kind {
            EpochKind::Scheduled => 0,
            EpochKind::Removal => 1,
        });
        w.u32(self.holders);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        kind(r, 3, "manifest")?;
        Ok(Self {
            era: r.u64("era")?,
            enclave: EnclaveId(r.array("enclave")?),
            tag: CommunityTag(r.array("community tag")?),
            name: r.name("community name")?,
            priority: r.u16("priority")?,
            epoch: r.u64("epoch")?,
            commitment: r.array("commitment")?,
            activates: UnixTime(r.u64("activates")?),
            retires: UnixTime(r.u64("retires")?),
            kind: {
                let bad = r.malformed("epoch kind");
                match r.u8("epoch kind")? {
                    0 => EpochKind::Scheduled,
                    1 => EpochKind::Removal,
                    _ => return Err(bad),
                }
            },
            holders: r.u32("holders")?,
        })
    }
}
