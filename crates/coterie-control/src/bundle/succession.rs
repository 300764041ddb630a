//! How an enclave gets a new root while its machines know the old one: the old root's word on the new one. A machine that
//! pins a root goes from word to word until it comes to the root of the bundle.

use coterie_crypto::sign::VerifyingKey;
use coterie_model::{EnclaveId, Malformed, Reader, Signed, SignedObject, UnixTime, Unverified, Writer};

/// Most successions that lead to a bundle's root.
pub const MAX_SUCCESSIONS: usize = 4;

/// The byte that names the kind among signed objects; WIRE.md has the lower ones.
const KIND: u8 = 6;

/// A root's word on the one that comes after it. Signed by the root that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Succession {
    /// The enclave.
    pub enclave: EnclaveId,
    /// The root that goes, and signs.
    pub from: VerifyingKey,
    /// The root that comes.
    pub to: VerifyingKey,
    /// When.
    pub time: UnixTime,
}

impl SignedObject for Succession {
    const LABEL: &'static str = "coterie/1 succession";

    fn encode(&self, w: &mut Writer) {
        w.u8(KIND).bytes(&self.enclave.0);
        w.bytes(&self.from.0).bytes(&self.to.0).u64(self.time.0);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let bad = r.malformed("succession");
        if r.u8("succession")? != KIND {
            return Err(bad);
        }
        Ok(Self {
            enclave: EnclaveId(r.array("enclave")?),
            from: VerifyingKey(r.array("root that goes")?),
            to: VerifyingKey(r.array("root that comes")?),
            time: UnixTime(r.u64("time of a succession")?),
        })
    }
}

/// Checks that each root named the next one, the last of them `root`, all of `enclave`; else gives the number of the first,
/// from 0, that is wrong.
pub(crate) fn check(links: &[Unverified<Succession>], root: &VerifyingKey, enclave: EnclaveId) -> Result<(), usize> {
    for (index, link) in links.iter().enumerate() {
        let next = links.get(index + 1).map_or(root, |next| &next.claimed().from);
        let signed: Result<Signed<Succession>, _> = link.clone().verify(&link.claimed().from);
        match signed {
            Ok(link) if link.to == *next && link.enclave == enclave => {}
            Ok(_) | Err(_) => return Err(index),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use coterie_crypto::{Secret, sign::SigningKey};

    use super::*;

    const ENCLAVE: EnclaveId = EnclaveId([7; 16]);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(Secret::new([n; 32]))
    }

    fn link(from: u8, to: u8, enclave: EnclaveId, signer: u8) -> Unverified<Succession> {
        let value = Succession {
            enclave,
            from: key(from).verifying_key(),
            to: key(to).verifying_key(),
            time: UnixTime(1),
        };
        Unverified::parse(Signed::sign(value, &key(signer)).bytes()).unwrap()
    }

    #[test]
    fn each_root_names_the_next() {
        let root = key(3).verifying_key();
        let good = || vec![link(1, 2, ENCLAVE, 1), link(2, 3, ENCLAVE, 2)];
        assert_eq!(check(&[], &root, ENCLAVE), Ok(()));
        assert_eq!(check(&good(), &root, ENCLAVE), Ok(()));
        assert_eq!(check(&good(), &key(4).verifying_key(), ENCLAVE), Err(1), "another root");
        for (index, bad) in [
            (0, link(1, 4, ENCLAVE, 1)),
            (0, link(1, 2, EnclaveId([8; 16]), 1)),
            (0, link(1, 2, ENCLAVE, 2)),
            (1, link(2, 3, ENCLAVE, 1)),
        ] {
            let mut links = good();
            links[index] = bad;
            assert_eq!(check(&links, &root, ENCLAVE), Err(index));
        }
        let mut turned = good();
        turned.reverse();
        assert!(check(&turned, &root, ENCLAVE).is_err());
    }
}
