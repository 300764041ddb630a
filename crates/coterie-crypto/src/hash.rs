//! SHA-256, HMAC-SHA-256 and HKDF-SHA-256.

use aws_lc_rs::{digest, hkdf as lc_hkdf, hmac};

use crate::Secret;

/// SHA-256 over the concatenation of `parts`.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut ctx = digest::Context::new(&digest::SHA256);
    for part in parts {
        ctx.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(ctx.finish().as_ref());
    out
}

/// An HMAC-SHA-256 key with its pads computed once (110 ns a digest instead of 300 where many keys are tried).
pub struct MacKey(hmac::Key);

impl MacKey {
    /// Prepares `key`, of any length.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The whole 32-byte tag.
    #[must_use]
    pub fn tag(&self, message: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&self.0, message).as_ref());
        out
    }

    /// The first 16 bytes of the tag: what WIRE calls a mac.
    #[must_use]
    pub fn mac(&self, message: &[u8]) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&hmac::sign(&self.0, message).as_ref()[..16]);
        out
    }
}

impl core::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("MacKey")
    }
}

struct Length(usize);

impl lc_hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA-256 (RFC 5869): extract with `salt` from `ikm`, expand with the concatenation of `info` into `out`.
///
/// With an empty `info` and `out` of 64 or 96 bytes this is the HKDF of Noise (section 4.3).
///
/// # Panics
/// When `out` is longer than 255 x 32 bytes: a caller's error, no input can cause it.
pub fn hkdf(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let prk = lc_hkdf::Salt::new(lc_hkdf::HKDF_SHA256, salt).extract(ikm);
    prk.expand(info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .expect("HKDF output is limited to 8,160 bytes and every caller asks for a fixed, smaller length");
}

/// [`hkdf`] into a fresh [`Secret`].
#[must_use]
pub fn derive<const N: usize>(salt: &[u8], ikm: &[u8], info: &[&[u8]]) -> Secret<N> {
    let mut out = Secret::zeroed();
    hkdf(salt, ikm, info, out.expose_mut());
    out
}

/// HKDF-Expand (RFC 5869 section 2.3) of a key that is uniform already.
#[must_use]
pub fn expand<const N: usize>(key: &Secret<32>, info: &[&[u8]]) -> Secret<N> {
    let mut out = Secret::zeroed();
    lc_hkdf::Prk::new_less_safe(lc_hkdf::HKDF_SHA256, key.expose())
        .expand(info, Length(N))
        .and_then(|okm| okm.fill(out.expose_mut()))
        .expect("HKDF output is limited to 8,160 bytes and every caller asks for a fixed, smaller length");
    out
}
