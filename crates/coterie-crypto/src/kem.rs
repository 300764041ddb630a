//! ML-KEM-768 (FIPS 203) with explicit randomness.

use libcrux_ml_kem::mlkem768;
use zeroize::Zeroize;

use crate::{Entropy, Refused, Secret};

/// Bytes of an encapsulation key.
pub const ENCAPSULATION_KEY_LEN: usize = 1184;
/// Bytes of a ciphertext.
pub const CIPHERTEXT_LEN: usize = 1088;

const PRIVATE_LEN: usize = 2400;

/// A decapsulation key in its expanded form (FIPS 203 section 7.1), wiped when dropped.
pub struct DecapsulationKey(Secret<PRIVATE_LEN>);

impl DecapsulationKey {
    /// Draws a key; gives it with its encapsulation key, which goes to the peer.
    pub fn generate(entropy: &mut (impl Entropy + ?Sized)) -> (Self, Box<[u8; ENCAPSULATION_KEY_LEN]>) {
        Self::from_seed(&Secret::draw(entropy))
    }

    /// The key of a seed `d || z` (FIPS 203 algorithm 16, `ML-KEM.KeyGen_internal`).
    #[must_use]
    pub fn from_seed(seed: &Secret<64>) -> (Self, Box<[u8; ENCAPSULATION_KEY_LEN]>) {
        let (private, public) = mlkem768::generate_key_pair(*seed.expose()).into_parts();
        (Self(Secret::new(private.into())), Box::new(*public.as_slice()))
    }

    /// The shared secret of `ciphertext`. A forged ciphertext gives an unrelated secret, not an error (implicit rejection).
    #[must_use]
    pub fn decapsulate(&self, ciphertext: &[u8; CIPHERTEXT_LEN]) -> Secret<32> {
        let private = mlkem768::MlKem768PrivateKey::from(self.0.expose());
        let shared = mlkem768::decapsulate(&private, &ciphertext.into());
        // The library's private key is a plain array that it does not wipe itself.
        let mut bytes: [u8; PRIVATE_LEN] = private.into();
        bytes.zeroize();
        Secret::new(shared)
    }
}

impl core::fmt::Debug for DecapsulationKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("DecapsulationKey")
    }
}

/// Encapsulates to `encapsulation_key`: the ciphertext for its owner, and the shared secret.
///
/// # Errors
/// [`Refused`] when the key fails the modulus check of FIPS 203 section 7.2.
pub fn encapsulate(
    encapsulation_key: &[u8; ENCAPSULATION_KEY_LEN],
    entropy: &mut (impl Entropy + ?Sized),
) -> Result<(Box<[u8; CIPHERTEXT_LEN]>, Secret<32>), Refused> {
    let key = mlkem768::MlKem768PublicKey::from(encapsulation_key);
    if !mlkem768::validate_public_key(&key) {
        return Err(Refused);
    }
    let mut randomness = [0; 32];
    entropy.fill(&mut randomness);
    let (ciphertext, shared) = mlkem768::encapsulate(&key, randomness);
    randomness.zeroize();
    Ok((Box::new(*ciphertext.as_slice()), Secret::new(shared)))
}
