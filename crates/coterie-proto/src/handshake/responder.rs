//! The responder's side: initiation in, response out (WIRE sections 3.2 and 3.4). The order of the checks between the two
//! halves is the node's (`node::contact`), because it needs its memory of others.

use coterie_crypto::{Entropy, Refused, aead::Suite, dh::KeyPair};
use coterie_model::EpochKey;

use super::{
    exchange::Responded,
    frame::{Framed, INITIATION_HEADER, append_macs},
    initiator::Introduction,
    noise::{Claimed, Proved},
    payload::ResponsePayload,
};
use crate::{schedule, wire::datagram::RESPONSE};

/// First half of message 1: one Diffie-Hellman, and the static key that the initiator claims.
///
/// # Errors
/// [`Refused`] when it does not check.
pub fn claimed(keys: &KeyPair, key: &EpochKey, framed: &Framed<'_>) -> Result<Claimed, Refused> {
    let message = framed.before_mac1.get(INITIATION_HEADER..).ok_or(Refused)?;
    Claimed::read(
        keys,
        &schedule::psk(key, keys.public()),
        &schedule::prologue(key),
        message,
    )
}

/// Makes the response.
///
/// # Errors
/// [`Refused`] when the initiator's keys are low-order points.
pub fn respond(
    me: Introduction<'_>,
    key: &EpochKey,
    proved: Proved,
    suite: Suite,
    (local_index, remote_index): (u32, u32),
    entropy: &mut (impl Entropy + ?Sized),
) -> Result<(Responded, Vec<u8>), Refused> {
    let payload = ResponsePayload {
        lanes: me.lanes,
        suite,
        era: me.era,
        revision: me.revision,
        statement: me.unverified_statement(),
    };
    let mut message = vec![RESPONSE, 0, 0, 0];
    message.extend_from_slice(&local_index.to_be_bytes());
    message.extend_from_slice(&remote_index.to_be_bytes());
    let mac_key = schedule::mac_key(key, proved.static_key());
    let established = proved.respond(&payload.to_bytes(), entropy, &mut message)?;
    append_macs(&mut message, &mac_key, None);
    Ok((Responded::new(established), message))
}
