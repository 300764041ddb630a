//! X.509: the root's certificate and the two certificates of a member. `make` writes them, `check` reads them.

mod check;
mod make;

use coterie_model::{EnclaveId, Name, UnixTime};

use super::date;

pub use check::{Certificate, check, subject_of};
pub(crate) use check::{check_cross, check_root, check_signing_request};
pub use make::pkcs8;
pub(crate) use make::{OfEnclave, Subject, bundle, cross, identity, root, server, signing_request};

/// Arc of Coterie's object identifiers, under `joint-iso-itu-t(2) uuid(25)`, which needs no registration.
const ARC: [u64; 3] = [2, 25, 10_924_977_473_235_225_402];
/// The extension that carries wrapped community keys.
const WRAPPED_KEYS: [u64; 4] = [ARC[0], ARC[1], ARC[2], 1];

/// Why a certificate could not be made or is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The X.509 library's word.
    #[error("the X.509 library refuses: {0}")]
    Library(String),
    /// Not DER, or something follows.
    #[error("no X.509 object in DER")]
    Encoding,
    /// Signed or made with something else than Ed25519.
    #[error("the key or signature algorithm is not Ed25519")]
    Algorithm,
    /// The signature.
    #[error("the signature does not check")]
    Signature,
    /// The subject's key.
    #[error("it certifies another key")]
    Key,
    /// The subject's name.
    #[error("it certifies {found}, not {expected}")]
    Subject {
        /// What was to stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The time of validity.
    #[error("it ended at {}", date::text(*.0))]
    Ended(UnixTime),
    /// The extension with the wrapped keys is missing or no octet string.
    #[error("the extension with the wrapped keys is missing or malformed")]
    Extension,
}

impl From<rcgen::Error> for CertificateError {
    fn from(error: rcgen::Error) -> Self {
        Self::Library(error.to_string())
    }
}

/// The name that a member's certificates carry, in the manner of SPIFFE: trust domain, then path.
#[must_use]
pub fn member_uri(enclave: &Name, member: &Name) -> String {
    format!("spiffe://{enclave}/{member}")
}

/// The URI that the certificate of an enclave's server carries: of no member, as no name holds `/`.
pub(crate) fn server_uri(enclave: &Name, id: EnclaveId) -> String {
    format!("spiffe://{enclave}/server/{id}")
}

/// The DNS name under which the members of an enclave speak to its server: in no DNS, told by TLS (SNI) and compared with the
/// certificate that the enclave's root issued.
#[must_use]
pub fn server_name(id: EnclaveId) -> String {
    format!("{id}.coterie.internal")
}

/// A certificate as text for other programs.
#[must_use]
pub fn to_pem(der: &[u8]) -> String {
    super::armour::encode("CERTIFICATE", &Vec::new(), der).replacen("\n\n", "\n", 1)
}
