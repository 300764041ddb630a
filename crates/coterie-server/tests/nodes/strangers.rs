//! Strangers who come in numbers and say nothing: they keep nobody out, and do not stay.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coterie_api::v1::{CutOff, WhoAmI, node_server_name};
use http::StatusCode;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject as _},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::site::{Machine, Person, Site, name};

/// How many come at a time: more than there ever were turns.
const MANY: usize = 600;

/// TLS with the server as the member that a machine is.
fn of_member(machine: &Machine, protocol: &str) -> Arc<ClientConfig> {
    let opened = machine.opened.as_ref().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(opened.root_certificate.clone().into()).unwrap();
    let key = machine.keys.identity_key().to_pkcs8().unwrap();
    let provider = CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![opened.identity_certificate.clone().into()],
            PrivatePkcs8KeyDer::from(key).into(),
        )
        .unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Arc::new(config)
}

/// TLS with the server of a site, as a stranger who would speak `protocols`.
fn config(site: &Site, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(site.path().join("ca.pem")).unwrap();
    roots.add(authority).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn server_name(address: SocketAddr) -> ServerName<'static> {
    address.ip().into()
}

/// A stranger that has finished the handshake; `None` when the server hung up before.
async fn shaken(address: SocketAddr, config: &Arc<ClientConfig>) -> Option<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::clone(config));
    connector.connect(server_name(address), stream).await.ok()
}

