//! Every certificate there is, made by a server that runs, in the hands of programs that others wrote: OpenSSL and pkilint.

#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "a test that cannot go on fails"
)]
#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coterie_api::v1::{self, node_server_name};
use coterie_control::bundle::{pkcs8, to_pem};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::site::{Machine, Site};

/// As `openssl x509 -text` writes the name of the extension that carries wrapped keys.
const WRAPPED_KEYS: &str = "2.25.10924977473235225402.1:";

/// Takes any server, and keeps what it shows.
#[derive(Debug, Default)]
struct Collector(Mutex<Vec<Vec<u8>>>);

impl ServerCertVerifier for Collector {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _stapled: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let all = std::iter::once(leaf).chain(others);
        *self.0.lock().unwrap() = all.map(|der| der.to_vec()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = aws_lc_rs::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The chain (DER, the leaf first) that the server shows to whoever calls it so.
fn shown(address: SocketAddr, name: &str) -> Vec<Vec<u8>> {
    let collector = Arc::new(Collector::default());
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(collector.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut tls = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).unwrap();
    }
    let chain = collector.0.lock().unwrap().clone();
    assert!(!chain.is_empty());
    chain
}

/// PEM files in a directory that goes with the test.
struct Shelf(tempfile::TempDir);

impl Shelf {
    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn put(&self, file: &str, certificates: &[&[u8]]) -> PathBuf {
        let path = self.path(file);
        let text: String = certificates.iter().map(|der| to_pem(der)).collect();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A machine's identity: its certificate and its key.
    fn identity(&self, machine: &Machine) -> (PathBuf, PathBuf) {
        let opened = machine.opened.as_ref().unwrap();
        let certificate = self.put(
            &format!("identity-{}.pem", opened.name),
            &[&opened.identity_certificate],
        );
        let key = self.path(&format!("{}.key", opened.name));
        // OpenSSL 3.0 reads PKCS #8 without the public key alone (RFC 8410 section 7).
        let with_public = pkcs8(&machine.keys.identity_key());
        let mut alone = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        assert_eq!(with_public[5..16], alone[5..]);
        alone.extend_from_slice(&with_public[16..48]);
        std::fs::write(&key, alone).unwrap();
        (certificate, key)
    }
}

/// Whether OpenSSL is there; where it has to be, it is.
fn has_openssl() -> bool {
    match Command::new("openssl").arg("version").output() {
        Ok(_) => true,
        Err(error) => {
            assert!(!required(), "cannot start openssl: {error}");
            println!("skipped: cannot start openssl: {error}");
            false
        }
    }
}

fn required() -> bool {
    std::env::var_os("COTERIE_LAB_REQUIRED").is_some()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// `openssl verify` takes a leaf for a purpose.
fn verifies(root: &Path, chain: &[&Path], leaf: &Path, purpose: &str) -> bool {
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-no-CApath", "-no-CAstore"]);
    command.args(["-purpose", purpose, "-CAfile"]).arg(root);
    for file in chain {
        command.arg("-untrusted").arg(file);
    }
    let output = command.arg(leaf).output().unwrap();
    eprintln!("{}", said(&output));
    output.status.success()
}

fn text(certificate: &Path) -> String {
    let mut command = Command::new("openssl");
    let output = command.args(["x509", "-noout", "-text", "-in"]).arg(certificate);
    let output = output.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// pkilint looks over what is given.
fn lint(files: &[&Path]) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let packages =
        std::env::var_os("COTERIE_PYTHON_PACKAGES").map_or_else(|| repository.join("target/python"), PathBuf::from);
    let mut command = Command::new("python3");
    command.arg(repository.join("tests/certificates/lint.py")).args(files);
    let why = match command.env("PYTHONPATH", packages).output() {
        Ok(output) if output.status.code() == Some(77) => said(&output),
        Ok(output) => {
            assert!(output.status.success(), "{}", said(&output));
            let good = said(&output).lines().filter(|line| line.contains(": good, ")).count();
            return assert_eq!(good, files.len(), "{}", said(&output));
        }
        Err(error) => format!("skipped: cannot start python3: {error}"),
    };
    assert!(!required(), "{why}");
    println!("{why}");
}

/// A server with two members, whose root was replaced once.
async fn rotated() -> (Site, Machine, Machine) {
    let site = Site::start();
    let owner = site.shop().await;
    let token = owner.token("app", 2).await;
    let (mut caller, mut called) = (Machine::new("app-1", &token), Machine::new("app-2", &token));
    for machine in [&mut caller, &mut called] {
        machine.enrol(&token).await.unwrap();
    }
    let before = caller.opened.as_ref().unwrap().root_certificate.clone();
    let _rotated: v1::RootRotated = owner.post("/v1/enclaves/shop/root/rotate", &()).await.unwrap();
    let name = node_server_name(token.enclave);
    let deadline = Instant::now() + Duration::from_secs(10);
    while shown(site.address, &name).len() < 4 {
        assert!(Instant::now() < deadline, "the new root is not shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for machine in [&mut caller, &mut called] {
        machine.renew().await.unwrap();
        assert_ne!(machine.opened.as_ref().unwrap().root_certificate, before);
    }
    (site, caller, called)
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_and_pkilint_accept_every_certificate() {
    if !has_openssl() {
        return;
    }
    let (site, member, _) = rotated().await;
    let shelf = Shelf(tempfile::tempdir().unwrap());
    let opened = member.opened.as_ref().unwrap();
    let chain = shown(site.address, &node_server_name(member.enclave));
    let [leaf, cross, new_root, old_root] = &chain[..] else {
        panic!("{} certificates in the chain for nodes", chain.len());
    };
    assert_eq!(new_root, &opened.root_certificate);
    let root = shelf.put("root.pem", &[new_root]);
    let old_root = shelf.put("root-before.pem", &[old_root]);
    let cross = shelf.put("cross.pem", &[cross]);
    let leaf = shelf.put("server.pem", &[leaf]);
    let (identity, _) = shelf.identity(&member);
    let bundle = shelf.put("bundle.pem", &[&opened.bundle_certificate]);
    let people = shown(site.address, "localhost");
    let people_leaf = shelf.put("people.pem", &[&people[0]]);
    let people_root = site.path().join("ca.pem");
    assert_eq!(std::fs::read_to_string(&people_root).unwrap(), to_pem(&people[1]));

    assert!(verifies(&root, &[], &root, "any"));
    assert!(verifies(&old_root, &[], &cross, "any"));
    assert!(verifies(&root, &[], &leaf, "sslserver"));
    assert!(verifies(&old_root, &[&cross], &leaf, "sslserver"));
    assert!(verifies(&root, &[], &identity, "sslserver"));
    assert!(verifies(&root, &[], &identity, "sslclient"));
    assert!(verifies(&root, &[], &bundle, "any"));
    assert!(verifies(&people_root, &[], &people_root, "any"));
    assert!(verifies(&people_root, &[], &people_leaf, "sslserver"));
    // It can say no.
    assert!(!verifies(&old_root, &[], &leaf, "sslserver"));
    assert!(!verifies(&root, &[], &bundle, "sslclient"));
    assert!(!verifies(&root, &[], &people_leaf, "sslserver"));

    for file in [&root, &old_root, &cross, &leaf, &identity, &people_root, &people_leaf] {
        assert!(!text(file).contains(WRAPPED_KEYS), "{}", file.display());
    }
    assert!(text(&bundle).contains(WRAPPED_KEYS));

    lint(&[
        &root,
        &old_root,
        &cross,
        &leaf,
        &identity,
        &bundle,
        &people_root,
        &people_leaf,
    ]);
}

/// `openssl s_server` with a member's identity, which takes members alone and tells each caller who it is.
struct Server {
    process: Child,
    /// What it says further; nobody reads it, and it is open while the server is.
    _log: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    fn start((certificate, key): &(PathBuf, PathBuf), root: &Path) -> Self {
        let mut process = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-tls1_3", "-www", "-Verify", "1"])
            .args(["-verify_return_error", "-cert"])
            .arg(certificate)
            .args(["-keyform", "DER", "-key"])
            .arg(key)
            .arg("-CAfile")
            .arg(root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("ACCEPT ") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "openssl s_server ended");
        }
        Self {
            process,
            _log: log,
            address: line.trim_start_matches("ACCEPT ").trim().to_owned(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// `openssl s_client` calls and reads until the end: whether it was content, and what it was told.
fn call(server: &Server, root: &Path, identity: Option<&(PathBuf, PathBuf)>, name: &str) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &server.address, "-tls1_3", "-ign_eof"]);
    command.args(["-verify_return_error", "-verify_hostname", name, "-CAfile"]);
    command.arg(root);
    if let Some((certificate, key)) = identity {
        command.arg("-cert").arg(certificate);
        command.args(["-keyform", "DER", "-key"]).arg(key);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    // Where it is refused it may be gone before it reads.
    let _refused = process.stdin.take().unwrap().write_all(b"GET / HTTP/1.0\r\n\r\n");
    let output = process.wait_with_output().unwrap();
    (output.status.success(), said(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stock_programs_do_mutual_tls_with_identities() {
    if !has_openssl() {
        return;
    }
    let (_site, caller, called) = rotated().await;
    let shelf = Shelf(tempfile::tempdir().unwrap());
    let root = shelf.put("root.pem", &[&called.opened.as_ref().unwrap().root_certificate]);
    let (caller, called) = (shelf.identity(&caller), shelf.identity(&called));

    let server = Server::start(&called, &root);
    let (content, log) = call(&server, &root, Some(&caller), "app-2");
    assert!(content && log.contains("Verify return code: 0 (ok)"), "{log}");
    // Versions differ in spaces.
    let page = log.split("Client certificate").last().unwrap().replace(' ', "");
    assert!(page.contains("Subject:O=shop,CN=app-1"), "who called? {log}");
    let (content, log) = call(&server, &root, Some(&caller), "app-3");
    assert!(!content && log.contains("ostname mismatch"), "{log}");
    let (content, log) = call(&server, &root, None, "app-2");
    assert!(!content && log.contains("certificate required"), "{log}");
}
