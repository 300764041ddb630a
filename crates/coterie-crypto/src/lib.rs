//! Primitives for Coterie, from libraries, behind call paths of our own, and secrets that wipe and never print.
//!
//! Pure: every function takes bytes and gives bytes; randomness comes in through [`Entropy`], so a simulator can
//! replay a run from a seed. Nothing here reads a clock, a file or the operating system's generator.
//!
//! | what | module | library |
//! |---|---|---|
//! | AES-256-GCM, ChaCha20-Poly1305, AES-256-GCM-SIV | [`aead`] | aws-lc |
//! | X25519 (RFC 7748) | [`dh`] | aws-lc |
//! | SHA-256, HMAC (RFC 2104), HKDF (RFC 5869) | [`hash`] | aws-lc |
//! | AES-KW (RFC 3394) | [`wrap`] | aws-lc |
//! | Ed25519 (RFC 8032) | [`sign`] | aws-lc |
//! | ML-KEM-768 (FIPS 203) | [`kem`] | libcrux (verified, explicit randomness) |
//! | HPKE base mode with X-Wing (RFC 9180, draft-ietf-hpke-pq) | [`hpke`] | hpke |

pub mod aead;
pub mod dh;
mod entropy;
pub mod hash;
pub mod hpke;
pub mod kem;
mod secret;
pub mod sign;
pub mod wrap;

pub use entropy::{Entropy, SeededEntropy};
pub use secret::{Secret, same_bytes};

/// A primitive refused its input: a tag, a signature or a key that does not check, or a contributory-behaviour failure.
///
/// Deliberately says nothing more, so that no caller can tell a peer *why* (RFC 9180 section 7.2.1, Noise section 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("cryptographic check failed")
    }
}

impl core::error::Error for Refused {}
