//! Signed objects: what proves membership (WIRE section 4). Each is a canonical body and an Ed25519 signature over a
//! label of its kind and the body; each carries a revision below which a node never goes back.

mod authority;
mod manifest;
mod revocation;
mod statement;

pub use authority::Authority;
pub use manifest::{EpochKind, Manifest};
pub use revocation::{Head, MAX_REVOCATIONS, Revocation, Revocations, head_hash};
pub use statement::{MAX_ADDRESSES, Statement};

use coterie_crypto::{
    Refused,
    sign::{SIGNATURE_LEN, SigningKey, VerifyingKey},
};

use crate::{Malformed, Reader, Writer};

/// A kind of object that can be signed.
pub trait SignedObject: Sized {
    /// What the signature is bound to, beside the body.
    const LABEL: &'static str;

    /// Appends the body.
    fn encode(&self, w: &mut Writer);

    /// Takes the body from the front.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are no body of this kind.
    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// An object whose signature was checked. There is no other way to make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<T> {
    value: T,
    bytes: Box<[u8]>,
}

impl<T: SignedObject> Signed<T> {
    /// Signs `value`.
    #[must_use]
    pub fn sign(value: T, key: &SigningKey) -> Self {
        let mut w = Writer::new();
        value.encode(&mut w);
        let mut bytes = w.into_bytes();
        let signature = key.sign(T::LABEL, &bytes);
        bytes.extend_from_slice(&signature);
        Self {
            value,
            bytes: bytes.into(),
        }
    }

    /// Body and signature, as they go over the wire and into files.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The object.
    #[must_use]
    pub fn into_value(self) -> T {
        self.value
    }
}

impl<T> core::ops::Deref for Signed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// An object that was parsed but not checked: its fields may choose which key is asked, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unverified<T> {
    value: T,
    bytes: Box<[u8]>,
}

impl<T: SignedObject> Unverified<T> {
    /// Parses body and signature; nothing may follow.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are no signed object of this kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let this = Self::take(&mut r)?;
        r.finish()?;
        Ok(this)
    }

    /// Parses body and signature from the front of `r`.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are no signed object of this kind.
    pub fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut body = r.clone();
        let value = T::decode(&mut body)?;
        let len = r.remaining() - body.remaining() + SIGNATURE_LEN;
        Ok(Self {
            value,
            bytes: r.take(len, "signature")?.into(),
        })
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`Refused`] when it was not made by `key` over this body.
    pub fn verify(self, key: &VerifyingKey) -> Result<Signed<T>, Refused> {
        let (body, signature) = self.bytes.split_last_chunk::<SIGNATURE_LEN>().ok_or(Refused)?;
        key.verify(T::LABEL, body, signature)?;
        Ok(Signed {
            value: self.value,
            bytes: self.bytes,
        })
    }

    /// The fields, not to be trusted.
    #[must_use]
    pub fn claimed(&self) -> &T {
        &self.value
    }

    /// Body and signature.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests;
