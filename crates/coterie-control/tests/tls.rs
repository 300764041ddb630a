//! Certificates of an enclave in the hands of TLS libraries: rustls, and the checks of OpenSSL's command.
#![expect(clippy::unwrap_used, clippy::unwrap_in_result, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the crate starts no program and reads no clock; its tests ask OpenSSL"
)]

use std::{fs, io::Write as _, process::Command, sync::Arc, time::Duration};

use coterie_control::{
    bundle::{Bundle, Keys, Opened, Request, pkcs8, server_name, subject_of, to_pem},
    issue::Enclave,
};
use coterie_crypto::{SeededEntropy, sign::SigningKey};
use coterie_model::{Name, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    client::WebPkiServerVerifier,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime as TlsTime},
    server::WebPkiClientVerifier,
    time_provider::TimeProvider,
};

const NOW: UnixTime = UnixTime(1_795_506_345);

const FILE: &str = r#"
version = 1
[enclave]
name = "shop"
pools = ["10.77.0.0/24", "fd77::/64"]
[community.web]
[template.web]
communities = ["web"]
[member.web-1]
template = "web"
[member.server]
template = "web"
"#;

/// The machine that is called so.
fn keys(member: &str) -> Keys {
    let seed = 100 + u64::try_from(member.len()).unwrap();
    Keys::generate(name(member), &mut SeededEntropy::from_number(seed))
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

struct Site {
    enclave: Enclave,
    entropy: SeededEntropy,
    server: SigningKey,
}

/// Who somebody is in TLS.
#[derive(Clone)]
struct Identity {
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

impl Identity {
    fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().cloned().map(CertificateDer::from).collect()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

impl Site {
    fn new() -> Self {
        let mut entropy = SeededEntropy::from_number(7);
        let mut enclave = Enclave::init(FILE, NOW, &mut entropy).unwrap();
        enclave.serve(NOW).unwrap();
        let server = SigningKey::generate(&mut entropy);
        Self {
            enclave,
            entropy,
            server,
        }
    }

    fn rotate(&mut self, now: UnixTime) -> Vec<u8> {
        self.enclave.rotate_root(now, &mut self.entropy).unwrap();
        self.enclave.root_certificate().to_vec()
    }

    fn member(&mut self, member: &str, now: UnixTime) -> (Opened, Identity) {
        let keys = keys(member);
        let request = Request::new(&keys).unwrap();
        let text = self.enclave.enroll(&request, now, &mut self.entropy).unwrap();
        let bundle = Bundle::parse(text.as_bytes()).unwrap();
        let opened = bundle.open(&keys, Some(self.enclave.root_hash()), now, 0).unwrap();
        let identity = Identity {
            chain: vec![opened.identity_certificate.clone()],
            key: pkcs8(&keys.identity_key()).to_vec(),
        };
        (opened, identity)
    }

    fn server(&self, now: UnixTime) -> Identity {
        let leaf = self.enclave.server_certificate(&self.server, now).unwrap();
        Identity {
            chain: [vec![leaf], self.enclave.chain()].concat(),
            key: pkcs8(&self.server).to_vec(),
        }
    }
}

#[derive(Debug)]
struct Clock(UnixTime);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<TlsTime> {
        Some(TlsTime::since_unix_epoch(Duration::from_secs(self.0.0)))
    }
}

fn roots(all: &[&[u8]]) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    all.iter()
        .for_each(|der| store.add(CertificateDer::from(der.to_vec())).unwrap());
    Arc::new(store)
}

/// Both ends in memory; what the server knows of the client in the end.
fn handshake(
    (server, trusts_clients_of): (&Identity, &[&[u8]]),
    (client, trusts): (Option<&Identity>, &[&[u8]]),
    server_name: &str,
    now: UnixTime,
) -> Result<Option<Vec<u8>>, rustls::Error> {
    let (provider, clock) = (Arc::new(aws_lc_rs::default_provider()), Arc::new(Clock(now)));
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(trusts_clients_of), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .unwrap();
    let config = ServerConfig::builder_with_details(Arc::clone(&provider), clock.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(server.certificates(), server.key())?;
    let mut here = ServerConnection::new(Arc::new(config))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(trusts), Arc::clone(&provider))
        .build()
        .unwrap();
    let config = ClientConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(verifier);
    let config = match client {
        Some(client) => config.with_client_auth_cert(client.certificates(), client.key())?,
        None => config.with_no_client_auth(),
    };
    let mut there = ClientConnection::new(Arc::new(config), server_name.to_owned().try_into().unwrap())?;
    while here.is_handshaking() || there.is_handshaking() {
        let mut wire = Vec::new();
        there.write_tls(&mut wire).unwrap();
        here.read_tls(&mut &wire[..]).unwrap();
        here.process_new_packets()?;
        let mut wire = Vec::new();
        while here.wants_write() {
            here.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            there.read_tls(&mut rest).unwrap();
            there.process_new_packets()?;
        }
    }
    Ok(here.peer_certificates().map(|chain| chain[0].to_vec()))
}

/// What `openssl verify` says of a leaf that is used for `purpose`; `None` where there is no OpenSSL.
fn openssl(root: &[u8], chain: &[&[u8]], leaf: &[u8], purpose: &str) -> Option<(bool, String)> {
    let directory = std::env::temp_dir().join(format!("coterie-tls-{}-{:p}", std::process::id(), &raw const leaf));
    fs::create_dir_all(&directory).unwrap();
    let file = |file: &str, all: &[&[u8]]| {
        let path = directory.join(file);
        let mut out = fs::File::create(&path).unwrap();
        all.iter()
            .for_each(|der| out.write_all(to_pem(der).as_bytes()).unwrap());
        path
    };
    let (root, leaf) = (file("root", &[root]), file("leaf", &[leaf]));
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-no-CApath", "-no-CAstore"]);
    command.args(["-attime", &NOW.0.to_string(), "-purpose", purpose]);
    command.arg("-CAfile").arg(root);
    if !chain.is_empty() {
        command.arg("-untrusted").arg(file("chain", chain));
    }
    let output = command.arg(leaf).output();
    fs::remove_dir_all(&directory).unwrap();
    match output {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
        }
        Err(error) => {
            let required = std::env::var_os("COTERIE_LAB_REQUIRED").is_some();
            assert!(!required, "cannot start openssl: {error}");
            println!("skipped: cannot start openssl: {error}");
            None
        }
    }
}

