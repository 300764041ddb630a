//! HPKE base mode, KEM X-Wing (0x647a), KDF HKDF-SHA-256, AEAD AES-256-GCM: one message to one key, single use.
//!
//! Protects every delivery of community keys, also against a quantum computer that reads a recording later.

use hpke::{
    Deserializable, Kem as _, OpModeR, OpModeS, Serializable as _,
    aead::AesGcm256,
    kdf::HkdfSha256,
    kem::XWing,
    rand_core::{TryCryptoRng, TryRng},
};

use crate::{Entropy, Refused, Secret};

/// Bytes of a sealing (public) key.
pub const SEALING_KEY_LEN: usize = 1216;
/// Bytes of an encapsulated key.
pub const ENCAPSULATED_LEN: usize = 1120;

/// The opening (private) half, kept as its 32-byte seed.
pub struct OpeningKey(Secret<32>);

impl OpeningKey {
    /// Draws a key for one delivery.
    pub fn generate(entropy: &mut (impl Entropy + ?Sized)) -> Self {
        Self(Secret::draw(entropy))
    }

    /// The key of a stored seed.
    #[must_use]
    pub fn from_seed(seed: Secret<32>) -> Self {
        Self(seed)
    }

    /// The seed, to be stored until the delivery came.
    #[must_use]
    pub fn seed(&self) -> &Secret<32> {
        &self.0
    }

    /// The public half.
    #[must_use]
    pub fn sealing_key(&self) -> Vec<u8> {
        XWing::derive_keypair(self.0.expose()).1.to_bytes().to_vec()
    }

    /// Opens a message made by [`seal`] with the same `info` and `aad`.
    ///
    /// # Errors
    /// [`Refused`] for anything that was not sealed to this key under this `info` and `aad`.
    pub fn open(&self, info: &[u8], aad: &[u8], encapsulated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Refused> {
        let (private, _public) = XWing::derive_keypair(self.0.expose());
        let encapped = <XWing as hpke::Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_e| Refused)?;
        hpke::single_shot_open::<AesGcm256, HkdfSha256, XWing>(&OpModeR::Base, &private, &encapped, info, sealed, aad)
            .map_err(|_e| Refused)
    }
}

impl core::fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("OpeningKey")
    }
}

/// Checks that [`seal`] will take `sealing_key`.
///
/// # Errors
/// [`Refused`] when it is no valid X-Wing key.
pub fn check_sealing_key(sealing_key: &[u8]) -> Result<(), Refused> {
    public_key(sealing_key).map(drop)
}

/// Seals `text` to `sealing_key`: the encapsulated key and the sealed text.
///
/// # Errors
/// [`Refused`] when `sealing_key` is no valid X-Wing key.
pub fn seal(
    sealing_key: &[u8],
    info: &[u8],
    aad: &[u8],
    text: &[u8],
    entropy: &mut (impl Entropy + ?Sized),
) -> Result<(Vec<u8>, Vec<u8>), Refused> {
    let public = public_key(sealing_key)?;
    let (encapped, sealed) = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, XWing>(
        &OpModeS::Base,
        &public,
        info,
        text,
        aad,
        &mut Drawn(entropy),
    )
    .map_err(|_e| Refused)?;
    Ok((encapped.to_bytes().to_vec(), sealed))
}

fn public_key(sealing_key: &[u8]) -> Result<<XWing as hpke::Kem>::PublicKey, Refused> {
    Deserializable::from_bytes(sealing_key).map_err(|_e| Refused)
}

/// [`Entropy`] in the shape that the library asks for.
struct Drawn<'a, E: Entropy + ?Sized>(&'a mut E);

impl<E: Entropy + ?Sized> TryRng for Drawn<'_, E> {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(out);
        Ok(())
    }
}

impl<E: Entropy + ?Sized> TryCryptoRng for Drawn<'_, E> {}
