//! A server for tests: real TLS, HTTP/2 and control core on a host of its own, and a will to behave badly where a test asks.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use bytes::Bytes;
use coterie_api::v1;
use coterie_control::{
    bundle::{Request, subject_of},
    enrol::{REFUSED, Reply, Ticket, Token, open},
    follow::{everything, message},
    issue::Enclave,
};
use coterie_crypto::{Entropy as _, Secret, dh::KeyPair, sign::SigningKey};
use coterie_lab::{Bridge, Host, Lab, LabOptions};
use coterie_model::{MemberId, Name};
use coterie_node::entropy::SystemEntropy;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{Request as HttpRequest, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

use crate::site::{name, now};

/// Where it listens, in the clear network of the lab.
pub(crate) const SERVER: &str = "192.0.2.1:4750";
/// A second one, which says the same.
pub(crate) const SECOND: &str = "192.0.2.1:4751";

/// A lab with a server, and the enclave of which it is.
pub(crate) struct Served {
    pub(crate) lab: Lab,
    pub(crate) bridge: Bridge,
    host: Host,
    keeper: Arc<Mutex<Keeper>>,
    stop: watch::Sender<bool>,
    running: Option<JoinHandle<()>>,
}

/// What the server knows and does.
pub(crate) struct Keeper {
    pub(crate) enclave: Enclave,
    key: KeyPair,
    pub(crate) token: Token,
    template: Name,
    pub(crate) revision: u64,
    streams: Vec<mpsc::UnboundedSender<Bytes>>,
    /// The ticket that was given last.
    pub(crate) ticket: Option<Ticket>,
    /// With each application: the ticket, as it was shown.
    pub(crate) shown: Vec<Option<[u8; 32]>>,
    pub(crate) follows: Vec<v1::Follow>,
    pub(crate) acknowledged: Vec<u64>,
    pub(crate) explained: Vec<v1::NodeExplained>,
    pub(crate) byes: Vec<Name>,
    pub(crate) ready: u32,
    /// Bad manners.
    pub(crate) manners: Manners,
}

/// How the server behaves badly.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manners {
    /// It refuses who applies at this port.
    pub(crate) refuses_at: Option<u16>,
    /// It says nothing any more in its streams, and leaves them open.
    pub(crate) is_mute: bool,
    /// Nobody is told of others but who asks.
    pub(crate) tells_nobody: bool,
    /// It gives this bundle, whatever is asked.
    pub(crate) gives: Option<String>,
}

impl Served {
    /// Raises the server of `text`, whose token makes members of `template`.
    pub(crate) fn new(text: &str, template: &str) -> Self {
        let lab = Lab::new(LabOptions::default()).expect("a lab");
        let bridge = lab.bridge("rack-1").expect("a bridge");
        let address = ["192.0.2.1/24".parse().expect("an address")];
        let host = lab.host("server", &bridge, &address).expect("a host");
        let mut enclave = Enclave::init(text, now(), &mut SystemEntropy).expect("an enclave");
        enclave.serve(now()).expect("served");
        let servers: Vec<SocketAddr> = [SERVER, SECOND].map(|s| s.parse().expect("an address")).into();
        enclave.set_servers(servers.clone());
        let key = KeyPair::generate(&mut SystemEntropy);
        let keeper = Keeper {
            token: token(&enclave, &key, servers),
            enclave,
            key,
            template: name(template),
            revision: 1,
            streams: Vec::new(),
            ticket: None,
            shown: Vec::new(),
            follows: Vec::new(),
            acknowledged: Vec::new(),
            explained: Vec::new(),
            byes: Vec::new(),
            ready: 0,
            manners: Manners::default(),
        };
        let mut this = Self {
            lab,
            bridge,
            host,
            keeper: Arc::new(Mutex::new(keeper)),
            stop: watch::channel(false).0,
            running: None,
        };
        this.up();
        this
    }

    pub(crate) fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().expect("nobody panicked")
    }

    /// Makes another token, which takes the place of the one before.
    pub(crate) fn another_token(&self) -> Token {
        let mut keeper = self.keeper();
        let servers = keeper.token.servers.clone();
        let made = token(&keeper.enclave, &keeper.key, servers);
        let text = made.to_text();
        keeper.token = made;
        Token::parse(&text).expect("a token")
    }

    /// Listens.
    pub(crate) fn up(&mut self) {
        let (listening, is_up) = std::sync::mpsc::channel();
        self.stop = watch::channel(false).0;
        let (keeper, stop) = (Arc::clone(&self.keeper), self.stop.subscribe());
        let host = self.host.clone();
        self.running = Some(std::thread::spawn(move || {
            let served = host.within(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(serve(keeper, stop, listening));
            });
            served.expect("within the host");
        }));
        is_up.recv().expect("it listens");
    }

    /// Is gone, with all its connections.
    pub(crate) fn down(&mut self) {
        self.stop.send_replace(true);
        if let Some(running) = self.running.take() {
            running.join().expect("it ended well");
        }
        self.keeper().streams.clear();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(running) = self.running.take() {
            // A test that failed before may have poisoned what it works on.
            let _ended = running.join();
        }
    }
}

