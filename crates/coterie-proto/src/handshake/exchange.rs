//! Offer, answer, confirm (WIRE section 3.6): ML-KEM-768 and the session secret, from which the transport root comes.
//!
//! The bodies travel sealed under the provisional keys on first contact, and as control frames of the live session in a
//! rekey; the states here do not care which.

use coterie_crypto::{
    Entropy, Refused, Secret,
    aead::{Key, Suite},
    dh::PublicKey,
    hash,
    kem::{self, CIPHERTEXT_LEN, ENCAPSULATION_KEY_LEN},
    wrap::{self, WRAPPED_LEN},
};
use coterie_model::EpochKey;

use super::noise::Established;
use crate::{
    schedule,
    wire::datagram::{PROVISIONAL_HEADER, Step, provisional_header},
};

/// What a session's lanes are derived from: one root for each direction.
pub struct Roots {
    /// Initiator to responder.
    pub i2r: Secret<32>,
    /// Responder to initiator.
    pub r2i: Secret<32>,
}

/// The keys of the three provisional frames; each frame is sealed once and repeated as bytes. A machine that is forked in the
/// middle of a handshake seals a step twice under one nonce; the cipher is one of which that reveals only equality.
pub struct Provisional {
    initiator: Key,
    responder: Key,
}

impl Provisional {
    fn new(e: &Established) -> Self {
        Self {
            initiator: Key::new(Suite::Aes256GcmSiv, &e.initiator_key),
            responder: Key::new(Suite::Aes256GcmSiv, &e.responder_key),
        }
    }

    /// The whole datagram of a step.
    #[must_use]
    pub fn seal(&self, step: Step, receiver: u32, body: &[u8]) -> Vec<u8> {
        let header = provisional_header(step, receiver);
        let mut out = header.to_vec();
        out.extend_from_slice(body);
        let tag = self
            .key(step)
            .seal(nonce(step), &header, &mut out[PROVISIONAL_HEADER..]);
        out.extend_from_slice(&tag);
        out
    }

    /// The body of a datagram that [`crate::wire::datagram::parse`] found to be this step.
    ///
    /// # Errors
    /// [`Refused`] when the tag does not check or the body has another length than the step's.
    pub fn open<const N: usize>(&self, step: Step, datagram: &[u8]) -> Result<Box<[u8; N]>, Refused> {
        let (header, sealed) = datagram.split_first_chunk::<PROVISIONAL_HEADER>().ok_or(Refused)?;
        let mut text = sealed.to_vec();
        let body: &[u8] = self.key(step).open(nonce(step), header, &mut text)?;
        let body: [u8; N] = body.try_into().map_err(|_length| Refused)?;
        Ok(Box::new(body))
    }

    fn key(&self, step: Step) -> &Key {
        match step {
            Step::Offer | Step::Confirm => &self.initiator,
            Step::Answer => &self.responder,
        }
    }
}

fn nonce(step: Step) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[11] = step.number();
    nonce
}

/// The initiator with its offer out: waits for the answer.
pub struct Offered {
    /// Keys of the provisional frames.
    pub provisional: Provisional,
    export: Secret<32>,
    hash: [u8; 32],
    decapsulation: kem::DecapsulationKey,
    /// The offer's body.
    pub offer: Box<[u8; ENCAPSULATION_KEY_LEN]>,
}

impl Offered {
    /// Draws the ML-KEM key.
    pub fn new(established: Established, entropy: &mut (impl Entropy + ?Sized)) -> Self {
        let (decapsulation, offer) = kem::DecapsulationKey::generate(entropy);
        let provisional = Provisional::new(&established);
        Self {
            provisional,
            export: established.export,
            hash: established.hash,
            decapsulation,
            offer,
        }
    }

    /// Takes the answer: the confirm's body, and the roots.
    pub fn confirm(
        self,
        answer: &[u8; CIPHERTEXT_LEN],
        key: &EpochKey,
        responder: &PublicKey,
        entropy: &mut (impl Entropy + ?Sized),
    ) -> (Provisional, [u8; WRAPPED_LEN], Roots) {
        let shared = self.decapsulation.decapsulate(answer);
        let secret = Secret::draw(entropy);
        let wrapped = wrap::wrap(&schedule::wrap_key(key, responder, &self.hash), &secret);
        let transcript = hash::sha256(&[&self.offer[..], answer, &wrapped]);
        let roots = roots(&self.export, &shared, &secret, &self.hash, &transcript);
        (self.provisional, wrapped, roots)
    }
}

/// The responder after message 2: waits for the offer.
pub struct Responded {
    /// Keys of the provisional frames.
    pub provisional: Provisional,
    export: Secret<32>,
    hash: [u8; 32],
}

impl Responded {
    /// Keeps what the exchange needs.
    #[must_use]
    pub fn new(established: Established) -> Self {
        let provisional = Provisional::new(&established);
        Self {
            provisional,
            export: established.export,
            hash: established.hash,
        }
    }

    /// Takes the offer, makes the answer's body.
    ///
    /// # Errors
    /// [`Refused`] when the offer is no ML-KEM key.
    pub fn answer(
        self,
        offer: Box<[u8; ENCAPSULATION_KEY_LEN]>,
        entropy: &mut (impl Entropy + ?Sized),
    ) -> Result<Answered, Refused> {
        let (answer, shared) = kem::encapsulate(&offer, entropy)?;
        Ok(Answered {
            provisional: self.provisional,
            export: self.export,
            hash: self.hash,
            offer,
            answer,
            shared,
        })
    }
}

/// The responder with its answer out: waits for the confirm.
pub struct Answered {
    /// Keys of the provisional frames.
    pub provisional: Provisional,
    export: Secret<32>,
    hash: [u8; 32],
    offer: Box<[u8; ENCAPSULATION_KEY_LEN]>,
    /// The answer's body.
    pub answer: Box<[u8; CIPHERTEXT_LEN]>,
    shared: Secret<32>,
}

impl Answered {
    /// True when `offer` is the one that was answered, so that the same answer may be repeated.
    #[must_use]
    pub fn answers(&self, offer: &[u8; ENCAPSULATION_KEY_LEN]) -> bool {
        *self.offer == *offer
    }

    /// Takes the confirm: the roots. The state stays, because a forged confirm must not end a handshake.
    ///
    /// # Errors
    /// [`Refused`] when the session secret was not wrapped under the community's key.
    pub fn roots(&self, wrapped: &[u8; WRAPPED_LEN], key: &EpochKey, own: &PublicKey) -> Result<Roots, Refused> {
        let secret = wrap::unwrap(&schedule::wrap_key(key, own, &self.hash), wrapped)?;
        let transcript = hash::sha256(&[&self.offer[..], &self.answer[..], wrapped]);
        Ok(roots(&self.export, &self.shared, &secret, &self.hash, &transcript))
    }
}

fn roots(
    export: &Secret<32>,
    shared: &Secret<32>,
    secret: &Secret<32>,
    handshake_hash: &[u8; 32],
    transcript: &[u8; 32],
) -> Roots {
    let mut input = Secret::<64>::zeroed();
    input.expose_mut()[..32].copy_from_slice(shared.expose());
    input.expose_mut()[32..].copy_from_slice(secret.expose());
    let root = |label: &[u8]| hash::derive(export.expose(), input.expose(), &[label, handshake_hash, transcript]);
    Roots {
        i2r: root(b"coterie/1 i2r"),
        r2i: root(b"coterie/1 r2i"),
    }
}
