//! Writing certificates.

use core::net::IpAddr;

use coterie_crypto::sign::{SigningKey, VerifyingKey};
use coterie_model::{EnclaveId, Name, UnixTime};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use x509_parser::asn1_rs::{OctetString, ToDer as _};
use zeroize::Zeroizing;

use super::{ARC, CertificateError, WRAPPED_KEYS, member_uri, server_name, server_uri};
use crate::bundle::{MAX_SUCCESSIONS, date};

/// The one purpose of a bundle certificate, so that no TLS library takes it for an identity.
const BUNDLE_PURPOSE: [u64; 4] = [ARC[0], ARC[1], ARC[2], 2];
/// How far a certificate begins before it was issued, for readers whose clock is slow.
const BACKDATED: u64 = 300;

/// What the two certificates of a member say.
pub(crate) struct Subject<'a> {
    pub(crate) enclave: &'a Name,
    pub(crate) member: &'a Name,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) key: &'a VerifyingKey,
    pub(crate) issued: UnixTime,
    pub(crate) not_after: UnixTime,
}

/// What a certificate of the enclave itself says: of its next root, or of its server.
pub(crate) struct OfEnclave<'a> {
    pub(crate) enclave: &'a Name,
    pub(crate) id: EnclaveId,
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
    let params = authority((enclave, id), (issued, not_after), MAX_SUCCESSIONS, serial);
    Ok(params.self_signed(&key_pair(root)?)?.der().to_vec())
}

/// The next root's key, certified by the root before it (DER): the two have one name, which makes the next one's certificates
/// those of the root before for whoever knows that one alone.
pub(crate) fn cross(
    root: &SigningKey,
    root_certificate: &[u8],
    subject: &OfEnclave<'_>,
    serial: [u8; 16],
) -> Result<Vec<u8>, CertificateError> {
    let times = (subject.issued, subject.not_after);
    let mut params = authority((subject.enclave, subject.id), times, MAX_SUCCESSIONS - 1, serial);
    params.use_authority_key_identifier_extension = true;
    issue(&params, root, root_certificate, subject.key)
}

/// What certificates of roots have in common. Below a root, and below each that it certified, there may be the next ones.
fn authority(
    (enclave, id): (&Name, EnclaveId),
    times: (UnixTime, UnixTime),
    below: usize,
    serial: [u8; 16],
) -> CertificateParams {
    let mut params = params(("Coterie", &format!("{enclave} root {id}")), times, serial);
    let below = u8::try_from(below).expect("a handful of successions");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// The identity certificate (DER): for the member's own mutual TLS, shown to anybody.
pub(crate) fn identity(
    root: &SigningKey,
    root_certificate: &[u8],
    subject: &Subject<'_>,
    serial: [u8; 16],
) -> Result<Vec<u8>, CertificateError> {
    let mut params = of_member(subject, serial)?;
    let name = subject.member.as_str().try_into()?;
    params.subject_alt_names.push(SanType::DnsName(name));
    params
        .subject_alt_names
        .extend(subject.addresses.iter().copied().map(SanType::IpAddress));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    issue(&params, root, root_certificate, subject.key)
}

/// The certificate (DER) by which the enclave's server is known to its members.
pub(crate) fn server(
    root: &SigningKey,
    root_certificate: &[u8],
    subject: &OfEnclave<'_>,
    serial: [u8; 16],
) -> Result<Vec<u8>, CertificateError> {
    let named = (subject.enclave.as_str(), &*format!("{} server", subject.enclave));
    let uri = server_uri(subject.enclave, subject.id);
    let mut params = leaf(named, uri, (subject.issued, subject.not_after), serial)?;
    let name = server_name(subject.id).try_into()?;
    params.subject_alt_names.push(SanType::DnsName(name));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
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
    let mut params = of_member(subject, serial)?;
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

/// What all certificates have in common: the subject's organization and common name, the times, the serial number.
fn params(
    (organization, name): (&str, &str),
    (issued, not_after): (UnixTime, UnixTime),
    mut serial: [u8; 16],
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date::date_time(UnixTime(issued.0.saturating_sub(BACKDATED)));
    params.not_after = date::date_time(not_after);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, name);
    // A serial number is positive and at most 20 octets (RFC 5280 section 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

/// What certificates below the root have in common.
fn leaf(
    named: (&str, &str),
    uri: String,
    times: (UnixTime, UnixTime),
    serial: [u8; 16],
) -> Result<CertificateParams, CertificateError> {
    let mut params = params(named, times, serial);
    params.subject_alt_names.push(SanType::URI(uri.try_into()?));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// What the two certificates of a member have in common.
fn of_member(subject: &Subject<'_>, serial: [u8; 16]) -> Result<CertificateParams, CertificateError> {
    let named = (subject.enclave.as_str(), subject.member.as_str());
    let uri = member_uri(subject.enclave, subject.member);
    leaf(named, uri, (subject.issued, subject.not_after), serial)
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
    Ok(KeyPair::try_from(&pkcs8(key)[..])?)
}

/// A signing key as PKCS#8 (RFC 8410, DER), for a TLS library. Secret.
#[must_use]
pub fn pkcs8(key: &SigningKey) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(
        key.to_pkcs8()
            .expect("a key that was made from its seed has an encoding"),
    )
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
