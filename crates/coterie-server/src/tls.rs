//! Who this server is to whom: to nodes by their enclave's root, to people by its own authority. TLS 1.3 alone; with nodes
//! X25519MLKEM768 alone.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coterie_control::issue::Enclave;
use coterie_crypto::sign::SigningKey;
use coterie_model::UnixTime;
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::entropy::SystemEntropy;

/// A certificate for nodes is replaced that long after it was made: long before it ends.
const RENEWED: u64 = 24 * 3600;
/// How long the authority for people is good.
const AUTHORITY_DAYS: i64 = 3650;
/// How long its certificate is good, which is made anew with each start.
const LEAF_DAYS: i64 = 397;

const AUTHORITY: &str = "ca.pem";
const AUTHORITY_KEY: &str = "ca.key";

/// Whether the configuration made at `made` is to be made anew.
pub(crate) fn is_due(made: u64, now: UnixTime) -> bool {
    now.0.abs_diff(made) >= RENEWED
}

/// TLS with the nodes of an enclave.
///
/// # Errors
/// When the libraries do not take what was made.
pub(crate) fn for_nodes(enclave: &Enclave, now: UnixTime) -> anyhow::Result<Arc<ServerConfig>> {
    let key = SigningKey::generate(&mut SystemEntropy);
    let leaf = enclave.server_certificate(&key, now)?;
    let mut chain = vec![CertificateDer::from(leaf)];
    chain.extend(enclave.chain().into_iter().map(CertificateDer::from));
    let mut roots = rustls::RootCertStore::empty();
    for root in enclave.root_certificates() {
        roots
            .add(CertificateDer::from(root.to_vec()))
            .context("an enclave's root is no trust anchor")?;
    }
    let provider = Arc::new(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    });
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .context("no verifier of nodes' certificates")?;
    let key = key.to_pkcs8().ok().context("the key has no PKCS#8")?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Members(verifier)))
        .with_single_cert(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)))?;
    Ok(finished(config))
}

/// Lets members in whose certificate has ended: one that was away, or whose server was, for longer than its lease is closed to
/// its peers, and comes here for what opens it again. Whether it is a member still is decided by who is enrolled.
#[derive(Debug)]
struct Members(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Members {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: rustls::pki_types::UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let at = ended_at(end_entity).filter(|end| *end < now).unwrap_or(now);
        self.0.verify_client_cert(end_entity, intermediates, at)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The last second of a certificate.
fn ended_at(certificate: &CertificateDer<'_>) -> Option<rustls::pki_types::UnixTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let end = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(end)))
}

/// TLS with people: with the certificate that the operator gave, or one of this server's own authority for `names`.
///
/// # Errors
/// When files cannot be read or written.
pub(crate) fn for_people(
    directory: &Path,
    given: Option<(&PathBuf, &PathBuf)>,
    names: &[String],
) -> anyhow::Result<Arc<ServerConfig>> {
    let (chain, key) = match given {
        Some((certificate, key)) => read_pair(certificate, key)?,
        None => own_pair(directory, names)?,
    };
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the certificate and the key do not fit")?;
    Ok(finished(config))
}

fn finished(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Connections are long: tickets would only be memory, and keys that outlive their session.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Arc::new(config)
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_pair(certificate: &Path, key: &Path) -> anyhow::Result<Pair> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read certificates from {}", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read a key from {}", key.display()))?;
    Ok((chain, key))
}

/// Makes the server's own authority, where it has none. A key without a certificate is what an interruption left: nobody has
/// seen anything that it signed.
///
/// # Errors
/// When files cannot be written.
pub(crate) fn make_authority(directory: &Path) -> anyhow::Result<()> {
    if directory.join(AUTHORITY).exists() {
        return Ok(());
    }
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.distinguished_name = named("Coterie server");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = span(AUTHORITY_DAYS);
    let certificate = params.self_signed(&key)?;
    put(directory, AUTHORITY_KEY, key.serialize_pem().as_bytes(), 0o600)?;
    put(directory, AUTHORITY, certificate.pem().as_bytes(), 0o644)
}

/// Puts a file into the server's directory, whole or not at all.
pub(crate) fn put(directory: &Path, name: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let (path, fresh) = (directory.join(name), directory.join(format!("{name}.new")));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", fresh.display()));
        }
        Ok(()) | Err(_) => {}
    }
    write(&fresh, bytes, mode)?;
    fs::rename(&fresh, &path).with_context(|| format!("cannot make {}", path.display()))?;
    let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.with_context(|| format!("cannot write {}", directory.display()))
}

/// The server's own authority (PEM).
pub(crate) fn authority(directory: &Path) -> PathBuf {
    directory.join(AUTHORITY)
}

fn own_pair(directory: &Path, names: &[String]) -> anyhow::Result<Pair> {
    let path = directory.join(AUTHORITY);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; `coterie-server init` makes it", path.display()))?;
    let key_path = directory.join(AUTHORITY_KEY);
    let key = fs::read_to_string(&key_path).with_context(|| format!("cannot read {}", key_path.display()))?;
    let issuer = rcgen::Issuer::from_ca_cert_pem(&text, rcgen::KeyPair::from_pem(&key)?)
        .with_context(|| format!("{} is no authority", path.display()))?;
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(names.to_vec())?;
    params.distinguished_name = named(names.first().map_or("coterie-server", String::as_str));
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = span(LEAF_DAYS);
    let leaf = params.signed_by(&key, &issuer)?;
    let authority = CertificateDer::from_pem_slice(text.as_bytes()).context("no certificate in it")?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok((vec![leaf.der().clone(), authority], key))
}

fn named(name: &str) -> rcgen::DistinguishedName {
    let mut distinguished = rcgen::DistinguishedName::new();
    distinguished.push(rcgen::DnType::CommonName, name);
    distinguished
}

/// From a little ago, for clocks that differ, until in so many days.
fn span(days: i64) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = time::OffsetDateTime::from(std::time::SystemTime::now());
    (now - Duration::from_secs(600), now + time::Duration::days(days))
}

/// Writes a file of this server, which none may be in the place of.
fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::start::make_root_key;

    #[test]
    fn keys_and_authority_are_made_however_often_that_was_interrupted() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        fs::write(place("root.key.new"), "half").unwrap();
        make_root_key(directory.path()).unwrap();
        let root = fs::read(place("root.key")).unwrap();
        make_root_key(directory.path()).unwrap_err();
        assert_eq!(fs::read(place("root.key")).unwrap(), root, "one that is there stays");
        for left in ["ca.key.new", "ca.key", "ca.pem.new"] {
            fs::write(place(left), "half").unwrap();
            make_authority(directory.path()).unwrap();
            own_pair(directory.path(), &["localhost".to_owned()]).unwrap();
            let mode = |name| fs::metadata(place(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(AUTHORITY_KEY), mode(AUTHORITY)), (0o600, 0o644), "{left}");
            let made = fs::read(place(AUTHORITY)).unwrap();
            make_authority(directory.path()).unwrap();
            assert_eq!(fs::read(place(AUTHORITY)).unwrap(), made, "one that is there stays");
            assert!(!place("ca.key.new").exists() && !place("ca.pem.new").exists());
            fs::remove_file(place(AUTHORITY)).unwrap();
        }
    }
}
