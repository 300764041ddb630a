//! Making a delivery.

use coterie_crypto::{Entropy, Refused, Secret, hpke, wrap};
use coterie_model::{CommunityTag, EpochKey, Writer};
use zeroize::Zeroizing;

use super::{Address, Delivery, Label, SUITE, VERSION, WrappedKey};

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
    let text = encode_text(&kek, labels);
    let (encapsulated, sealed) = hpke::seal(sealing_key, &address.purpose(), &address.owner(), &text, entropy)?;
    let wrapped = |key: &EpochKey| {
        let (label, _) = labels.iter().find(|(_, tag)| *tag == key.tag).ok_or(Refused)?;
        Ok(WrappedKey {
            label: *label,
            epoch: key.epoch,
            key: wrap::wrap(&kek, &key.key),
        })
    };
    Ok(encode(&Delivery {
        encapsulated: &encapsulated,
        sealed: &sealed,
        wrapped: keys.iter().map(wrapped).collect::<Result<_, Refused>>()?,
    }))
}

/// The content of the certificate's extension.
///
/// # Panics
/// When there are more than 255 wrapped keys, or the sealed text is longer than 65,535 bytes: a caller's error.
#[must_use]
pub fn encode(delivery: &Delivery<'_>) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(VERSION);
    for number in SUITE {
        w.u16(number);
    }
    w.bytes(delivery.encapsulated)
        .counted(delivery.sealed)
        .u8(count(delivery.wrapped.len()));
    for wrapped in &delivery.wrapped {
        w.bytes(&wrapped.label).u64(wrapped.epoch).bytes(&wrapped.key);
    }
    w.into_bytes()
}

/// What is sealed: the key-encryption key, and which community each label stands for.
///
/// # Panics
/// When there are more than 255 labels: a caller's error.
#[must_use]
pub fn encode_text(kek: &Secret<32>, labels: &[(Label, CommunityTag)]) -> Zeroizing<Vec<u8>> {
    // Room for everything at once: a buffer that grows leaves copies of secrets behind.
    let mut text = Zeroizing::new(Vec::with_capacity(33 + 32 * labels.len()));
    text.extend_from_slice(kek.expose());
    text.push(count(labels.len()));
    for (label, tag) in labels {
        text.extend_from_slice(label);
        text.extend_from_slice(&tag.0);
    }
    text
}

fn count(n: usize) -> u8 {
    u8::try_from(n).expect("64 communities of a member with two keys each, checked where a bundle is made")
}
