//! The way to the server: who this node is to it, and the requests that it makes.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use coterie_api::{
    remote::{Connection, Frames, Identity as Shown, RemoteError, Tls, Trust},
    v1,
};
use coterie_control::{
    bundle::{Bundle, Keys, MAX_BYTES, Opened, Request, root_hash, server_name},
    follow::MAX_MESSAGE,
};
use coterie_crypto::{Entropy, dh::PublicKey};
use coterie_io::tcp;
use coterie_model::{EnclaveId, MemberId, Prefix, UnixTime};
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Serialize;
use tokio::net::TcpSocket;
use zeroize::Zeroizing;

use super::{follower::Signer, record::Owner};
use crate::network::MARK;

/// How long TCP may take to a server before the next one is tried.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(15);
/// Most bytes of an answer that says little.
const SHORT: usize = 4096;
/// Most bytes of what the server knows of one member.
const MAX_RESOLVED: usize = 1 << 20;

/// Who this node is to the server, and where it finds it.
pub struct Credentials {
    /// The keys of the enrolment, with the one that opened the newest bundle.
    pub keys: Keys,
    /// The boot that the identity ends with, where a token made it.
    pub boot: Option<String>,
    /// This enrolment.
    pub member: MemberId,
    /// Whose word counts.
    pub signer: Signer,
    /// What is pinned of the root.
    pub root: [u8; 32],
    /// The bundle's serial.
    pub serial: u64,
    /// When the bundle was issued and when it ends.
    pub lease: (UnixTime, UnixTime),
    /// Servers, in order.
    pub servers: Vec<SocketAddr>,
    pools: Vec<Prefix>,
    tls: Tls,
}

impl Credentials {
    /// From a bundle that was opened with `keys`.
    ///
    /// # Errors
    /// When the TLS library refuses certificates or key.
    pub fn new(opened: &Opened, keys: Keys, boot: Option<String>) -> anyhow::Result<Self> {
        let key = keys
            .identity_key()
            .to_pkcs8()
            .map(Zeroizing::new)
            .ok()
            .context("the identity key cannot be used in TLS")?;
        let shown = Shown {
            chain: vec![opened.identity_certificate.clone()],
            key,
        };
        let trust = Trust::Authority(vec![opened.root_certificate.clone()]);
        let tls = Tls::new(trust, Some(shown), true).context("the bundle's certificates cannot be used in TLS")?;
        Ok(Self {
            signer: Signer {
                era: opened.authority.era,
                enclave: opened.authority.enclave,
                key: opened.authority.statement_key,
            },
            root: root_hash(&opened.root),
            member: opened.member,
            serial: opened.serial,
            lease: (opened.issued, opened.not_after),
            servers: opened.servers.clone(),
            pools: opened.pools.clone(),
            keys,
            boot,
            tls,
        })
    }

    /// The node's static key.
    #[must_use]
    pub fn static_key(&self) -> PublicKey {
        *self.keys.static_key().public()
    }

    /// Whose stream it is.
    #[must_use]
    pub fn owner(&self) -> Owner {
        Owner {
            static_key: self.static_key(),
            enclave: self.signer.enclave,
        }
    }

    /// What connects to `to`.
    pub(super) fn dialer(&self, to: SocketAddr) -> Dialer {
        // Inside the enclave the server is a member like others: its packets are sealed, and ours as well.
        let inside = self.pools.iter().any(|pool| pool.contains(to.ip()));
        Dialer {
            to,
            mark: (!inside).then_some(MARK),
            name: server_name(self.signer.enclave),
            tls: self.tls.clone(),
        }
    }

    /// A request for a bundle, with the keys that will open it.
    ///
    /// # Errors
    /// When the X.509 library refuses to make a request.
    pub(super) fn request(&self, entropy: &mut dyn Entropy) -> anyhow::Result<(Keys, String)> {
        let keys = self.keys.for_delivery(entropy);
        let request = Request::new(&keys).context("cannot make a request")?;
        Ok((keys, request.to_text()))
    }

    /// Opens the bundle that came, where it is `time` now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn open(&self, bundle: &[u8], keys: &Keys, time: UnixTime) -> anyhow::Result<Opened> {
        let bundle = Bundle::parse(bundle)?;
        Ok(bundle.open(keys, Some(self.root), time, self.serial)?)
    }
}

/// What makes a connection.
pub(crate) struct Dialer {
    /// The server.
    pub(crate) to: SocketAddr,
    /// The mark of the socket, where a lockdown would not let it out without.
    pub(crate) mark: Option<u32>,
    /// What the server is called in TLS.
    pub(crate) name: String,
    /// Whom to trust, and as whom to appear.
    pub(crate) tls: Tls,
}

