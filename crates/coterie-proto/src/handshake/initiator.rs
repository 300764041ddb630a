//! The initiator's side: initiation out, response in (WIRE sections 3.1 and 3.4).

use coterie_crypto::{
    Entropy, Refused,
    aead::Suite,
    dh::{KeyPair, PublicKey},
    same_bytes,
};
use coterie_model::{EpochKey, Era, Revision, Signed, Statement, Unverified};

use super::{
    exchange::Offered,
    frame::{Framed, RESPONSE_HEADER, append_macs},
    noise,
    payload::{InitiationPayload, ResponsePayload, Suites},
};
use crate::{
    schedule,
    wire::datagram::{INITIATION, MAC_LEN},
};

/// What a node says about itself in a handshake.
#[derive(Clone, Copy)]
pub struct Introduction<'a> {
    /// Its static key pair.
    pub keys: &'a KeyPair,
    /// Lanes that it sends on.
    pub lanes: u8,
    /// Suites that it has.
    pub suites: Suites,
    /// The one that it would like.
    pub preferred: Suite,
    /// Era that it knows.
    pub era: Era,
    /// Revision of the revocations that it knows.
    pub revision: Revision,
    /// Its statement for the community of the handshake.
    pub statement: &'a Signed<Statement>,
}

impl Introduction<'_> {
    pub(super) fn unverified_statement(&self) -> Unverified<Statement> {
        Unverified::parse(self.statement.bytes()).expect("a signed statement parses")
    }
}

/// Waits for message 2.
pub struct ExpectResponse {
    noise: noise::Initiator,
    /// Our index in this handshake and the session that comes of it.
    pub local_index: u32,
    /// `mac1` of the initiation: what a cookie is bound to.
    pub mac1: [u8; MAC_LEN],
}

/// Makes an initiation to the owner of `responder` under `key`.
///
/// # Errors
/// [`Refused`] when `responder` is a low-order point.
pub fn initiate(
    me: Introduction<'_>,
    key: &EpochKey,
    responder: &PublicKey,
    (local_index, counter): (u32, u64),
    cookie: Option<&[u8; MAC_LEN]>,
    entropy: &mut (impl Entropy + ?Sized),
) -> Result<(ExpectResponse, Vec<u8>), Refused> {
    let payload = InitiationPayload {
        counter,
        lanes: me.lanes,
        suites: me.suites,
        preferred: me.preferred,
        era: me.era,
        revision: me.revision,
        statement: me.unverified_statement(),
    };
    let mut message = vec![INITIATION, 0, 0, 0];
    message.extend_from_slice(&local_index.to_be_bytes());
    let noise = noise::Initiator::start(
        me.keys,
        responder,
        &schedule::psk(key, responder),
        &schedule::prologue(key),
        &payload.to_bytes(),
        entropy,
        &mut message,
    )?;
    let mac1 = append_macs(&mut message, &schedule::mac_key(key, responder), cookie);
    Ok((
        ExpectResponse {
            noise,
            local_index,
            mac1,
        },
        message,
    ))
}

/// True when `datagram` is a response made under `key` for the owner of `own`: checked before a state is spent on it.
#[must_use]
pub fn verifies(key: &EpochKey, own: &PublicKey, datagram: &[u8]) -> bool {
    Framed::cut(datagram).is_some_and(|f| same_bytes(&schedule::mac_key(key, own).mac(&f.digest()), f.mac1))
}

impl ExpectResponse {
    /// Takes message 2: the next state, the responder's payload (its statement not yet checked).
    ///
    /// # Errors
    /// [`Refused`] when it does not check; the state is as before.
    pub fn response(
        &self,
        keys: &KeyPair,
        datagram: &[u8],
        entropy: &mut (impl Entropy + ?Sized),
    ) -> Result<(Offered, ResponsePayload), Refused> {
        let framed = Framed::cut(datagram).ok_or(Refused)?;
        let message = framed.before_mac1.get(RESPONSE_HEADER..).ok_or(Refused)?;
        let (established, payload) = self.noise.finish(keys, message)?;
        let payload = ResponsePayload::parse(&payload).map_err(|_malformed| Refused)?;
        Ok((Offered::new(established, entropy), payload))
    }
}
