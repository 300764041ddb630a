//! Reading certificates: decoded first, believed when the root's signature and what they say were checked.

use coterie_crypto::sign::VerifyingKey;
use coterie_model::{Name, UnixTime};
use rcgen::{CertificateSigningRequestParams, PublicKeyData as _};
use x509_parser::{
    asn1_rs::{FromDer as _, OctetString, Oid},
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
};

use super::{CertificateError, WRAPPED_KEYS};

/// Ed25519 (RFC 8410).
const ED25519: [u64; 4] = [1, 3, 101, 112];

/// A certificate of which nothing was checked but its form, and that all its algorithms are Ed25519.
#[derive(Debug)]
pub struct Certificate<'a>(X509Certificate<'a>);

impl<'a> Certificate<'a> {
    /// Reads DER.
    ///
    /// # Errors
    /// [`CertificateError::Encoding`] and [`CertificateError::Algorithm`].
    pub fn decode(der: &'a [u8]) -> Result<Self, CertificateError> {
        let Ok((b"", certificate)) = X509Certificate::from_der(der) else {
            return Err(CertificateError::Encoding);
        };
        let algorithms = [
            &certificate.signature_algorithm.algorithm,
            &certificate.tbs_certificate.signature.algorithm,
            &certificate.public_key().algorithm.algorithm,
        ];
        let ed25519 = oid(&ED25519);
        if algorithms.iter().any(|algorithm| **algorithm != ed25519) {
            return Err(CertificateError::Algorithm);
        }
        Ok(Self(certificate))
    }

    /// Checks who signed it.
    ///
    /// # Errors
    /// [`CertificateError::Signature`] when it was not `root`.
    pub fn verify(&self, root: &VerifyingKey) -> Result<(), CertificateError> {
        root.verify_raw(self.0.tbs_certificate.as_ref(), &self.0.signature_value.data)
            .map_err(|_refused| CertificateError::Signature)
    }

    /// The subject's key, as it stands there.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.0.public_key().subject_public_key.data
    }

    /// The URIs among the subject's names.
    #[must_use]
    pub fn uris(&self) -> Vec<&str> {
        self.0
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
            .collect()
    }

    /// The last second in which it is valid; 0 for a time before 1970.
    #[must_use]
    pub fn not_after(&self) -> UnixTime {
        UnixTime(u64::try_from(self.0.validity().not_after.timestamp()).unwrap_or(0))
    }

    /// Checks that it is `key`'s, that `uri` is the one URI in it, and that it has not ended.
    ///
    /// # Errors
    /// [`CertificateError::Key`], [`CertificateError::Subject`] and [`CertificateError::Ended`].
    pub fn says(&self, uri: &str, key: &VerifyingKey, now: UnixTime) -> Result<(), CertificateError> {
        if self.key() != key.0 {
            return Err(CertificateError::Key);
        }
        let named = self.uris();
        if named != [uri] {
            return Err(CertificateError::Subject {
                expected: uri.to_owned(),
                found: named.join(", "),
            });
        }
        let end = self.not_after();
        if now > end {
            return Err(CertificateError::Ended(end));
        }
        Ok(())
    }

    /// What the extension with wrapped keys holds; `None` where there is no such extension.
    ///
    /// # Errors
    /// [`CertificateError::Extension`] when it is there twice or holds no octet string.
    pub fn wrapped_keys(&self) -> Result<Option<Vec<u8>>, CertificateError> {
        let extension = self
            .0
            .get_extension_unique(&oid(&WRAPPED_KEYS))
            .map_err(|_twice| CertificateError::Extension)?;
        let Some(extension) = extension else { return Ok(None) };
        match OctetString::from_der(extension.value) {
            Ok((b"", content)) => Ok(Some(content.as_ref().to_vec())),
            Ok(_) | Err(_) => Err(CertificateError::Extension),
        }
    }
}

/// Checks a member's certificate against the root and what it must say; gives what the extension with wrapped keys holds.
///
/// # Errors
/// The first of: how it is encoded, who signed it, what it says, the extension.
pub fn check(
    der: &[u8],
    root: &VerifyingKey,
    uri: &str,
    key: &VerifyingKey,
    now: UnixTime,
) -> Result<Option<Vec<u8>>, CertificateError> {
    let certificate = Certificate::decode(der)?;
    certificate.verify(root)?;
    certificate.says(uri, key, now)?;
    certificate.wrapped_keys()
}

/// Whose identity certificate this is: enclave, member, and the key that it certifies. `None` for a certificate that is no
/// member's, and for the one with a member's wrapped keys, which is for nobody's eyes. Who signed it and whether it has ended is
/// for the TLS library to check, before this is asked.
#[must_use]
pub fn subject_of(identity_certificate_der: &[u8]) -> Option<(Name, Name, VerifyingKey)> {
    let certificate = Certificate::decode(identity_certificate_der).ok()?;
    let key = certificate.key().try_into().map(VerifyingKey).ok()?;
    let usage = certificate.0.extended_key_usage().ok()??.value;
    if !usage.client_auth || certificate.wrapped_keys() != Ok(None) || certificate.0.is_ca() {
        return None;
    }
    let uris = certificate.uris();
    let [uri] = uris[..] else { return None };
    let (enclave, member) = uri.strip_prefix("spiffe://")?.split_once('/')?;
    Some((Name::new(enclave).ok()?, Name::new(member).ok()?, key))
}

/// Checks that `der` is the self-signed certificate of `root`.
pub(crate) fn check_root(der: &[u8], root: &VerifyingKey) -> Result<(), CertificateError> {
    check_cross(der, root, root)
}

/// Checks that `der` is the certificate of the root `key`, signed by the root `issuer`.
pub(crate) fn check_cross(der: &[u8], issuer: &VerifyingKey, key: &VerifyingKey) -> Result<(), CertificateError> {
    let certificate = Certificate::decode(der)?;
    certificate.verify(issuer)?;
    if certificate.key() != key.0 {
        return Err(CertificateError::Key);
    }
    Ok(())
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

fn oid(arcs: &[u64]) -> Oid<'static> {
    Oid::from(arcs).expect("the arcs of a constant")
}