fn token(enclave: &Enclave, key: &KeyPair, servers: Vec<SocketAddr>) -> Token {
    let ends = now().plus(std::time::Duration::from_secs(600));
    let pinned = (enclave.id(), enclave.root_hash());
    Token::draw(pinned, *key.public(), ends, vec![], servers, &mut SystemEntropy)
}

fn tls(enclave: &Enclave) -> Arc<ServerConfig> {
    let key = SigningKey::generate(&mut SystemEntropy);
    let leaf = enclave.server_certificate(&key, now()).expect("a certificate");
    let chain = [leaf].into_iter().chain(enclave.chain());
    let chain: Vec<_> = chain.map(CertificateDer::from).collect();
    let mut roots = rustls::RootCertStore::empty();
    for root in enclave.root_certificates() {
        roots.add(CertificateDer::from(root.to_vec())).expect("a root");
    }
    let provider = Arc::new(CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    });
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .expect("a verifier");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_pkcs8().expect("a key")));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("a chain");
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn serve(keeper: Arc<Mutex<Keeper>>, stop: watch::Receiver<bool>, listening: std::sync::mpsc::Sender<()>) {
    let config = tls(&keeper.lock().expect("nobody panicked").enclave);
    let mut sockets = Vec::new();
    for address in [SERVER, SECOND] {
        sockets.push(TcpListener::bind(address).await.expect("bound"));
    }
    listening.send(()).expect("somebody waits");
    let beats = Arc::clone(&keeper);
    let mut accepting = tokio::task::JoinSet::new();
    for socket in sockets {
        let (keeper, config, stop) = (Arc::clone(&keeper), Arc::clone(&config), stop.clone());
        accepting.spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(connection(
                    stream,
                    Arc::clone(&keeper),
                    Arc::clone(&config),
                    stop.clone(),
                ));
            }
        });
    }
    let mut stop = stop;
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {
                let mut keeper = beats.lock().expect("nobody panicked");
                if !keeper.manners.is_mute {
                    let mark = keeper.revision;
                    keeper.tell(&[message::mark(mark)]);
                }
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    keeper: Arc<Mutex<Keeper>>,
    config: Arc<ServerConfig>,
    mut stop: watch::Receiver<bool>,
) {
    let port = stream.local_addr().expect("an address").port();
    let from = stream.peer_addr().expect("an address");
    let Ok(tls) = tokio_rustls::TlsAcceptor::from(config).accept(stream).await else {
        return;
    };
    let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let member = shown.and_then(|leaf| subject_of(leaf)).map(|(_, member, _)| member);
    let service = service_fn(|request: HttpRequest<Incoming>| {
        let (keeper, member) = (Arc::clone(&keeper), member.clone());
        async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await?.to_bytes();
            let mut keeper = keeper.lock().expect("nobody panicked");
            Ok::<_, hyper::Error>(keeper.answer(&path, &body, member, (from, port)))
        }
    });
    let serving =
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tls), service);
    tokio::select! {
        _ended = serving => {}
        _ = stop.changed() => {}
    }
}

type Answer = Response<BoxBody<Bytes, std::convert::Infallible>>;

fn whole(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed());
    *answer.status_mut() = status;
    answer
}

fn problem(status: u16, code: &str) -> Answer {
    let problem = v1::Problem::new(status, code, "no", "no", "");
    let body = serde_json::to_vec(&problem).expect("JSON");
    let mut answer = whole(StatusCode::from_u16(status).expect("a status"), body);
    let kind = http::HeaderValue::from_static(v1::PROBLEM_TYPE);
    answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    answer
}

/// The body of a stream.
struct Words(mpsc::UnboundedReceiver<Bytes>);

impl hyper::body::Body for Words {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(cx)
            .map(|words| words.map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }
}

impl Keeper {
    /// Tells everybody who follows.
    pub(crate) fn tell(&mut self, messages: &[Vec<u8>]) {
        let bytes = Bytes::from(messages.concat());
        self.streams.retain(|stream| stream.send(bytes.clone()).is_ok());
    }