impl Dialer {
    /// Connects.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub(crate) async fn connect(&self) -> Result<Connection, RemoteError> {
        let away = |source| RemoteError::NotReachable {
            server: self.to.to_string(),
            source,
        };
        let socket = tcp::socket(self.to, self.mark).map_err(away)?;
        let connecting = TcpSocket::from_std_stream(TcpStream::from(socket)).connect(self.to);
        let stream = tokio::time::timeout(CONNECT, connecting)
            .await
            .unwrap_or_else(|_elapsed| Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(away)?;
        let connection = Connection::open(stream, &self.name, &self.tls).await?;
        Ok(connection.answer_within(ANSWER))
    }

    /// Connects and begins to follow.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub(super) async fn follow(&self, follow: &v1::Follow) -> Result<(Connection, Frames), RemoteError> {
        let connection = self.connect().await?;
        let (headers, body) = json(follow);
        let stream = connection
            .stream(Method::POST, "/v1/node/follow", headers, body)
            .await?;
        Ok((connection, stream.frames(MAX_MESSAGE)))
    }
}

fn json(body: &impl Serialize) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = serde_json::to_vec(body).expect("our own types are JSON");
    (headers, body.into())
}

/// Says something that is answered with little.
///
/// # Errors
/// [`RemoteError`].
pub(super) async fn say(connection: &Connection, path: &str, body: &impl Serialize) -> Result<(), RemoteError> {
    let (headers, body) = json(body);
    let answer = connection.request(Method::POST, path, headers, body, SHORT).await?;
    answer.accepted().map(|_little| ())
}

/// Shows a list of revocations that the server may have forgotten.
///
/// # Errors
/// [`RemoteError`].
pub(super) async fn show(connection: &Connection, list: Vec<u8>) -> Result<(), RemoteError> {
    let (path, headers) = ("/v1/node/revocations", HeaderMap::new());
    let answer = connection
        .request(Method::POST, path, headers, list.into(), SHORT)
        .await?;
    answer.accepted().map(|_nothing| ())
}

/// Asks for a bundle.
///
/// # Errors
/// [`RemoteError`].
pub(super) async fn bundle(connection: &Connection, request: String) -> Result<Bytes, RemoteError> {
    let (path, headers) = ("/v1/node/bundle", HeaderMap::new());
    let answer = connection
        .request(Method::POST, path, headers, request.into(), MAX_BYTES)
        .await?;
    Ok(answer.accepted()?.body)
}

/// Asks who somebody is; `None` where there is nobody that this node may know.
///
/// # Errors
/// [`RemoteError`].
pub(super) async fn resolve(connection: &Connection, asked: &v1::Resolve) -> Result<Option<Bytes>, RemoteError> {
    let (headers, body) = json(asked);
    let answer = connection
        .request(Method::POST, "/v1/node/resolve", headers, body, MAX_RESOLVED)
        .await?;
    match answer.accepted() {
        Ok(answer) => Ok(Some(answer.body)),
        Err(error) if error.code() == Some(v1::problem::code::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Carries an application, of a visitor at `source` where this node is a door.
///
/// # Errors
/// [`RemoteError`].
pub(crate) async fn apply(
    connection: &Connection,
    application: Vec<u8>,
    source: Option<SocketAddr>,
) -> Result<Bytes, RemoteError> {
    let mut headers = HeaderMap::new();
    if let Some(source) = source {
        let source = HeaderValue::try_from(SocketAddr::new(source.ip().to_canonical(), source.port()).to_string());
        headers.insert(v1::SOURCE_HEADER, source.expect("an address is printable"));
    }
    let answer = connection
        .request(Method::POST, "/v1/enrol", headers, application.into(), 2 * MAX_BYTES)
        .await?;
    Ok(answer.accepted()?.body)
}

/// The name of an enclave's server and what a token pins of it, for who has nothing else.
///
/// # Errors
/// [`RemoteError`] when the TLS library refuses.
pub(crate) fn stranger(enclave: EnclaveId, pinned: [u8; 32]) -> Result<(String, Tls), RemoteError> {
    let check = move |root: coterie_api::remote::Root<'_>| {
        let key = root.ed25519.map(|key| coterie_crypto::sign::VerifyingKey(*key));
        key.is_some_and(|key| root_hash(&key) == pinned)
    };
    let tls = Tls::new(Trust::Root(std::sync::Arc::new(check)), None, true)?;
    Ok((server_name(enclave), tls))
}