#[test]
fn members_and_server_know_each_other_by_the_enclaves_root() {
    let mut site = Site::new();
    let (opened, web) = site.member("web-1", NOW);
    let (server, root) = (site.server(NOW), &opened.root_certificate[..]);
    let host = server_name(site.enclave.id());
    let who = handshake((&server, &[root]), (Some(&web), &[root]), &host, NOW).unwrap();
    let (enclave, member, key) = subject_of(&who.unwrap()).unwrap();
    assert_eq!((enclave.as_str(), member.as_str()), ("shop", "web-1"));
    assert_eq!(key, keys("web-1").identity_key().verifying_key());
    // Who has no certificate yet comes without.
    assert_eq!(handshake((&server, &[root]), (None, &[root]), &host, NOW), Ok(None));

    // A member is no server, whatever it is called; nor is the server of another enclave, or the server a member.
    let (_, impostor) = site.member("server", NOW);
    for no_server in [&web, &impostor] {
        assert!(handshake((no_server, &[root]), (None, &[root]), &host, NOW).is_err());
    }
    assert_eq!(subject_of(&impostor.chain[0]).unwrap().1, name("server"));
    let other = Enclave::init(FILE, NOW, &mut SeededEntropy::from_number(9)).unwrap();
    let others: &[&[u8]] = &[other.root_certificate()];
    assert!(handshake((&server, others), (Some(&web), &[root]), &host, NOW).is_err());
    assert!(handshake((&server, &[root]), (Some(&web), others), &host, NOW).is_err());
    assert!(handshake((&server, &[root]), (Some(&web), &[root]), &server_name(other.id()), NOW).is_err());
    assert!(handshake((&server, &[root]), (Some(&server), &[root]), &host, NOW).is_err());
    let bundle = Identity {
        chain: vec![opened.bundle_certificate.clone()],
        ..web.clone()
    };
    assert!(handshake((&server, &[root]), (Some(&bundle), &[root]), &host, NOW).is_err());
    for no_member in [
        &server.chain[0],
        &server.chain[1],
        &opened.bundle_certificate,
        &b"other".to_vec(),
    ] {
        assert_eq!(subject_of(no_member), None);
    }

    // Both end: the member's with its lease, the server's after thirty days.
    let late = |days: u64| NOW.plus(Duration::from_secs(days * 86_400));
    assert!(handshake((&server, &[root]), (None, &[root]), &host, late(29)).is_ok());
    assert!(handshake((&server, &[root]), (None, &[root]), &host, late(31)).is_err());
    assert!(handshake((&server, &[root]), (Some(&web), &[root]), &host, late(1)).is_err());

    for (leaf, purpose, good) in [
        (&web.chain[0], "sslclient", true),
        (&web.chain[0], "sslserver", true),
        (&server.chain[0], "sslserver", true),
        (&server.chain[0], "sslclient", false),
        (&opened.bundle_certificate, "sslclient", false),
    ] {
        if let Some((accepted, said)) = openssl(root, &[], leaf, purpose) {
            assert_eq!(accepted, good, "{purpose}: {said}");
        }
    }
}

