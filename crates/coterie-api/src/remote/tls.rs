//! Whom to trust, and as whom to appear.

use std::fmt;
use std::sync::Arc;

use rustls::client::{
    Resumption,
    danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject as _};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version::TLS13,
};

use super::RemoteError;

/// What the DER of an Ed25519 public key begins with (RFC 8410 section 4), without the outer sequence.
const ED25519: [u8; 10] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A certificate of the chain that a server shows.
#[derive(Debug, Clone, Copy)]
pub struct Root<'a> {
    /// The certificate (DER).
    pub certificate: &'a [u8],
    /// Its public key, when that is an Ed25519 key, as the root of an enclave has.
    pub ed25519: Option<&'a [u8; 32]>,
}

/// Decides about the root that a server shows.
pub type RootCheck = Arc<dyn Fn(Root<'_>) -> bool + Send + Sync>;

/// Which server is trusted. In each case the certificate that it shows must name it and be valid now.
#[derive(Clone)]
pub enum Trust {
    /// One for which one of these certificates (DER) vouches.
    Authority(Vec<Vec<u8>>),
    /// One that sends, in its chain, a certificate that passes this check and vouches for its own.
    Root(RootCheck),
}

impl Trust {
    /// Trusts the certificates of a PEM text.
    ///
    /// # Errors
    /// [`RemoteError::Settings`] when there is none, or one is malformed.
    pub fn from_pem(pem: &[u8]) -> Result<Self, RemoteError> {
        let bad = |reason: String| RemoteError::Settings {
            what: "the server's CA".to_owned(),
            reason: format!("{reason}; give a file with certificates in PEM"),
        };
        let certificates: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(pem)
            .map(|found| found.map(|der| der.to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|error| bad(error.to_string()))?;
        if certificates.is_empty() {
            return Err(bad("there is no certificate in it".to_owned()));
        }
        Ok(Self::Authority(certificates))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(certificates) => write!(f, "Authority({})", certificates.len()),
            Self::Root(_) => f.write_str("Root"),
        }
    }
}

/// A certificate to show, with its key.
pub struct Identity {
    /// The certificate itself and those that vouch for it (DER), the root not needed.
    pub chain: Vec<Vec<u8>>,
    /// The private key, as PKCS #8 (DER); the TLS library keeps it as long as there is a [`Tls`] with it.
    pub key: zeroize::Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} certificates)", self.chain.len())
    }
}

/// How to make connections: made once, used for many.
#[derive(Debug, Clone)]
pub struct Tls(pub(super) Arc<ClientConfig>);

impl Tls {
    /// TLS 1.3 with HTTP/2 and no resumption. With `only_hybrid` the one key exchange that is offered is X25519MLKEM768; without,
    /// it comes first.
    ///
    /// # Errors
    /// [`RemoteError::Settings`] when a certificate or the key is malformed, or the key is not the certificate's.
    pub fn new(trust: Trust, identity: Option<Identity>, only_hybrid: bool) -> Result<Self, RemoteError> {
        let bad = |what: &str| {
            let what = what.to_owned();
            move |error: Error| RemoteError::Settings {
                what,
                reason: error.to_string(),
            }
        };
        let mut provider = aws_lc_rs::default_provider();
        if only_hybrid {
            provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(bad("TLS 1.3"))?;
        let builder = match trust {
            Trust::Authority(certificates) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates {
                    roots
                        .add(CertificateDer::from(certificate))
                        .map_err(bad("the server's CA"))?;
                }
                builder.with_root_certificates(roots)
            }
            Trust::Root(check) => {
                let algorithms = builder.crypto_provider().signature_verification_algorithms;
                let verifier = RootVerifier { check, algorithms };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = identity.chain.into_iter().map(CertificateDer::from).collect();
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(&identity.key[..]));
                let key = aws_lc_rs::sign::any_supported_type(&key).map_err(bad("this client's key"))?;
                let certified = CertifiedKey::new(chain, key);
                certified.keys_match().map_err(bad("this client's certificate"))?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed connection would not look at certificates again.
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

/// Verifies a chain up to a root that a check accepts.
struct RootVerifier {
    check: RootCheck,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for RootVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootVerifier")
    }
}

impl ServerCertVerifier for RootVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // After a root was replaced the chain holds more than one: the first that is known vouches.
        let mut roots = RootCertStore::empty();
        for certificate in intermediates {
            let mut one = RootCertStore::empty();
            one.add(certificate.clone().into_owned())?;
            let key = one.roots.first().and_then(|anchor| {
                let key = anchor.subject_public_key_info.strip_prefix(&ED25519)?;
                <&[u8; 32]>::try_from(key).ok()
            });
            let shown = Root {
                certificate,
                ed25519: key,
            };
            if (self.check)(shown) {
                roots = one;
                break;
            }
        }
        if roots.is_empty() {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        let between = intermediates;
        let leaf = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, between, now, self.algorithms.all)?;
        verify_server_name(&leaf, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
