//! What a machine asks with: its public keys and a certificate signing request.
//!
//! What is proved, offline, by a request that [`Request::parse`] accepts:
//!
//! * whoever made it held the Ed25519 identity key: it signed the CSR, and it signed the whole request, so static key,
//!   sealing key and name are what its owner wrote, together;
//! * nothing about who that is. A person compares [`Request::fingerprint`] on both sides before enrolling;
//! * **not** that its maker holds the private halves of the static key and of the sealing key. A foreign sealing key
//!   makes a bundle that its owner alone could open, and a foreign static key a member that can make no handshake. That
//!   a member's static key is taken by another one, so that its traffic is attributed wrongly, is prevented by the
//!   issuer: a static key belongs to one member of the enclave. (With a server, a Diffie-Hellman challenge proves it.)

use coterie_crypto::{
    dh::PublicKey,
    hash,
    hpke::SEALING_KEY_LEN,
    sign::{SIGNATURE_LEN, VerifyingKey},
};
use coterie_model::{Malformed, Name, Reader, Writer};

use super::{
    Keys,
    armour::{self, ArmourError},
    certificate::{self, CertificateError},
};

const LABEL: &str = "COTERIE REQUEST";
const SIGNATURE_LABEL: &str = "coterie/1 request";
const VERSION: u8 = 1;
const MAX_CSR: usize = 4096;

/// A request whose signatures were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    name: Name,
    static_key: PublicKey,
    sealing_key: Vec<u8>,
    identity_key: VerifyingKey,
    bytes: Vec<u8>,
}

impl Request {
    /// The request of `keys`, for the member that they were made for.
    ///
    /// # Errors
    /// [`RequestError::Certificate`] when the X.509 library refuses to make the CSR.
    pub fn new(keys: &Keys) -> Result<Self, RequestError> {
        let identity = keys.identity_key();
        let mut w = Writer::new();
        w.u8(VERSION).name(keys.name()).bytes(keys.static_key().public());
        w.bytes(&keys.opening_key().sealing_key());
        w.counted(&certificate::signing_request(keys.name(), &identity)?);
        let mut bytes = w.into_bytes();
        bytes.extend_from_slice(&identity.sign(SIGNATURE_LABEL, &bytes));
        Self::from_bytes(&bytes)
    }

    /// Reads a request file.
    ///
    /// # Errors
    /// [`RequestError`], with the place of what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        let armoured = armour::decode(LABEL, bytes)?;
        let this = Self::from_bytes(&armoured.body)?;
        armoured.check_headers(&this.headers())?;
        Ok(this)
    }

    /// The request file.
    #[must_use]
    pub fn to_text(&self) -> String {
        armour::encode(LABEL, &self.headers(), &self.bytes).to_string()
    }

    /// The member that is asked for.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The machine's X25519 static key.
    #[must_use]
    pub fn static_key(&self) -> &PublicKey {
        &self.static_key
    }

    /// The X-Wing key that bundles are sealed to.
    #[must_use]
    pub fn sealing_key(&self) -> &[u8] {
        &self.sealing_key
    }

    /// The Ed25519 key of the certificates.
    #[must_use]
    pub fn identity_key(&self) -> &VerifyingKey {
        &self.identity_key
    }

    /// What people compare: 128 bits of a hash over the whole request, as eight groups of four hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = hash::sha256(&[b"coterie/1 request", &self.bytes]);
        let groups: Vec<String> = digest[..16]
            .chunks(2)
            .map(|pair| format!("{:02x}{:02x}", pair[0], pair[1]))
            .collect();
        groups.join(" ")
    }

    /// Body and signature.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads what [`Self::bytes`] gave.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, RequestError> {
        let mut r = Reader::new(bytes);
        let version = r.u8("version")?;
        if version != VERSION {
            return Err(RequestError::Version(version));
        }
        let name = r.name("member name")?;
        let static_key = r.array("static key")?;
        let sealing_key = r.take(SEALING_KEY_LEN, "sealing key")?.to_vec();
        let identity_key = certificate::check_signing_request(r.counted(MAX_CSR, "certificate signing request")?)?;
        let signed = &bytes[..bytes.len() - r.remaining()];
        let signature: [u8; SIGNATURE_LEN] = r.array("signature")?;
        r.finish()?;
        identity_key
            .verify(SIGNATURE_LABEL, signed, &signature)
            .map_err(|_refused| RequestError::Signature)?;
        Ok(Self {
            name,
            static_key,
            sealing_key,
            identity_key,
            bytes: bytes.to_vec(),
        })
    }

    fn headers(&self) -> armour::Headers {
        vec![("Member", self.name.to_string()), ("Fingerprint", self.fingerprint())]
    }
}

const REMEDY: &str = "copy it again, or make a new one on the machine with `coterie bundle request`";

/// Why a file is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The file around the request.
    #[error("{0}; {REMEDY}")]
    Armour(ArmourError),
    /// A version that this program does not know.
    #[error(
        "the request has version {0}, this program reads version {VERSION}; use programs of one release on both sides"
    )]
    Version(u8),
    /// The bytes inside.
    #[error("{0} of the request; {REMEDY}")]
    Malformed(Malformed),
    /// The certificate signing request inside.
    #[error("certificate signing request: {0}; {REMEDY}")]
    Certificate(CertificateError),
    /// The signature over the request.
    #[error("the request's signature does not check: it was edited; {REMEDY}")]
    Signature,
}

impl From<ArmourError> for RequestError {
    fn from(error: ArmourError) -> Self {
        Self::Armour(error)
    }
}

impl From<Malformed> for RequestError {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl From<CertificateError> for RequestError {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(error)
    }
}

#[cfg(test)]
mod tests {
    use coterie_crypto::SeededEntropy;

    use super::*;

    fn request() -> Request {
        let keys = Keys::generate(Name::new("web-1").unwrap(), &mut SeededEntropy::from_number(1));
        Request::new(&keys).unwrap()
    }

    #[test]
    fn comes_back() {
        let request = request();
        assert_eq!(Request::parse(request.to_text().as_bytes()).unwrap(), request);
        assert_eq!(request.fingerprint().len(), 39);
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let request = request();
        for at in 0..request.bytes.len() {
            let mut bad = request.bytes.clone();
            bad[at] ^= 1;
            assert!(Request::from_bytes(&bad).is_err(), "byte {at}");
        }
    }
}
