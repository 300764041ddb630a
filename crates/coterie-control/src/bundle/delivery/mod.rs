//! Community keys in a certificate (¶60, claim 3): one key-encryption key, sealed to the machine, and every community
//! key wrapped under it. `make` seals and encodes, `open` decodes and opens.
//!
//! The certificate names communities by labels that are random for each certificate; which community a label stands for
//! is sealed together with the key-encryption key.

mod make;
mod open;

use coterie_crypto::{dh::PublicKey, sign::VerifyingKey, wrap::WRAPPED_LEN};
use coterie_model::{CommunityTag, EnclaveId, Epoch, MemberId, Serial, Writer};

pub use make::{encode, encode_text};
pub(crate) use make::{labels, seal};
pub(crate) use open::{Delivered, open};
pub use open::{Fault, decode, decode_text};

const VERSION: u8 = 1;
/// HPKE's numbers: KEM X-Wing, KDF HKDF-SHA-256, AEAD AES-256-GCM.
const SUITE: [u16; 3] = [0x647a, 0x0001, 0x0002];

/// A community's name in one certificate.
pub type Label = [u8; 16];

/// Which community each label stands for.
pub type Labels = Vec<(Label, CommunityTag)>;

/// The content of the certificate's extension, before anything of it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// HPKE's encapsulated key.
    pub encapsulated: &'a [u8],
    /// Key-encryption key and labels, sealed.
    pub sealed: &'a [u8],
    /// Community keys, wrapped under the key-encryption key.
    pub wrapped: Vec<WrappedKey>,
}

/// A community key of one epoch, wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// Of which community.
    pub label: Label,
    /// Of which epoch.
    pub epoch: Epoch,
    /// The key (RFC 3394).
    pub key: [u8; WRAPPED_LEN],
}

/// To whom, and as part of what, keys are delivered: bound to the seal, so that it opens nowhere else.
pub(crate) struct Address<'a> {
    pub(crate) enclave: EnclaveId,
    pub(crate) member: MemberId,
    pub(crate) serial: Serial,
    pub(crate) static_key: &'a PublicKey,
    pub(crate) identity_key: &'a VerifyingKey,
}

impl Address<'_> {
    fn purpose(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(b"coterie/1 bundle keys")
            .bytes(&self.enclave.0)
            .bytes(&self.member.0)
            .u64(self.serial);
        w.into_bytes()
    }

    fn owner(&self) -> Vec<u8> {
        [&self.static_key[..], &self.identity_key.0[..]].concat()
    }
}
