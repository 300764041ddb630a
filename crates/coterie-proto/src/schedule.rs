//! What is derived from a community key (WIRE section 2).

use coterie_crypto::{
    Secret,
    dh::PublicKey,
    hash::{self, DigestMac, MacKey},
};
use coterie_model::EpochKey;

/// Noise's pre-shared key towards the owner of `checker`.
#[must_use]
pub fn psk(k: &EpochKey, checker: &PublicKey) -> Secret<32> {
    keyed(k, b"coterie/1 psk", &[checker])
}

/// The key of `mac1` in messages that the owner of `checker` checks.
#[must_use]
pub fn mac_key(k: &EpochKey, checker: &PublicKey) -> MacKey {
    MacKey::new(mac_secret(k, checker).expose())
}

/// The same key, prepared to check messages to the owner of `checker` among many.
#[must_use]
pub fn trial_mac_key(k: &EpochKey, checker: &PublicKey) -> DigestMac {
    DigestMac::new(mac_secret(k, checker).expose())
}

/// The key that seals a cookie to whoever holds the community's key.
#[must_use]
pub fn cookie_key(k: &EpochKey, responder: &PublicKey) -> Secret<32> {
    hash::derive(b"", mac_secret(k, responder).expose(), &[b"coterie/1 cookie"])
}

/// The key under which the initiator wraps the session secret (¶40).
#[must_use]
pub fn wrap_key(k: &EpochKey, responder: &PublicKey, handshake_hash: &[u8; 32]) -> Secret<32> {
    keyed(k, b"coterie/1 wrap", &[responder, handshake_hash])
}

/// The key that seals direct queries and their answers.
#[must_use]
pub fn query_key(k: &EpochKey) -> Secret<32> {
    keyed(k, b"coterie/1 query", &[])
}

/// The key of a query's mac.
#[must_use]
pub fn query_mac_key(k: &EpochKey) -> MacKey {
    MacKey::new(keyed(k, b"coterie/1 query mac", &[]).expose())
}

/// The same key, prepared to check queries among many.
#[must_use]
pub fn trial_query_mac_key(k: &EpochKey) -> DigestMac {
    DigestMac::new(keyed(k, b"coterie/1 query mac", &[]).expose())
}

/// Noise's prologue: version, community, epoch.
#[must_use]
pub fn prologue(k: &EpochKey) -> [u8; 33] {
    let mut p = [0; 33];
    p[..9].copy_from_slice(b"coterie/1");
    p[9..25].copy_from_slice(&k.tag.0);
    p[25..].copy_from_slice(&k.epoch.to_be_bytes());
    p
}

fn mac_secret(k: &EpochKey, checker: &PublicKey) -> Secret<32> {
    keyed(k, b"coterie/1 mac", &[checker])
}

fn keyed(k: &EpochKey, label: &[u8], more: &[&[u8]]) -> Secret<32> {
    let epoch = k.epoch.to_be_bytes();
    let mut info: Vec<&[u8]> = vec![label, &k.tag.0, &epoch];
    info.extend_from_slice(more);
    hash::derive(b"", k.key.expose(), &info)
}
