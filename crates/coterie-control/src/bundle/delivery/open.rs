//! Reading a delivery: decoded whole, then opened.

use coterie_crypto::{
    Secret,
    hpke::{ENCAPSULATED_LEN, OpeningKey},
    wrap,
};
use coterie_model::{CommunityTag, EpochKey, Malformed, Reader};
use zeroize::Zeroizing;

use super::{Address, Delivery, Label, Labels, SUITE, VERSION, WrappedKey};

const MAX_SEALED: usize = 4096;

/// What a delivery holds.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) labels: Labels,
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
pub enum Fault {
    /// Bytes that are none.
    Malformed(Malformed),
    /// Another version.
    Version(u8),
    /// Another suite of HPKE.
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

/// Reads the content of the certificate's extension.
///
/// # Errors
/// [`Fault::Version`], [`Fault::Suite`] and [`Fault::Malformed`].
pub fn decode(content: &[u8]) -> Result<Delivery<'_>, Fault> {
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
    let delivery = Delivery {
        encapsulated: r.take(ENCAPSULATED_LEN, "encapsulated key")?,
        sealed: r.counted(MAX_SEALED, "sealed key-encryption key")?,
        wrapped: (0..r.u8("count of wrapped keys")?)
            .map(|_| wrapped_key(&mut r))
            .collect::<Result<_, Malformed>>()?,
    };
    r.finish()?;
    Ok(delivery)
}

fn wrapped_key(r: &mut Reader<'_>) -> Result<WrappedKey, Malformed> {
    Ok(WrappedKey {
        label: r.array("label")?,
        epoch: r.u64("epoch")?,
        key: r.array("wrapped key")?,
    })
}

/// Reads what was sealed: the key-encryption key, and which community each label stands for.
///
/// # Errors
/// [`Malformed`] when it is cut, or something follows.
pub fn decode_text(text: &[u8]) -> Result<(Secret<32>, Labels), Malformed> {
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

/// Opens what [`super::seal`] made.
pub(crate) fn open(address: &Address<'_>, key: &OpeningKey, content: &[u8]) -> Result<Delivered, Fault> {
    let delivery = decode(content)?;
    let text = key
        .open(
            &address.purpose(),
            &address.owner(),
            delivery.encapsulated,
            delivery.sealed,
        )
        .map_err(|_refused| Fault::Sealed)?;
    let text = Zeroizing::new(text);
    let (kek, labels) = decode_text(&text)?;
    let mut delivered = Delivered {
        labels,
        keys: Vec::new(),
    };
    for (index, wrapped) in delivery.wrapped.iter().enumerate() {
        let tag = delivered.tag(&wrapped.label).ok_or(Fault::Wrapped(index))?;
        let key = wrap::unwrap(&kek, &wrapped.key).map_err(|_refused| Fault::Wrapped(index))?;
        delivered.keys.push(EpochKey {
            tag,
            epoch: wrapped.epoch,
            key,
        });
    }
    Ok(delivered)
}