#[test]
fn whoever_knows_one_of_the_last_roots_knows_the_server_by_it() {
    let mut site = Site::new();
    let (before, web) = site.member("web-1", NOW);
    let host = server_name(site.enclave.id());
    let mut roots = vec![site.enclave.root_certificate().to_vec()];
    assert_eq!(site.enclave.chain(), roots);
    let mut now = NOW;
    for rotation in 1..=4 {
        roots.push(site.rotate(now));
        let server = site.server(now);
        assert_eq!(server.chain.len(), 1 + rotation + rotation + 1);
        let clients_of = site.enclave.root_certificates();
        assert_eq!(clients_of.len(), rotation + 1, "leaves of all of them are in use");
        assert_eq!(clients_of[0], roots[rotation]);
        for (known, root) in roots.iter().enumerate() {
            // A member that has not renewed shows a certificate of the first root.
            let who = handshake((&server, &clients_of), (Some(&web), &[root]), &host, now);
            assert_eq!(who, Ok(Some(web.chain[0].clone())), "root {known} of {rotation}");
            let chain: Vec<&[u8]> = server.chain[1..].iter().map(Vec::as_slice).collect();
            let verify = |chain: &[&[u8]]| openssl(root, chain, &server.chain[0], "sslserver");
            if let Some((accepted, said)) = verify(&chain) {
                assert!(accepted, "root {known} of {rotation}: {said}");
            }
            if let Some((accepted, said)) = verify(&chain[rotation..]) {
                assert_eq!(
                    accepted,
                    known == rotation,
                    "without what one root says of the next: {said}"
                );
            }
            // Who pins a hash finds the certificate in what is sent.
            assert!(server.chain.contains(root));
        }
        now = now.plus(Duration::from_secs(60));
    }
    // The first root's leaves end; then it lets nobody in any more.
    let later = NOW.plus(Duration::from_secs(3600));
    let (after, renewed) = site.member("web-1", later);
    assert_eq!(site.enclave.root_certificates().len(), 4);
    assert_eq!(after.root_certificate, roots[4]);
    assert_ne!(renewed.chain, web.chain);
    assert_eq!(before.authority.statement_key, after.authority.statement_key);
    let (server, clients_of) = (site.server(later), site.enclave.root_certificates());
    assert!(handshake((&server, &clients_of), (Some(&renewed), &[&roots[0]]), &host, later).is_ok());
}
