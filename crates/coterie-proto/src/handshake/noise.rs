//! `Noise_IKpsk0_25519_AESGCM_SHA256` (Noise revision 34), the one pattern that Coterie speaks, written out token by
//! token on the primitives of `coterie-crypto`. The tests hold it against the published vectors and against `snow`.

use coterie_crypto::{
    Entropy, Refused, Secret,
    aead::{Key, Suite},
    dh::{KeyPair, PublicKey},
    hash,
};

/// The protocol's name (Noise section 8): exactly 32 bytes, so it is the first hash as it stands (section 5.2).
const NAME: &[u8] = b"Noise_IKpsk0_25519_AESGCM_SHA256";

/// What both ends have after message 2.
pub struct Established {
    /// Initiator to responder, for offer and confirm.
    pub initiator_key: Secret<32>,
    /// Responder to initiator, for answer.
    pub responder_key: Secret<32>,
    /// Third output of the split, salt of the transport root.
    pub export: Secret<32>,
    /// The handshake hash `h`.
    pub hash: [u8; 32],
}

/// Noise section 5.2, with a fixed cipher and hash. Wiped when dropped.
struct Symmetric {
    chaining_key: Secret<32>,
    hash: [u8; 32],
    key: Option<Key>,
    nonce: u64,
}

impl Symmetric {
    fn new(prologue: &[u8], responder: &PublicKey) -> Self {
        let mut hash = [0; 32];
        hash[..NAME.len()].copy_from_slice(NAME);
        let mut this = Self {
            chaining_key: Secret::new(hash),
            hash,
            key: None,
            nonce: 0,
        };
        this.mix_hash(prologue);
        this.mix_hash(responder);
        this
    }

    /// A copy to read message 2 with: the cipher's key is mixed anew before anything is opened.
    fn before_message_2(&self) -> Self {
        Self {
            chaining_key: self.chaining_key.duplicate(),
            hash: self.hash,
            key: None,
            nonce: 0,
        }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash::sha256(&[&self.hash, data]);
    }

    fn mix_key(&mut self, input: &[u8]) {
        let out: Secret<64> = hash::derive(self.chaining_key.expose(), input, &[]);
        let (ck, k) = halves(&out);
        self.chaining_key = ck;
        self.rekey(&k);
    }

    fn mix_key_and_hash(&mut self, psk: &Secret<32>) {
        let out: Secret<96> = hash::derive(self.chaining_key.expose(), psk.expose(), &[]);
        let (ck, temp_hash, k) = thirds(&out);
        self.chaining_key = ck;
        self.mix_hash(temp_hash.expose());
        self.rekey(&k);
    }

    fn rekey(&mut self, key: &Secret<32>) {
        self.key = Some(Key::new(Suite::Aes256Gcm, key));
        self.nonce = 0;
    }

    fn seal(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(text);
        let nonce = self.next_nonce();
        let key = self.key.as_ref().expect("psk0 mixes a key before anything is sealed");
        let tag = key.seal(nonce, &self.hash, &mut out[start..]);
        out.extend_from_slice(&tag);
        let sealed = &out[start..];
        self.hash = hash::sha256(&[&self.hash, sealed]);
    }

    fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, Refused> {
        let nonce = self.next_nonce();
        let key = self.key.as_ref().expect("psk0 mixes a key before anything is opened");
        let mut text = sealed.to_vec();
        let len = key.open(nonce, &self.hash, &mut text)?.len();
        text.truncate(len);
        self.mix_hash(sealed);
        Ok(text)
    }

    fn next_nonce(&mut self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.nonce.to_be_bytes());
        self.nonce += 1;
        nonce
    }

    fn split(self) -> Established {
        let out: Secret<96> = hash::derive(self.chaining_key.expose(), b"", &[]);
        let (initiator_key, responder_key, export) = thirds(&out);
        Established {
            initiator_key,
            responder_key,
            export,
            hash: self.hash,
        }
    }
}

fn halves(out: &Secret<64>) -> (Secret<32>, Secret<32>) {
    let part = |at: usize| Secret::from_slice(&out.expose()[at..at + 32]).expect("32 of 64 bytes");
    (part(0), part(32))
}

fn thirds(out: &Secret<96>) -> (Secret<32>, Secret<32>, Secret<32>) {
    let part = |at: usize| Secret::from_slice(&out.expose()[at..at + 32]).expect("32 of 96 bytes");
    (part(0), part(32), part(64))
}

/// The initiator after message 1: waits for message 2.
pub struct Initiator {
    symmetric: Symmetric,
    ephemeral: KeyPair,
}

