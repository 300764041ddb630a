//! X.509: the root's certificate, the two certificates of a member, and what is checked of them.

use core::net::IpAddr;

use coterie_crypto::sign::{SigningKey, VerifyingKey};
use coterie_model::{EnclaveId, Name, UnixTime};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use x509_parser::{
    asn1_rs::{FromDer as _, OctetString, Oid, ToDer as _},
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
};
use zeroize::Zeroizing;

use super::date;

/// Arc of Coterie's object identifiers, under `joint-iso-itu-t(2) uuid(25)`, which needs no registration.
const ARC: [u64; 3] = [2, 25, 10_924_977_473_235_225_402];
/// The extension that carries wrapped community keys.
pub(crate) const WRAPPED_KEYS: [u64; 4] = [ARC[0], ARC[1], ARC[2], 1];
/// The one purpose of a bundle certificate, so that no TLS library takes it for an identity.
const BUNDLE_PURPOSE: [u64; 4] = [ARC[0], ARC[1], ARC[2], 2];
/// Ed25519 (RFC 8410).
const ED25519: [u64; 4] = [1, 3, 101, 112];
/// How far a certificate begins before it was issued, for readers whose clock is slow.
const BACKDATED: u64 = 300;

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

/// What the two certificates of a member say.
pub(crate) struct Subject<'a> {
    pub(crate) enclave: &'a Name,
    pub(crate) member: &'a Name,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) key: &'a VerifyingKey,
    pub(crate) issued: UnixTime,
    pub(crate) not_after: UnixTime,
}

/// The root's self-signed certificate (DER).
pub(crate) fn root(
    root: &SigningKey,
    enclave: &Name,
    id: EnclaveId,
    issued: UnixTime,
    not_after: UnixTime,
    serial: [u8; 16],
) -> Result<Vec<u8>, CertificateError> {
    let mut params = params(issued, not_after, serial);
    params.distinguished_name.push(DnType::OrganizationName, "Coterie");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{enclave} root {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(&key_pair(root)?)?.der().to_vec())
}

/// The identity certificate (DER): for the member's own mutual TLS, shown to anybody.
pub(crate) fn identity(
    root: &SigningKey,
    root_certificate: &[u8],
    subject: &Subject<'_>,
    serial: [u8; 16],
) -> Result<Vec<u8>, CertificateError> {
    let mut params = leaf(subject, serial)?;
    let name = subject.member.as_str().try_into()?;
    params.subject_alt_names.push(SanType::DnsName(name));
    params
        .subject_alt_names
        .extend(subject.addresses.iter().copied().map(SanType::IpAddress));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    issue(&params, root, root_certificate, subject.key)
}

/// The bundle certificate (DER): the same key, with the wrapped keys in it; delivered once and shown to nobody.
pub(crate) fn bundle(
    root: &SigningKey,
    root_certificate: &[u8],
    subject: &Subject<'_>,
    wrapped_keys: &[u8],
    serial: [u8; 16],
) -> Result<Vec<u8>, CertificateError> {
    let mut params = leaf(subject, serial)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(BUNDLE_PURPOSE.to_vec())];
    let content = OctetString::new(wrapped_keys)
        .to_der_vec()
        .map_err(|_encoding| CertificateError::Extension)?;
    params
        .custom_extensions
        .push(CustomExtension::from_oid_content(&WRAPPED_KEYS, content));
    issue(&params, root, root_certificate, subject.key)
}

/// The certificate signing request (DER) of a machine.
pub(crate) fn signing_request(name: &Name, identity: &SigningKey) -> Result<Vec<u8>, CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    Ok(params.serialize_request(&key_pair(identity)?)?.der().to_vec())
}

/// Checks the signature of a signing request and gives its key. Nothing else of it is used: what a certificate says
/// comes from the enclave file.
pub(crate) fn check_signing_request(der: &[u8]) -> Result<VerifyingKey, CertificateError> {
    let request = CertificateSigningRequestParams::from_der(&der.into())?;
    if request.public_key.algorithm() != &rcgen::PKCS_ED25519 {
        return Err(CertificateError::Algorithm);
    }
    request
        .public_key
        .der_bytes()
        .try_into()
        .map(VerifyingKey)
        .map_err(|_length| CertificateError::Algorithm)
}

