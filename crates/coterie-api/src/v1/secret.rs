//! Text that is shown once and appears in no log.

use core::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A secret as text: a principal's key, or a join token. Wiped when dropped; what prints it for debugging sees nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Keeps a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText")
    }
}

impl Serialize for SecretText {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_over_the_wire_and_into_no_log() {
        let secret = SecretText::new("coterie-key-1.abc".to_owned());
        assert!(!format!("{secret:?}").contains("abc"));
        let json = serde_json::to_string(&secret).unwrap();
        assert_eq!(json, "\"coterie-key-1.abc\"");
        assert_eq!(serde_json::from_str::<SecretText>(&json).unwrap(), secret);
    }
}
