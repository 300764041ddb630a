//! The private half of an enrolment, which never leaves its machine.

use coterie_crypto::{Entropy, Secret, dh, hash, hpke::OpeningKey, same_bytes, sign::SigningKey};
use coterie_model::{Malformed, Name, Reader, Writer};
use zeroize::Zeroizing;

use super::armour::{self, ArmourError};

const LABEL: &str = "COTERIE KEYS";
const VERSION: u8 = 1;

/// Keys of one enrolment: X25519 static key (sessions), X-Wing opening key (what a bundle is sealed to), Ed25519
/// identity key (certificates). Wiped when dropped.
#[derive(Debug)]
pub struct Keys {
    name: Name,
    static_private: Secret<32>,
    opening: Secret<32>,
    identity: Secret<32>,
}

impl Keys {
    /// Draws fresh keys for the member `name`. Keys serve one enrolment; a machine that enrols anew draws new ones.
    pub fn generate(name: Name, entropy: &mut dyn Entropy) -> Self {
        Self {
            name,
            static_private: Secret::draw(entropy),
            opening: Secret::draw(entropy),
            identity: Secret::draw(entropy),
        }
    }

    /// The same static key and identity key with a fresh opening key: for one bundle, so that a bundle that was recorded does not
    /// open when the machine is broken into later.
    #[must_use]
    pub fn for_delivery(&self, entropy: &mut dyn Entropy) -> Self {
        Self {
            name: self.name.clone(),
            static_private: self.static_private.duplicate(),
            opening: Secret::draw(entropy),
            identity: self.identity.duplicate(),
        }
    }

    /// The member that they were made for.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The X25519 static key pair.
    #[must_use]
    pub fn static_key(&self) -> dh::KeyPair {
        dh::KeyPair::from_private(self.static_private.duplicate())
    }

    /// The X-Wing key that opens bundles.
    #[must_use]
    pub fn opening_key(&self) -> OpeningKey {
        OpeningKey::from_seed(self.opening.duplicate())
    }

    /// The Ed25519 key of the certificates.
    #[must_use]
    pub fn identity_key(&self) -> SigningKey {
        SigningKey::from_seed(self.identity.duplicate())
    }

    /// The keys file. Secret: mode 0600.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut front = Writer::new();
        front.u8(VERSION).name(&self.name);
        // Room for everything at once: a buffer that grows leaves copies of secrets behind.
        let mut body = Zeroizing::new(Vec::with_capacity(256));
        body.extend_from_slice(&front.into_bytes());
        for secret in [&self.static_private, &self.opening, &self.identity] {
            body.extend_from_slice(secret.expose());
        }
        let sum = checksum(&body);
        body.extend_from_slice(&sum);
        armour::encode(LABEL, &headers(&self.name), &body)
    }

    /// Reads a keys file.
    ///
    /// # Errors
    /// [`KeysError`], with the place of what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeysError> {
        let armoured = armour::decode(LABEL, bytes)?;
        let mut r = Reader::new(&armoured.body);
        let version = r.u8("version")?;
        if version != VERSION {
            return Err(KeysError::Version(version));
        }
        let name = r.name("member name")?;
        let mut secret = |what| {
            r.take(32, what)
                .map(|b| Secret::from_slice(b).expect("32 bytes were taken"))
        };
        let this = Self {
            name,
            static_private: secret("static private key")?,
            opening: secret("opening key")?,
            identity: secret("identity key")?,
        };
        let at = armoured.body.len() - r.remaining();
        let sum = r.take(8, "checksum")?;
        r.finish()?;
        if !same_bytes(sum, &checksum(&armoured.body[..at])) {
            return Err(KeysError::Checksum);
        }
        armoured.check_headers(&headers(&this.name))?;
        Ok(this)
    }
}

fn headers(name: &Name) -> armour::Headers {
    vec![("Member", name.to_string())]
}

fn checksum(body: &[u8]) -> [u8; 8] {
    let digest = hash::sha256(&[b"coterie/1 keys", body]);
    let mut sum = [0; 8];
    sum.copy_from_slice(&digest[..8]);
    sum
}

const REMEDY: &str =
    "restore the file from where it was made, or make a new request with `coterie bundle request` and enrol anew";

/// Why a file is no keys file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// The file around the keys.
    #[error("{0}; {REMEDY}")]
    Armour(ArmourError),
    /// A version that this program does not know.
    #[error("the keys file has version {0}, this program reads version {VERSION}; use the program that wrote it")]
    Version(u8),
    /// The bytes inside.
    #[error("{0} of the keys; {REMEDY}")]
    Malformed(Malformed),
    /// The bytes inside were changed.
    #[error("the checksum of the keys is wrong: the file was damaged; {REMEDY}")]
    Checksum,
}

impl From<ArmourError> for KeysError {
    fn from(error: ArmourError) -> Self {
        Self::Armour(error)
    }
}

impl From<Malformed> for KeysError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

#[cfg(test)]
mod tests {
    use coterie_crypto::SeededEntropy;

    use super::*;

    #[test]
    fn come_back_and_notice_damage() {
        let keys = Keys::generate(Name::new("web-1").unwrap(), &mut SeededEntropy::from_number(1));
        let text = keys.to_text();
        let back = Keys::parse(text.as_bytes()).unwrap();
        assert_eq!(back.static_key().public(), keys.static_key().public());
        assert_eq!(back.opening_key().sealing_key(), keys.opening_key().sealing_key());
        assert_eq!(back.identity_key().verifying_key(), keys.identity_key().verifying_key());
        assert!(matches!(
            Keys::parse(text.replace("web-1", "web-2").as_bytes()),
            Err(KeysError::Armour(_))
        ));
        let start = text.find("\n\n").unwrap();
        for at in start..text.len() - 1 {
            let mut damaged = text.as_bytes().to_vec();
            damaged[at] ^= 1;
            assert!(Keys::parse(&damaged).is_err(), "byte {at}");
        }
        assert!(!format!("{keys:?}").contains(&format!("{:?}", keys.static_private.expose())));
    }
}
