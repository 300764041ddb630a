//! An adversary who reads docs/WIRE.md: Noise and the key schedule written a second time, from the document, so that a
//! capture can be attacked, and messages forged, with exactly the secrets that leaked.

use coterie_crypto::{
    Secret,
    aead::{Key, Suite},
    dh::{KeyPair, PublicKey},
    hash::{self, MacKey, hkdf},
    wrap,
};
use coterie_model::EpochKey;

/// Noise's symmetric state (Noise revision 34, section 5.2).
#[derive(Clone)]
pub(crate) struct Symmetric {
    pub(crate) chaining_key: [u8; 32],
    pub(crate) hash: [u8; 32],
    key: [u8; 32],
    nonce: u64,
}

impl Symmetric {
    pub(crate) fn new(key: &EpochKey, responder: &PublicKey) -> Self {
        let mut hash = [0; 32];
        let name = b"Noise_IKpsk0_25519_AESGCM_SHA256";
        hash[..name.len()].copy_from_slice(name);
        let mut this = Self {
            chaining_key: hash,
            hash,
            key: [0; 32],
            nonce: 0,
        };
        this.mix_hash(&[b"coterie/1", &key.tag.0[..], &key.epoch.to_be_bytes()].concat());
        this.mix_hash(responder);
        this
    }

    pub(crate) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash::sha256(&[&self.hash, data]);
    }

    pub(crate) fn mix_key(&mut self, input: &[u8]) {
        let mut out = [0; 64];
        hkdf(&self.chaining_key, input, &[], &mut out);
        self.chaining_key.copy_from_slice(&out[..32]);
        self.key.copy_from_slice(&out[32..]);
        self.nonce = 0;
    }

    pub(crate) fn mix_psk(&mut self, psk: &[u8; 32]) {
        let mut out = [0; 96];
        hkdf(&self.chaining_key, psk, &[], &mut out);
        self.chaining_key.copy_from_slice(&out[..32]);
        self.mix_hash(&out[32..64]);
        self.key.copy_from_slice(&out[64..]);
        self.nonce = 0;
    }

    fn cipher(&mut self) -> (Key, [u8; 12]) {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.nonce.to_be_bytes());
        self.nonce += 1;
        (Key::new(Suite::Aes256Gcm, &Secret::new(self.key)), nonce)
    }

    /// The text, if the key is right; the hash goes on either way.
    pub(crate) fn open(&mut self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (key, nonce) = self.cipher();
        let mut text = sealed.to_vec();
        let opened = key.open(nonce, &self.hash, &mut text).ok().map(|t| t.to_vec());
        self.mix_hash(sealed);
        opened
    }

    pub(crate) fn seal(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let (key, nonce) = self.cipher();
        let mut sealed = text.to_vec();
        let tag = key.seal(nonce, &self.hash, &mut sealed);
        sealed.extend_from_slice(&tag);
        self.mix_hash(&sealed);
        out.extend_from_slice(&sealed);
    }

    /// `k_i`, `k_r`, `export`.
    pub(crate) fn split(&self) -> [[u8; 32]; 3] {
        let mut out = [0; 96];
        hkdf(&self.chaining_key, b"", &[], &mut out);
        [0, 32, 64].map(|at| out[at..at + 32].try_into().unwrap())
    }
}

/// A key derived from a community's key (WIRE section 2).
pub(crate) fn derived(key: &EpochKey, label: &str, more: &[&[u8]]) -> [u8; 32] {
    let epoch = key.epoch.to_be_bytes();
    let mut info = vec![label.as_bytes(), &key.tag.0, &epoch];
    info.extend_from_slice(more);
    let mut out = [0; 32];
    hkdf(b"", key.key.expose(), &info, &mut out);
    out
}

/// One first contact, as it went over the wire.
pub(crate) struct Capture {
    pub(crate) initiation: Vec<u8>,
    pub(crate) response: Vec<u8>,
    pub(crate) offer: Vec<u8>,
    pub(crate) answer: Vec<u8>,
    pub(crate) confirm: Vec<u8>,
    /// Towards the responder, and towards the initiator.
    pub(crate) sealed: [Vec<Vec<u8>>; 2],
}

/// What an adversary got hold of, beside what is no secret: both static public keys, and community and epoch.
pub(crate) struct Leaked {
    pub(crate) publics: [PublicKey; 2],
    /// The community's key; where it did not leak, the key in here is a guess.
    pub(crate) community: EpochKey,
    pub(crate) statics: [Option<KeyPair>; 2],
    pub(crate) ephemerals: [Option<KeyPair>; 2],
    /// The shared secret of ML-KEM.
    pub(crate) kem: Option<[u8; 32]>,
}

/// How far an adversary came; each includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// Random bytes between two addresses.
    Nothing,
    /// `mac1`: which community and epoch.
    Community,
    /// The initiator's static key.
    Caller,
    /// Message 1's payload: the initiator's statement.
    Introduction,
    /// Message 2's payload, offer, answer, confirm, and the session secret in it.
    Exchange,
    /// What the two said to each other.
    Packets,
}