/// Checks a member's certificate against the root and what it must say; gives what the extension with wrapped keys holds.
pub(crate) fn check(
    der: &[u8],
    root: &VerifyingKey,
    uri: &str,
    key: &VerifyingKey,
    now: UnixTime,
) -> Result<Option<Vec<u8>>, CertificateError> {
    let certificate = parse(der)?;
    check_signature(&certificate, root)?;
    if certificate.public_key().subject_public_key.data.as_ref() != key.0 {
        return Err(CertificateError::Key);
    }
    let named: Vec<&str> = certificate
        .extensions()
        .iter()
        .filter_map(|extension| {
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
                return None;
            };
            Some(&names.general_names)
        })
        .flatten()
        .filter_map(|name| {
            if let GeneralName::URI(uri) = name {
                Some(*uri)
            } else {
                None
            }
        })
        .collect();
    if named != [uri] {
        return Err(CertificateError::Subject {
            expected: uri.to_owned(),
            found: named.join(", "),
        });
    }
    let end = UnixTime(u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0));
    if now > end {
        return Err(CertificateError::Ended(end));
    }
    let oid = Oid::from(&WRAPPED_KEYS).map_err(|_encoding| CertificateError::Extension)?;
    let extension = certificate
        .get_extension_unique(&oid)
        .map_err(|_twice| CertificateError::Extension)?;
    let Some(extension) = extension else { return Ok(None) };
    match OctetString::from_der(extension.value) {
        Ok((b"", content)) => Ok(Some(content.as_ref().to_vec())),
        Ok(_) | Err(_) => Err(CertificateError::Extension),
    }
}

/// Checks that `der` is the self-signed certificate of `root`.
pub(crate) fn check_root(der: &[u8], root: &VerifyingKey) -> Result<(), CertificateError> {
    let certificate = parse(der)?;
    check_signature(&certificate, root)?;
    if certificate.public_key().subject_public_key.data.as_ref() != root.0 {
        return Err(CertificateError::Key);
    }
    Ok(())
}

/// A certificate as text for other programs.
#[must_use]
pub fn to_pem(der: &[u8]) -> String {
    super::armour::encode("CERTIFICATE", &Vec::new(), der).replacen("\n\n", "\n", 1)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok((b"", certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(CertificateError::Encoding),
    }
}

fn check_signature(certificate: &X509Certificate<'_>, root: &VerifyingKey) -> Result<(), CertificateError> {
    let oid = Oid::from(&ED25519).map_err(|_encoding| CertificateError::Algorithm)?;
    let algorithms = [
        &certificate.signature_algorithm.algorithm,
        &certificate.tbs_certificate.signature.algorithm,
        &certificate.public_key().algorithm.algorithm,
    ];
    if algorithms.iter().any(|algorithm| **algorithm != oid) {
        return Err(CertificateError::Algorithm);
    }
    root.verify_raw(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
        .map_err(|_refused| CertificateError::Signature)
}

fn params(issued: UnixTime, not_after: UnixTime, serial: [u8; 16]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date::date_time(UnixTime(issued.0.saturating_sub(BACKDATED)));
    params.not_after = date::date_time(not_after);
    params.distinguished_name = DistinguishedName::new();
    // A serial number is positive and at most 20 octets (RFC 5280 section 4.1.2.2).
    let mut serial = serial;
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn leaf(subject: &Subject<'_>, serial: [u8; 16]) -> Result<CertificateParams, CertificateError> {
    let mut params = params(subject.issued, subject.not_after, serial);
    params
        .distinguished_name
        .push(DnType::OrganizationName, subject.enclave.as_str());
    params
        .distinguished_name
        .push(DnType::CommonName, subject.member.as_str());
    let uri = member_uri(subject.enclave, subject.member).try_into()?;
    params.subject_alt_names.push(SanType::URI(uri));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn issue(
    params: &CertificateParams,
    root: &SigningKey,
    root_certificate: &[u8],
    key: &VerifyingKey,
) -> Result<Vec<u8>, CertificateError> {
    let issuer = Issuer::from_ca_cert_der(&root_certificate.into(), key_pair(root)?)?;
    Ok(params.signed_by(&PublicKey(key), &issuer)?.der().to_vec())
}

/// A signing key in the shape that the X.509 library asks for.
fn key_pair(key: &SigningKey) -> Result<KeyPair, CertificateError> {
    let pkcs8 = Zeroizing::new(
        key.to_pkcs8()
            .map_err(|refused| CertificateError::Library(refused.to_string()))?,
    );
    Ok(KeyPair::try_from(&pkcs8[..])?)
}

/// A verifying key in the shape that the X.509 library asks for.
struct PublicKey<'a>(&'a VerifyingKey);

impl PublicKeyData for PublicKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.0.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}