impl Initiator {
    /// Appends message 1 to `out`: `psk, e, es, s, ss`, payload.
    ///
    /// # Errors
    /// [`Refused`] when `responder` is a low-order point.
    pub fn start(
        own: &KeyPair,
        responder: &PublicKey,
        psk: &Secret<32>,
        prologue: &[u8],
        payload: &[u8],
        entropy: &mut (impl Entropy + ?Sized),
        out: &mut Vec<u8>,
    ) -> Result<Self, Refused> {
        let mut symmetric = Symmetric::new(prologue, responder);
        let ephemeral = KeyPair::generate(entropy);
        symmetric.mix_key_and_hash(psk);
        out.extend_from_slice(ephemeral.public());
        symmetric.mix_hash(ephemeral.public());
        symmetric.mix_key(ephemeral.public());
        symmetric.mix_key(ephemeral.agree(responder)?.expose());
        symmetric.seal(own.public(), out);
        symmetric.mix_key(own.agree(responder)?.expose());
        symmetric.seal(payload, out);
        Ok(Self { symmetric, ephemeral })
    }

    /// Reads message 2: `e, ee, se`, payload. Works on a copy of the state: a message that does not check, which any holder
    /// of the community's key can make, must not end the handshake.
    ///
    /// # Errors
    /// [`Refused`] when it does not check.
    pub fn finish(&self, own: &KeyPair, message: &[u8]) -> Result<(Established, Vec<u8>), Refused> {
        let ephemeral = &self.ephemeral;
        let mut symmetric = self.symmetric.before_message_2();
        let (theirs, sealed) = message.split_first_chunk::<32>().ok_or(Refused)?;
        symmetric.mix_hash(theirs);
        symmetric.mix_key(theirs);
        symmetric.mix_key(ephemeral.agree(theirs)?.expose());
        symmetric.mix_key(own.agree(theirs)?.expose());
        let payload = symmetric.open(sealed)?;
        Ok((symmetric.split(), payload))
    }
}

/// The responder after `es`: it knows who claims to call, not yet whether it is true.
pub struct Claimed {
    symmetric: Symmetric,
    ephemeral: PublicKey,
    static_key: PublicKey,
    sealed_payload: Vec<u8>,
}

impl Claimed {
    /// Reads the first half of message 1: `psk, e, es, s`. Costs one Diffie-Hellman.
    ///
    /// # Errors
    /// [`Refused`] when it does not check.
    pub fn read(own: &KeyPair, psk: &Secret<32>, prologue: &[u8], message: &[u8]) -> Result<Self, Refused> {
        let mut symmetric = Symmetric::new(prologue, own.public());
        let (ephemeral, rest) = message.split_first_chunk::<32>().ok_or(Refused)?;
        let (sealed_static, sealed_payload) = rest.split_first_chunk::<48>().ok_or(Refused)?;
        symmetric.mix_key_and_hash(psk);
        symmetric.mix_hash(ephemeral);
        symmetric.mix_key(ephemeral);
        symmetric.mix_key(own.agree(ephemeral)?.expose());
        let static_key = symmetric.open(sealed_static)?.try_into().map_err(|_length| Refused)?;
        Ok(Self {
            symmetric,
            ephemeral: *ephemeral,
            static_key,
            sealed_payload: sealed_payload.to_vec(),
        })
    }

    /// The static key that the initiator claims.
    #[must_use]
    pub fn static_key(&self) -> &PublicKey {
        &self.static_key
    }

    /// Reads the second half: `ss`, payload. Only who owns the static key can have made it.
    ///
    /// # Errors
    /// [`Refused`] when it does not check.
    pub fn prove(self, own: &KeyPair) -> Result<(Proved, Vec<u8>), Refused> {
        let Self {
            mut symmetric,
            ephemeral,
            static_key,
            sealed_payload,
        } = self;
        symmetric.mix_key(own.agree(&static_key)?.expose());
        let payload = symmetric.open(&sealed_payload)?;
        Ok((
            Proved {
                symmetric,
                ephemeral,
                static_key,
            },
            payload,
        ))
    }
}

/// The responder after message 1.
pub struct Proved {
    symmetric: Symmetric,
    ephemeral: PublicKey,
    static_key: PublicKey,
}

impl Proved {
    /// The initiator's static key.
    #[must_use]
    pub fn static_key(&self) -> &PublicKey {
        &self.static_key
    }

    /// Appends message 2 to `out`: `e, ee, se`, payload.
    ///
    /// # Errors
    /// [`Refused`] when the initiator's keys are low-order points.
    pub fn respond(
        self,
        payload: &[u8],
        entropy: &mut (impl Entropy + ?Sized),
        out: &mut Vec<u8>,
    ) -> Result<Established, Refused> {
        let Self {
            mut symmetric,
            ephemeral: theirs,
            static_key,
        } = self;
        let ephemeral = KeyPair::generate(entropy);
        out.extend_from_slice(ephemeral.public());
        symmetric.mix_hash(ephemeral.public());
        symmetric.mix_key(ephemeral.public());
        symmetric.mix_key(ephemeral.agree(&theirs)?.expose());
        symmetric.mix_key(ephemeral.agree(&static_key)?.expose());
        symmetric.seal(payload, out);
        Ok(symmetric.split())
    }
}