/// What stands in for a secret that did not leak.
const GUESS: [u8; 32] = [0; 32];

/// What an adversary makes of messages 1 and 2.
struct Handshake {
    reach: Reach,
    /// `k_i`, `k_r`, `export`, right or wrong.
    keys: [[u8; 32]; 3],
    hash: [u8; 32],
}

fn handshake(capture: &Capture, leaked: &Leaked) -> Handshake {
    let mut reach = Reach::Nothing;
    let [initiator, responder] = leaked.publics;
    let community = &leaked.community;
    let (before, macs) = capture.initiation.split_at(capture.initiation.len() - 32);
    let mac_key = MacKey::new(&derived(community, "coterie/1 mac", &[&responder]));
    if mac_key.mac(&hash::sha256(&[before])) == macs[..16] {
        reach = Reach::Community;
    }

    // Message 1: psk, e, es, s, ss.
    let (first, second) = (&before[8..], &capture.response[12..capture.response.len() - 32]);
    let e = [first, second].map(|m| <[u8; 32]>::try_from(&m[..32]).unwrap());
    let [e_i, e_r] = &leaked.ephemerals;
    let [s_i, s_r] = &leaked.statics;
    let mut noise = Symmetric::new(community, &responder);
    noise.mix_psk(&derived(community, "coterie/1 psk", &[&responder]));
    noise.mix_hash(&e[0]);
    noise.mix_key(&e[0]);
    noise.mix_key(&shared((e_i, &responder), (s_r, &e[0])));
    if noise.open(&first[32..80]).is_some_and(|s| s == initiator) {
        reach = Reach::Caller;
    }
    noise.mix_key(&shared((s_i, &responder), (s_r, &initiator)));
    if noise.open(&first[80..]).is_some() {
        reach = Reach::Introduction;
    }

    // Message 2: e, ee, se.
    noise.mix_hash(&e[1]);
    noise.mix_key(&e[1]);
    noise.mix_key(&shared((e_i, &e[1]), (e_r, &e[0])));
    noise.mix_key(&shared((s_i, &e[1]), (e_r, &initiator)));
    if noise.open(&second[32..]).is_some() {
        reach = Reach::Exchange;
    }
    Handshake {
        reach,
        keys: noise.split(),
        hash: noise.hash,
    }
}

/// The ML-KEM ciphertext of a capture, for who can open the provisional channel.
pub(crate) fn answer_in(capture: &Capture, leaked: &Leaked) -> Vec<u8> {
    provisional(&handshake(capture, leaked).keys[1], &capture.answer).expect("enough leaked")
}

/// Goes through the whole capture with what leaked. Where a secret is missing it goes on with a guess, so that it is the
/// seals which stop it and not this program. Gives what it reached, and the texts of all packets that opened.
pub(crate) fn attack(capture: &Capture, leaked: &Leaked) -> (Reach, Vec<Vec<u8>>) {
    let Handshake { mut reach, keys, hash } = handshake(capture, leaked);
    let [k_i, k_r, export] = keys;
    let offer = provisional(&k_i, &capture.offer);
    let answer = provisional(&k_r, &capture.answer);
    let confirm = provisional(&k_i, &capture.confirm);
    let wrap_key = Secret::new(derived(
        &leaked.community,
        "coterie/1 wrap",
        &[&leaked.publics[1], &hash],
    ));
    let secret = confirm
        .as_deref()
        .and_then(|w| w.try_into().ok())
        .and_then(|w| wrap::unwrap(&wrap_key, w).ok());
    let exchange = offer.is_some() && answer.is_some() && secret.is_some();
    assert_eq!(
        exchange,
        reach >= Reach::Exchange,
        "message 2 and what follows open together"
    );

    let bodies = [offer, answer, confirm].map(Option::unwrap_or_default);
    let transcript = hash::sha256(&[&bodies[0], &bodies[1], &bodies[2]]);
    let secret = secret.map_or(GUESS, |s| *s.expose());
    let input = [leaked.kem.unwrap_or(GUESS), secret].concat();
    let mut texts = vec![];
    for (label, sealed) in ["coterie/1 i2r", "coterie/1 r2i"].into_iter().zip(&capture.sealed) {
        let mut root = [0; 32];
        let info: [&[u8]; 3] = [label.as_bytes(), &hash, &transcript];
        hkdf(&export, &input, &info, &mut root);
        texts.extend(sealed.iter().filter_map(|p| open_packet(&root, p)));
    }
    if !texts.is_empty() {
        reach = Reach::Packets;
    }
    (reach, texts)
}

/// A Diffie-Hellman secret, from whichever private key leaked.
fn shared(one: (&Option<KeyPair>, &PublicKey), other: (&Option<KeyPair>, &PublicKey)) -> [u8; 32] {
    [one, other]
        .into_iter()
        .find_map(|(private, public)| private.as_ref()?.agree(public).ok())
        .map_or(GUESS, |s| *s.expose())
}

