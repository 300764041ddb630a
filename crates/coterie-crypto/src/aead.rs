//! Authenticated encryption in place, with a 32-byte key, a 12-byte nonce and a 16-byte tag.

use aws_lc_rs::aead::{AES_256_GCM, AES_256_GCM_SIV, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::{Refused, Secret};

/// Bytes that a seal adds.
pub const TAG_LEN: usize = 16;

/// The cipher of a session's data, offered in message 1 and chosen in message 2 (WIRE section 3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// AES-256-GCM (NIST SP 800-38D): where both ends have AES in hardware.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): everywhere else.
    ChaCha20Poly1305,
    /// AES-256-GCM-SIV (RFC 8452): for templates that snapshot running machines; a repeated nonce reveals only equality.
    Aes256GcmSiv,
}

impl Suite {
    /// All suites, in the order of their bits on the wire.
    pub const ALL: [Self; 3] = [Self::Aes256Gcm, Self::ChaCha20Poly1305, Self::Aes256GcmSiv];

    /// The suite's bit on the wire: 1, 2 or 4.
    #[must_use]
    pub const fn bit(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
            Self::Aes256GcmSiv => 4,
        }
    }

    /// The suite of exactly one bit.
    #[must_use]
    pub fn from_bit(bit: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.bit() == bit)
    }

    /// The name that files and `status` use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes256GcmSiv => "aes-256-gcm-siv",
        }
    }
}

/// A key bound to its suite. The library's context is wiped when it is freed.
pub struct Key(LessSafeKey);

impl Key {
    /// Prepares `key` for `suite`.
    #[must_use]
    pub fn new(suite: Suite, key: &Secret<32>) -> Self {
        let algorithm = match suite {
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Suite::Aes256GcmSiv => &AES_256_GCM_SIV,
        };
        let unbound = UnboundKey::new(algorithm, key.expose()).expect("all three suites take a key of 32 bytes");
        Self(LessSafeKey::new(unbound))
    }

    /// Encrypts `text` in place and gives the tag. The caller owns the promise that `nonce` is used once.
    ///
    /// # Panics
    /// When `text` is longer than the cipher allows (64 GiB): no datagram can be.
    #[must_use]
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), text)
            .expect("a datagram is far below the cipher's limit");
        let mut out = [0; TAG_LEN];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Checks the last 16 bytes of `sealed` as tag and decrypts the rest in place.
    ///
    /// # Errors
    /// [`Refused`] when `sealed` is shorter than a tag or the tag does not check; the bytes are then unusable.
    pub fn open<'a>(&self, nonce: [u8; 12], aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], Refused> {
        let split = sealed.len().checked_sub(TAG_LEN).ok_or(Refused)?;
        let (text, tag) = sealed.split_at_mut(split);
        self.0
            .open_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), tag, text)
            .map_err(|_unspecified| Refused)
    }
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key")
    }
}