    /// Tells everybody who follows what is so now, as a change.
    pub(crate) fn tell_all(&mut self, what: &[Vec<u8>]) {
        self.revision += 1;
        let mark = message::mark(self.revision);
        self.tell(&[what, &[mark]].concat());
    }

    fn communities(&self, member: &Name) -> BTreeSet<Name> {
        let seat = self.enclave.seat(member);
        seat.map(|seat| seat.communities.clone()).unwrap_or_default()
    }

    fn answer(&mut self, path: &str, body: &[u8], member: Option<Name>, (from, port): (SocketAddr, u16)) -> Answer {
        if path == "/v1/enrol" {
            return self.enrol(body, from, port);
        }
        let Some(member) = member else {
            return problem(403, v1::problem::code::NOT_A_MEMBER);
        };
        match path {
            "/v1/node/follow" => self.follow(&member, body),
            "/v1/node/bundle" => {
                if let Some(bundle) = &self.manners.gives {
                    return whole(StatusCode::OK, bundle.clone());
                }
                let request = Request::parse(body).expect("a request");
                let bundle = self.enclave.renew(&request, now(), &mut SystemEntropy);
                whole(StatusCode::OK, bundle.expect("a bundle"))
            }
            "/v1/node/ack" => {
                let ack: v1::Ack = serde_json::from_slice(body).expect("JSON");
                self.acknowledged.push(ack.mark);
                whole(StatusCode::NO_CONTENT, "")
            }
            "/v1/node/resolve" => self.resolve(&member, &serde_json::from_slice(body).expect("JSON")),
            "/v1/node/explained" => {
                self.explained.push(serde_json::from_slice(body).expect("JSON"));
                whole(StatusCode::NO_CONTENT, "")
            }
            "/v1/node/ready" => {
                self.ready += 1;
                whole(StatusCode::NO_CONTENT, "")
            }
            "/v1/node/bye" => {
                self.byes.push(member);
                whole(StatusCode::NO_CONTENT, "")
            }
            _ => problem(404, v1::problem::code::NO_ENDPOINT),
        }
    }

    fn enrol(&mut self, body: &[u8], from: SocketAddr, port: u16) -> Answer {
        if self.manners.refuses_at == Some(port) {
            return whole(StatusCode::OK, REFUSED);
        }
        let Ok(opened) = open(body, self.token.secret(), &self.key) else {
            return whole(StatusCode::OK, REFUSED);
        };
        let shown = opened.application.ticket.as_ref().map(|ticket| *ticket.expose());
        self.shown.push(shown);
        let request = &opened.application.request;
        let mut member = MemberId::default();
        SystemEntropy.fill(&mut member.0);
        let at = SocketAddr::new(from.ip(), 4747);
        self.enclave
            .provision(&self.template, vec![at], request, true, member, now())
            .expect("provisioned");
        let bundle = self.enclave.issue(request.name(), now(), &mut SystemEntropy);
        let ticket = Secret::draw(&mut SystemEntropy);
        self.ticket = Some(ticket.duplicate());
        let reply = Reply {
            bundle: bundle.expect("a bundle").into_bytes(),
            ticket: Some(ticket),
        };
        whole(StatusCode::OK, opened.reply(&reply, &mut SystemEntropy))
    }

    fn follow(&mut self, member: &Name, body: &[u8]) -> Answer {
        self.follows.push(serde_json::from_slice(body).expect("JSON"));
        let (say, words) = mpsc::unbounded_channel();
        let communities = self.communities(member);
        let mut all = everything(&self.enclave, &communities, false, now());
        if self.manners.tells_nobody {
            // Kind 4 is a view.
            all.retain(|message| message.get(4) != Some(&4));
        }
        all.push(message::mark(self.revision));
        say.send(all.concat().into()).expect("it listens");
        self.streams.push(say);
        Response::new(Words(words).boxed())
    }

    fn resolve(&self, member: &Name, asked: &v1::Resolve) -> Answer {
        let other = match asked {
            v1::Resolve::Name(name) => Some(name.clone()),
            v1::Resolve::Address(address) => self.enclave.owner(*address).cloned(),
        };
        let Some(other) = other else {
            return problem(404, v1::problem::code::NOT_FOUND);
        };
        let mut words = Vec::new();
        for community in self.communities(member) {
            let entry = self.enclave.entry(&other, &community, now());
            if let (Some(tag), Some(entry)) = (self.enclave.tag(&community), entry) {
                words.extend(message::entry_message(tag, &entry));
            }
        }
        match words.is_empty() {
            true => problem(404, v1::problem::code::NOT_FOUND),
            false => whole(StatusCode::OK, words),
        }
    }
}