fn provisional(key: &[u8; 32], datagram: &[u8]) -> Option<Vec<u8>> {
    let mut nonce = [0; 12];
    nonce[11] = datagram[1];
    let mut text = datagram[8..].to_vec();
    let key = Key::new(Suite::Aes256GcmSiv, &Secret::new(*key));
    key.open(nonce, &datagram[..8], &mut text).ok().map(|t| t.to_vec())
}

fn open_packet(root: &[u8; 32], datagram: &[u8]) -> Option<Vec<u8>> {
    let lane: Secret<44> = hash::expand(&Secret::new(*root), &[b"coterie/1 lane", &datagram[1..2]]);
    let mut nonce: [u8; 12] = lane.expose()[32..].try_into().ok()?;
    for (n, b) in nonce[..4].iter_mut().zip(&datagram[6..10]) {
        *n ^= b;
    }
    for (n, b) in nonce[6..].iter_mut().zip(&datagram[10..16]) {
        *n ^= b;
    }
    let key = Key::new(Suite::Aes256Gcm, &Secret::from_slice(&lane.expose()[..32])?);
    let mut text = datagram[16..].to_vec();
    key.open(nonce, &datagram[..16], &mut text).ok().map(|t| t.to_vec())
}

/// An initiation to `responder`, forged by a holder of the community's key.
pub(crate) struct ForgedInitiation<'a> {
    pub(crate) community: &'a EpochKey,
    pub(crate) responder: PublicKey,
    /// The static key that it claims.
    pub(crate) claims: PublicKey,
    /// What stands for the secret of the two static keys.
    pub(crate) static_shared: [u8; 32],
    pub(crate) ephemeral: KeyPair,
    pub(crate) index: u32,
    pub(crate) payload: &'a [u8],
}

impl ForgedInitiation<'_> {
    /// The datagram, and the state that waits for the response.
    pub(crate) fn make(&self) -> (Vec<u8>, Symmetric) {
        let mut noise = Symmetric::new(self.community, &self.responder);
        noise.mix_psk(&derived(self.community, "coterie/1 psk", &[&self.responder]));
        let mut out = vec![1, 0, 0, 0];
        out.extend_from_slice(&self.index.to_be_bytes());
        out.extend_from_slice(self.ephemeral.public());
        noise.mix_hash(self.ephemeral.public());
        noise.mix_key(self.ephemeral.public());
        noise.mix_key(self.ephemeral.agree(&self.responder).unwrap().expose());
        noise.seal(&self.claims, &mut out);
        noise.mix_key(&self.static_shared);
        noise.seal(self.payload, &mut out);
        sign_macs(&mut out, self.community, &self.responder);
        (out, noise)
    }
}

/// Appends the macs that the owner of `checker` looks for.
pub(crate) fn sign_macs(message: &mut Vec<u8>, community: &EpochKey, checker: &PublicKey) {
    let mac1 = MacKey::new(&derived(community, "coterie/1 mac", &[checker])).mac(&hash::sha256(&[message]));
    message.extend_from_slice(&mac1);
    message.extend_from_slice(&[0; 16]);
}

/// Replaces the macs of a message that was changed.
pub(crate) fn resign_macs(message: &mut Vec<u8>, community: &EpochKey, checker: &PublicKey) {
    message.truncate(message.len() - 32);
    sign_macs(message, community, checker);
}

/// A response to `initiation`, forged by a holder of the community's key in the name of `responder`.
pub(crate) struct ForgedResponse<'a> {
    pub(crate) community: &'a EpochKey,
    pub(crate) responder: PublicKey,
    pub(crate) initiator: PublicKey,
    pub(crate) initiation: &'a [u8],
    /// What stands for the secrets of the responder's static key: with the ephemeral, and with the static key.
    pub(crate) shared: [[u8; 32]; 2],
    pub(crate) ephemeral: KeyPair,
    pub(crate) index: u32,
    pub(crate) payload: &'a [u8],
}

impl ForgedResponse<'_> {
    pub(crate) fn make(&self) -> Vec<u8> {
        let first = &self.initiation[8..self.initiation.len() - 32];
        let theirs: PublicKey = first[..32].try_into().unwrap();
        let mut noise = Symmetric::new(self.community, &self.responder);
        noise.mix_psk(&derived(self.community, "coterie/1 psk", &[&self.responder]));
        noise.mix_hash(&theirs);
        noise.mix_key(&theirs);
        noise.mix_key(&self.shared[0]);
        noise.mix_hash(&first[32..80]);
        noise.mix_key(&self.shared[1]);
        noise.mix_hash(&first[80..]);
        let mut out = vec![2, 0, 0, 0];
        out.extend_from_slice(&self.index.to_be_bytes());
        out.extend_from_slice(&self.initiation[4..8]);
        out.extend_from_slice(self.ephemeral.public());
        noise.mix_hash(self.ephemeral.public());
        noise.mix_key(self.ephemeral.public());
        noise.mix_key(self.ephemeral.agree(&theirs).unwrap().expose());
        noise.mix_key(self.ephemeral.agree(&self.initiator).unwrap().expose());
        noise.seal(self.payload, &mut out);
        sign_macs(&mut out, self.community, &self.initiator);
        out
    }
}
