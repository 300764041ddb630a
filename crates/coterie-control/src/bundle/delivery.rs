//! Community keys in a certificate (¶60, claim 3): one key-encryption key, sealed to the machine, and every community
//! key wrapped under it.
//!
//! The certificate names communities by labels that are random for each certificate; which community a label stands for
//! is sealed together with the key-encryption key.

use coterie_crypto::{
    Entropy, Refused, Secret,
    dh::PublicKey,
    hpke::{self, ENCAPSULATED_LEN, OpeningKey},
    sign::VerifyingKey,
    wrap::{self, WRAPPED_LEN},
};
use coterie_model::{CommunityTag, EnclaveId, Epoch, EpochKey, Malformed, MemberId, Reader, Serial, Writer};
use zeroize::Zeroizing;

const VERSION: u8 = 1;
/// HPKE's numbers: KEM X-Wing, KDF HKDF-SHA-256, AEAD AES-256-GCM.
const SUITE: [u16; 3] = [0x647a, 0x0001, 0x0002];
const MAX_SEALED: usize = 4096;

/// A community's name in one certificate.
pub(crate) type Label = [u8; 16];

/// To whom, and as part of what, keys are delivered: bound to the seal, so that it opens nowhere else.
pub(crate) struct Address<'a> {
    pub(crate) enclave: EnclaveId,
    pub(crate) member: MemberId,
    pub(crate) serial: Serial,
    pub(crate) static_key: &'a PublicKey,
    pub(crate) identity_key: &'a VerifyingKey,
}

impl Address<'_> {
    fn purpose(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(b"coterie/1 bundle keys")
            .bytes(&self.enclave.0)
            .bytes(&self.member.0)
            .u64(self.serial);
        w.into_bytes()
    }

    fn owner(&self) -> Vec<u8> {
        [&self.static_key[..], &self.identity_key.0[..]].concat()
    }
}

/// Labels for `tags`, drawn afresh.
pub(crate) fn labels(tags: &[CommunityTag], entropy: &mut dyn Entropy) -> Vec<(Label, CommunityTag)> {
    tags.iter()
        .map(|tag| {
            let mut label = Label::default();
            entropy.fill(&mut label);
            (label, *tag)
        })
        .collect()
}

/// Seals `keys` to `sealing_key`; the content of the certificate's extension. Each key's community has a label.
pub(crate) fn seal(
    address: &Address<'_>,
    sealing_key: &[u8],
    labels: &[(Label, CommunityTag)],
    keys: &[EpochKey],
    entropy: &mut dyn Entropy,
) -> Result<Vec<u8>, Refused> {
    let kek = Secret::<32>::draw(entropy);
    // Room for everything at once: a buffer that grows leaves copies of secrets behind.
    let mut text = Zeroizing::new(Vec::with_capacity(33 + 32 * labels.len()));
    text.extend_from_slice(kek.expose());
    text.push(count(labels.len()));
    for (label, tag) in labels {
        text.extend_from_slice(label);
        text.extend_from_slice(&tag.0);
    }
    let (encapsulated, sealed) = hpke::seal(sealing_key, &address.purpose(), &address.owner(), &text, entropy)?;

    let mut w = Writer::new();
    w.u8(VERSION);
    for number in SUITE {
        w.u16(number);
    }
    w.bytes(&encapsulated).counted(&sealed).u8(count(keys.len()));
    for key in keys {
        let label = labels
            .iter()
            .find(|(_, tag)| *tag == key.tag)
            .map(|(label, _)| label)
            .ok_or(Refused)?;
        w.bytes(label).u64(key.epoch).bytes(&wrap::wrap(&kek, &key.key));
    }
    Ok(w.into_bytes())
}

/// What a delivery holds.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) labels: Vec<(Label, CommunityTag)>,
    pub(crate) keys: Vec<EpochKey>,
}

impl Delivered {
    /// The community of a label.
    pub(crate) fn tag(&self, label: &Label) -> Option<CommunityTag> {
        self.labels
            .iter()
            .find(|(known, _)| known == label)
            .map(|(_, tag)| *tag)
    }
}

/// Why a delivery does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Malformed(Malformed),
    Version(u8),
    Suite([u16; 3]),
    /// Sealed to another key, or for another member or bundle.
    Sealed,
    /// A wrapped key, counted from 0, or its label.
    Wrapped(usize),
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Opens what [`seal`] made.
pub(crate) fn open(address: &Address<'_>, key: &OpeningKey, content: &[u8]) -> Result<Delivered, Fault> {
    let mut r = Reader::new(content);
    let version = r.u8("version of the wrapped keys")?;
    if version != VERSION {
        return Err(Fault::Version(version));
    }
    let mut suite = [0; 3];
    for number in &mut suite {
        *number = r.u16("suite of the wrapped keys")?;
    }
    if suite != SUITE {
        return Err(Fault::Suite(suite));
    }
    let encapsulated = r.take(ENCAPSULATED_LEN, "encapsulated key")?;
    let sealed = r.counted(MAX_SEALED, "sealed key-encryption key")?;
    let text = key
        .open(&address.purpose(), &address.owner(), encapsulated, sealed)
        .map_err(|_refused| Fault::Sealed)?;
    let text = Zeroizing::new(text);
    let (kek, labels) = key_encryption_key(&text)?;
    let mut delivered = Delivered {
        labels,
        keys: Vec::new(),
    };
    for index in 0..usize::from(r.u8("count of wrapped keys")?) {
        let label: Label = r.array("label")?;
        let epoch: Epoch = r.u64("epoch")?;
        let wrapped: [u8; WRAPPED_LEN] = r.array("wrapped key")?;
        let tag = delivered.tag(&label).ok_or(Fault::Wrapped(index))?;
        let key = wrap::unwrap(&kek, &wrapped).map_err(|_refused| Fault::Wrapped(index))?;
        delivered.keys.push(EpochKey { tag, epoch, key });
    }
    r.finish()?;
    Ok(delivered)
}

fn key_encryption_key(text: &[u8]) -> Result<(Secret<32>, Vec<(Label, CommunityTag)>), Malformed> {
    let mut r = Reader::new(text);
    let kek = r
        .take(32, "key-encryption key")
        .map(|b| Secret::from_slice(b).expect("32 bytes were taken"))?;
    let labels = (0..r.u8("count of labels")?)
        .map(|_| Ok((r.array("label")?, CommunityTag(r.array("community tag")?))))
        .collect::<Result<_, Malformed>>()?;
    r.finish()?;
    Ok((kek, labels))
}

fn count(n: usize) -> u8 {
    u8::try_from(n).expect("64 communities of a member with two keys each, checked where a bundle is made")
}
