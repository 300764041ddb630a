//! AES-256 key wrap (RFC 3394): no nonce, for one 32-byte key under another.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};

use crate::{Refused, Secret};

/// Bytes of a wrapped 32-byte key.
pub const WRAPPED_LEN: usize = 40;

/// Wraps `key` under `kek`.
#[must_use]
pub fn wrap(kek: &Secret<32>, key: &Secret<32>) -> [u8; WRAPPED_LEN] {
    let mut out = [0; WRAPPED_LEN];
    AesKek::new(&AES_256, kek.expose())
        .and_then(|k| k.wrap(key.expose(), &mut out).map(|_slice| ()))
        .expect("a 32-byte key wraps into 40 bytes under a 32-byte key");
    out
}

/// Unwraps what [`wrap`] made.
///
/// # Errors
/// [`Refused`] when the integrity check of RFC 3394 section 2.2.3 fails.
pub fn unwrap(kek: &Secret<32>, wrapped: &[u8; WRAPPED_LEN]) -> Result<Secret<32>, Refused> {
    let kek = AesKek::new(&AES_256, kek.expose()).map_err(|_unspecified| Refused)?;
    // The library asks for room of one block more than the key while it works.
    let mut room = Secret::<40>::zeroed();
    let key = kek.unwrap(wrapped, room.expose_mut()).map_err(|_unspecified| Refused)?;
    Secret::from_slice(key).ok_or(Refused)
}
