use coterie_crypto::dh::PublicKey;

use super::authority::kind;
use crate::{
    CommunityTag, EnclaveId, Era, Malformed, MemberId, Name, Prefix, Reader, Serial, SignedObject, UnixTime, Writer,
};

/// Most address ranges that one statement names.
pub const MAX_ADDRESSES: usize = 16;

/// One member's membership in one community: whose static key it is, and which inside addresses it may use. Ends by
/// itself (the *membership lease*).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Era of the authority that signed.
    pub era: Era,
    /// The enclave.
    pub enclave: EnclaveId,
    /// The community.
    pub tag: CommunityTag,
    /// The member: one enrolment of one machine.
    pub member: MemberId,
    /// The member's name, for people.
    pub name: Name,
    /// The member's X25519 static key, new for each enrolment.
    pub static_key: PublicKey,
    /// Inside address ranges that the member may send from and is reached at; at most [`MAX_ADDRESSES`].
    pub addresses: Vec<Prefix>,
    /// Grows with each statement about this member in this community.
    pub serial: Serial,
    /// Protocol time at which the membership lease ends.
    pub not_after: UnixTime,
}

impl SignedObject for Statement {
    const LABEL: &'static str = "coterie/1 statement";

    fn encode(&self, w: &mut Writer) {
        w.u8(2)
            .u64(self.era)
            .bytes(&self.enclave.0)
            .bytes(&self.tag.0)
            .bytes(&self.member.0);
        w.name(&self.name).bytes(&self.static_key);
        w.u8(u8::try_from(self.addresses.len()).expect("at most 16 address ranges, checked where a statement is made"));
        for prefix in &self.addresses {
            w.prefix(prefix);
        }
        w.u64(self.serial).u64(self.not_after.0);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        kind(r, 2, "statement")?;
        Ok(Self {
            era: r.u64("era")?,
            enclave: EnclaveId(r.array("enclave")?),
            tag: CommunityTag(r.array("community tag")?),
            member: MemberId(r.array("member")?),
            name: r.name("member name")?,
            static_key: r.array("static key")?,
            addresses: {
                let bad = r.malformed("address count");
                let count = usize::from(r.u8("address count")?);
                if count > MAX_ADDRESSES {
                    return Err(bad);
                }
                (0..count).map(|_| r.prefix("address")).collect::<Result<_, _>>()?
            },
            serial: r.u64("serial")?,
            not_after: UnixTime(r.u64("not-after")?),
        })
    }
}
