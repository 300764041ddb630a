//! The frame around a Noise message: type, indices, `mac1`, `mac2` (WIRE sections 3.1 and 3.4).

use coterie_crypto::hash::{self, MacKey};

use crate::wire::datagram::MAC_LEN;

/// Bytes before the Noise message of an initiation.
pub const INITIATION_HEADER: usize = 8;
/// Bytes before the Noise message of a response.
pub const RESPONSE_HEADER: usize = 12;

/// A handshake datagram, cut at its macs.
#[derive(Debug, Clone, Copy)]
pub struct Framed<'a> {
    /// What `mac1` covers.
    pub before_mac1: &'a [u8],
    /// What `mac2` covers.
    pub before_mac2: &'a [u8],
    /// Proof of a community's key.
    pub mac1: &'a [u8; MAC_LEN],
    /// Proof of the source address, or zeros.
    pub mac2: &'a [u8; MAC_LEN],
}

impl<'a> Framed<'a> {
    /// Cuts a datagram that [`crate::wire::datagram::parse`] found long enough; `None` otherwise.
    #[must_use]
    pub fn cut(datagram: &'a [u8]) -> Option<Self> {
        let (before_mac2, mac2) = datagram.split_last_chunk()?;
        let (before_mac1, mac1) = before_mac2.split_last_chunk()?;
        Some(Self {
            before_mac1,
            before_mac2,
            mac1,
            mac2,
        })
    }

    /// What `mac1` is computed over: hashed once, then tried under every key.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        hash::sha256(&[self.before_mac1])
    }
}

/// Appends both macs to a handshake message.
pub fn append_macs(message: &mut Vec<u8>, mac_key: &MacKey, cookie: Option<&[u8; MAC_LEN]>) -> [u8; MAC_LEN] {
    let mac1 = mac_key.mac(&hash::sha256(&[message]));
    message.extend_from_slice(&mac1);
    let mac2 = cookie.map_or([0; MAC_LEN], |c| MacKey::new(c).mac(&hash::sha256(&[message])));
    message.extend_from_slice(&mac2);
    mac1
}