/// Lets this process hold as many connections as it may.
fn raise_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// A person's whole way to an answer.
async fn asks(site: &Site) -> (Person, Duration) {
    let start = Instant::now();
    let person = site.person(&site.operator).await;
    let _me: WhoAmI = person.get("/v1/whoami").await.unwrap();
    (person, start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_takes_nobodys_turn() {
    raise_descriptors();
    let site = Site::start();
    let mut silent = Vec::new();
    for _ in 0..MANY {
        silent.push(TcpStream::connect(site.address).await.unwrap());
    }
    let (_person, took) = asks(&site).await;
    assert!(took < Duration::from_secs(1), "beside {MANY} who say nothing: {took:?}");

    // Who says hello and never ends the handshake takes none either.
    let config = config(&site, &["h2"]);
    for _ in 0..MANY {
        let mut tls = ClientConnection::new(Arc::clone(&config), server_name(site.address)).unwrap();
        let mut hello = Vec::new();
        tls.write_tls(&mut hello).unwrap();
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        silent.push(stream);
    }
    let (_person, took) = asks(&site).await;
    assert!(
        took < Duration::from_secs(1),
        "beside {MANY} more who say hello: {took:?}"
    );

    // They are hung up on: who said nothing soon, who said hello a little later.
    let ends = Instant::now() + Duration::from_secs(12);
    for stream in &mut silent {
        let left = ends.saturating_duration_since(Instant::now());
        tokio::time::timeout(left, until_closed(stream))
            .await
            .expect("it is closed");
    }
}

async fn until_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_nothing_after_the_handshake_is_closed() {
    let site = Site::start();
    let start = Instant::now();
    let mut closing = tokio::task::JoinSet::new();
    for protocols in [&["h2"][..], &["http/1.1"], &[]] {
        let mut stream = shaken(site.address, &config(&site, protocols)).await.unwrap();
        closing.spawn(async move {
            until_closed(&mut stream).await;
            start.elapsed()
        });
    }
    while let Some(closed) = tokio::time::timeout(Duration::from_secs(15), closing.join_next())
        .await
        .expect("they are closed")
    {
        let after = closed.unwrap();
        assert!((9..13).contains(&after.as_secs()), "{after:?}");
    }
}

/// Programs that know HTTP/1.1 alone, and say so or nothing, are served.
#[tokio::test(flavor = "multi_thread")]
async fn who_agrees_on_no_protocol_speaks_the_old_one() {
    let site = Site::start();
    for protocols in [&["http/1.1"][..], &[]] {
        let mut stream = shaken(site.address, &config(&site, protocols)).await.unwrap();
        let request = format!(
            "GET /v1/whoami HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
            site.address, site.operator
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}

/// A server that may have few descriptors.
struct Narrow(Child);

impl Narrow {
    async fn start(site: &Site, descriptors: u32) -> Self {
        let address = site.address.to_string();
        let child = Command::new("sh")
            .args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &descriptors.to_string()])
            .args([env!("CARGO_BIN_EXE_coterie-server"), "serve", "--directory"])
            .arg(site.path())
            .args(["--listen", &address, "--advertise", &address])
            .args(["--name", &site.address.ip().to_string()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let this = Self(child);
        let ends = Instant::now() + Duration::from_secs(20);
        while site.try_person(&site.operator).await.is_none() {
            assert!(Instant::now() < ends, "the server does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        this
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_room_strangers_go_and_members_stay() {
    let site = Site::made();
    // Half of them are for connections.
    let _server = Narrow::start(&site, 128).await;
    let owner = site.shop().await;
    let token = owner.token("web", 1).await;
    let mut machine = Machine::new("web-1", &token);
    machine.enrol(&token).await.unwrap();
    let mut told = machine.follow(0).await.unwrap();
    let _everything = told.until_mark().await;

    let config = config(&site, &["h2"]);
    let mut strangers = Vec::new();
    for _ in 0..200 {
        strangers.extend(shaken(site.address, &config).await);
    }
    assert!(strangers.len() > 100, "they come in: {}", strangers.len());
    let (_person, took) = asks(&site).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    // Who was here before is here still, on the connection that it had.
    assert!(owner.members().await.iter().any(|member| member.name == name("web-1")));
    let _word = told.next().await.expect("the stream goes on");
}

/// A member that takes every connection there may be, with a request on each that has no end, keeps nobody out: of its own
/// connections the oldest goes.
#[tokio::test(flavor = "multi_thread")]
async fn one_member_does_not_take_the_room_of_all() {
    let site = Site::made();
    let _server = Narrow::start(&site, 128).await;
    let owner = site.shop().await;
    let token = owner.token("web", 2).await;
    let (mut honest, mut hostile) = (Machine::new("web-1", &token), Machine::new("web-2", &token));
    honest.enrol(&token).await.unwrap();
    hostile.enrol(&token).await.unwrap();
    let mut told = honest.follow(0).await.unwrap();
    let _everything = told.until_mark().await;

    let config = of_member(&hostile, "http/1.1");
    let server = ServerName::try_from(node_server_name(token.enclave)).unwrap();
    let mut held = Vec::new();
    for _ in 0..100 {
        let stream = TcpStream::connect(site.address).await.unwrap();
        let shaken = TlsConnector::from(Arc::clone(&config)).connect(server.clone(), stream);
        let Ok(mut stream) = shaken.await else { continue };
        let ask = |length: usize| {
            format!(
                "POST /v1/node/ack HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n\
                 {{\"mark\":1}}"
            )
        };
        let mut answer = [0; 12];
        let asked = async {
            stream.write_all(ask(10).as_bytes()).await?;
            stream.read_exact(&mut answer).await?;
            stream.write_all(ask(1_000).as_bytes()).await
        };
        if asked.await.is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 204");
            held.push(stream);
        }
    }
    assert!(held.len() > 40, "it comes in: {}", held.len());
    let (_person, took) = asks(&site).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let _word = told.next().await.expect("the stream goes on");
    let _cut: CutOff = owner
        .post("/v1/enclaves/shop/members/web-2/revoke?wait_ms=0", &())
        .await
        .unwrap();
}

/// A member that begins to follow again and again and reads nothing is told no more at some point.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_are_few() {
    let site = Site::start();
    let owner = site.shop().await;
    let token = owner.token("web", 1).await;
    let mut machine = Machine::new("web-1", &token);
    machine.enrol(&token).await.unwrap();
    let server = node_server_name(token.enclave);
    let uri = format!("https://{server}/v1/node/follow");
    let stream = TcpStream::connect(site.address).await.unwrap();
    let tls = TlsConnector::from(of_member(&machine, "h2"));
    let tls = tls
        .connect(ServerName::try_from(server).unwrap(), stream)
        .await
        .unwrap();
    let (mut asks, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1)
        .handshake(TokioIo::new(tls))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut unread = Vec::new();
    loop {
        let body = http_body_util::Full::new(Bytes::from_static(b"{\"mark\":0,\"revocations\":0,\"serial\":0}"));
        let request = http::Request::post(&uri).body(body).unwrap();
        let answer = asks.send_request(request).await.unwrap();
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        assert_eq!(answer.status(), StatusCode::OK);
        unread.push(answer);
        assert!(unread.len() < 30, "there is no end of it");
    }
    // Who goes may come again.
    drop((unread, asks));
    connection.abort();
    let ends = Instant::now() + Duration::from_secs(5);
    let mut again = loop {
        match machine.follow(0).await {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < ends, "{error}"),
        }
    };
    let _everything = again.until_mark().await;
}
