//! Identifiers: opaque 16-byte values on the wire, names for people.

use core::fmt;

use coterie_crypto::Entropy;

macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Draws one that nobody has had.
            pub fn draw(entropy: &mut (impl Entropy + ?Sized)) -> Self {
                let mut id = [0; 16];
                entropy.fill(&mut id);
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

opaque_id!(
    /// An enclave: random, made with the enclave, never reused.
    EnclaveId
);
opaque_id!(
    /// A community: random, not a hash of its name, so that it tells an outsider nothing. On no wire in clear.
    CommunityTag
);
opaque_id!(
    /// A member: one enrolment of one virtual machine.
    MemberId
);

/// Counts restores of the enclave's authority; only the root can raise it.
pub type Era = u64;
/// Number of a community's key; from one writer, never reused.
pub type Epoch = u64;
/// Number of a statement of one member in one community; grows with each.
pub type Serial = u64;
/// Number of the enclave's state of revocations; grows with each change.
pub type Revision = u64;

/// A name that people type: a DNS label (RFC 1123): 1 to 63 of `a-z`, `0-9`, `-`, not starting or ending with `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// Parses a name.
    ///
    /// # Errors
    /// [`NameError`] says which rule is broken.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > 63 {
            return Err(NameError::Length(text.len()));
        }
        if let Some(c) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            return Err(NameError::Character(c));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Hyphen);
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// Why a text is no [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or longer than 63 bytes.
    #[error("a name has 1 to 63 characters, this has {0}")]
    Length(usize),
    /// A character that a DNS label does not have.
    #[error("{0:?} is not allowed in a name; use a-z, 0-9 and '-'")]
    Character(char),
    /// A hyphen at an end.
    #[error("a name does not start or end with '-'")]
    Hyphen,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web-1", "0", "a".repeat(63).as_str()] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        assert_eq!(Name::new(""), Err(NameError::Length(0)));
        assert_eq!(Name::new(&"a".repeat(64)), Err(NameError::Length(64)));
        assert_eq!(Name::new("Web"), Err(NameError::Character('W')));
        assert_eq!(Name::new("a.b"), Err(NameError::Character('.')));
        assert_eq!(Name::new("-a"), Err(NameError::Hyphen));
        assert_eq!(Name::new("a-"), Err(NameError::Hyphen));
    }
}
