//! Ed25519 (RFC 8032) with domain separation: every signature covers a label that names the kind of object.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::{Entropy, Refused, Secret};

/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// A signing key, kept as its seed.
pub struct SigningKey {
    seed: Secret<32>,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// The key of a 32-byte seed.
    #[must_use]
    pub fn from_seed(seed: Secret<32>) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("every 32-byte string is an Ed25519 seed");
        Self { seed, pair }
    }

    /// Draws a fresh key.
    pub fn generate(entropy: &mut (impl Entropy + ?Sized)) -> Self {
        Self::from_seed(Secret::draw(entropy))
    }

    /// The seed, to be stored.
    #[must_use]
    pub fn seed(&self) -> &Secret<32> {
        &self.seed
    }

    /// The key in PKCS#8 (RFC 8410), for X.509 libraries.
    ///
    /// # Errors
    /// [`Refused`] when the library cannot encode its own key.
    pub fn to_pkcs8(&self) -> Result<Vec<u8>, Refused> {
        Ok(self.pair.to_pkcs8().map_err(|_unspecified| Refused)?.as_ref().to_vec())
    }

    /// The verifying key.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        VerifyingKey(bytes)
    }

    /// Signs `label || 0x00 || message`.
    #[must_use]
    pub fn sign(&self, label: &str, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        let mut out = [0; SIGNATURE_LEN];
        out.copy_from_slice(self.pair.sign(&labelled(label, message)).as_ref());
        out
    }
}

impl core::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SigningKey(of {:?})", self.verifying_key())
    }
}

/// The public half of a [`SigningKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyingKey(pub [u8; 32]);

impl VerifyingKey {
    /// Checks a signature of `label || 0x00 || message`.
    ///
    /// # Errors
    /// [`Refused`] when it does not check. A malleable or non-canonical signature does not.
    pub fn verify(&self, label: &str, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> Result<(), Refused> {
        self.verify_raw(&labelled(label, message), signature)
    }

    /// Checks a plain Ed25519 signature without a label (certificates, vectors).
    ///
    /// # Errors
    /// [`Refused`] when it does not check.
    pub fn verify_raw(&self, message: &[u8], signature: &[u8]) -> Result<(), Refused> {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature)
            .map_err(|_unspecified| Refused)
    }
}

fn labelled(label: &str, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(label.len() + 1 + message.len());
    bytes.extend_from_slice(label.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(message);
    bytes
}
