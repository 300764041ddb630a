//! X25519 (RFC 7748).

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};

use crate::{Entropy, Refused, Secret};

/// A public key: 32 bytes, little-endian u-coordinate.
pub type PublicKey = [u8; 32];

/// A private key with its public key. The private bytes are kept beside the library's object, because a node must be
/// able to hand its identity over to the next process.
pub struct KeyPair {
    private: Secret<32>,
    key: PrivateKey,
    public: PublicKey,
}

impl KeyPair {
    /// Takes 32 random bytes as the private key (clamped as RFC 7748 section 5 says).
    #[must_use]
    pub fn from_private(private: Secret<32>) -> Self {
        let key = PrivateKey::from_private_key(&X25519, private.expose())
            .expect("every 32-byte string is an X25519 private key");
        let computed = key
            .compute_public_key()
            .expect("the public key of a valid private key can be computed");
        let mut public = [0; 32];
        public.copy_from_slice(computed.as_ref());
        Self { private, key, public }
    }

    /// Draws a fresh key pair.
    pub fn generate(entropy: &mut (impl Entropy + ?Sized)) -> Self {
        Self::from_private(Secret::draw(entropy))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The private half, to be stored with the node's identity.
    #[must_use]
    pub fn private(&self) -> &Secret<32> {
        &self.private
    }

    /// The shared secret with `peer`.
    ///
    /// # Errors
    /// [`Refused`] when the result is all zeros (a low-order `peer`; RFC 7748 section 6.1).
    pub fn agree(&self, peer: &PublicKey) -> Result<Secret<32>, Refused> {
        agreement::agree(&self.key, UnparsedPublicKey::new(&X25519, peer), Refused, |shared| {
            Secret::from_slice(shared)
                .filter(|s| s.expose() != &[0; 32])
                .ok_or(Refused)
        })
    }
}

impl core::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("KeyPair")
            .field("public", &self.public[0])
            .finish_non_exhaustive()
    }
}
