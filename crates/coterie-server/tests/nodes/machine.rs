//! People and machines that call a server, as programs of their own would.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on fails, and looks for one kind of message among many"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coterie_api::{
    remote::{Connection, Frames, Identity, RemoteError, Response, Root, Tls, Trust, dial},
    v1::{self, node_server_name},
};
use coterie_control::{
    bundle::{Bundle, Keys, Opened, Request, root_hash},
    enrol::{Application, Reply, Sealed, Ticket, Token, seal},
    file::Facts,
    follow::Message,
};
use coterie_crypto::{Entropy, sign::VerifyingKey};
use coterie_model::{EnclaveId, Name, UnixTime};
use http::{HeaderMap, Method};
use serde::{Serialize, de::DeserializeOwned};

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn now() -> UnixTime {
    UnixTime(
        std::time::SystemTime::now()
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
}

/// The kernel's generator.
pub(crate) struct Kernel;

impl Entropy for Kernel {
    fn fill(&mut self, out: &mut [u8]) {
        let mut filled = 0;
        while filled < out.len() {
            filled += rustix::rand::getrandom(&mut out[filled..], rustix::rand::GetRandomFlags::empty()).unwrap();
        }
    }
}

/// A person who calls.
pub(crate) struct Person {
    pub(crate) connection: Connection,
    key: String,
}

impl Person {
    /// Calls the server at an address, whose authority (PEM) is trusted; `None` when nobody is there.
    pub(crate) async fn connect(address: SocketAddr, authority: &[u8], key: &str) -> Option<Self> {
        let tls = Tls::new(Trust::from_pem(authority).unwrap(), None, false).unwrap();
        let host = address.ip().to_string();
        let stream = dial(&host, address.port()).await.ok()?;
        Some(Self {
            connection: Connection::open(stream, &host, &tls).await.ok()?,
            key: key.to_owned(),
        })
    }

    pub(crate) fn key(&self) -> String {
        self.key.clone()
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Vec<u8>,
    ) -> Result<Response, RemoteError> {
        let authorization = format!("Bearer {}", self.key);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", authorization.parse().unwrap());
        headers.insert("content-type", content.parse().unwrap());
        self.connection
            .request(method, path, headers, Bytes::from(body), 16 << 20)
            .await
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, RemoteError> {
        self.call(Method::GET, path, "application/json", Vec::new())
            .await?
            .json()
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, RemoteError> {
        let body = serde_json::to_vec(body).unwrap();
        self.call(Method::POST, path, "application/json", body).await?.json()
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Response, RemoteError> {
        self.call(Method::DELETE, path, "application/json", Vec::new())
            .await?
            .accepted()
    }

    pub(crate) async fn apply(&self, enclave: &str, file: &str) -> Result<v1::Applied, RemoteError> {
        let path = format!("/v1/enclaves/{enclave}");
        self.call(Method::PUT, &path, v1::FILE_TYPE, file.as_bytes().to_vec())
            .await?
            .json()
    }

    /// A token for a template of the enclave `shop`.
    pub(crate) async fn token(&self, template: &str, uses: u32) -> Token {
        let new = v1::NewToken {
            template: name(template),
            member: None,
            uses,
            ttl_seconds: 3600,
            ephemeral_seconds: None,
            from: None,
        };
        self.token_of("shop", &new).await
    }

    /// The same; `None` when the server is gone.
    pub(crate) async fn try_token(&self, template: &str, uses: u32) -> Option<Token> {
        let new = v1::NewToken {
            template: name(template),
            member: None,
            uses,
            ttl_seconds: 3600,
            ephemeral_seconds: None,
            from: None,
        };
        let made: v1::TokenMade = self.post("/v1/enclaves/shop/tokens", &new).await.ok()?;
        Some(Token::parse(made.text.expose()).unwrap())
    }

    pub(crate) async fn token_of(&self, enclave: &str, new: &v1::NewToken) -> Token {
        let made: v1::TokenMade = self.post(&format!("/v1/enclaves/{enclave}/tokens"), new).await.unwrap();
        Token::parse(made.text.expose()).unwrap()
    }

    pub(crate) async fn members(&self) -> Vec<v1::Member> {
        let list: v1::List<v1::Member> = self.get("/v1/enclaves/shop/members").await.unwrap();
        list.items
    }
}

/// A machine that has a token, or is a member.
pub(crate) struct Machine {
    pub(crate) keys: Keys,
    pub(crate) enclave: EnclaveId,
    pub(crate) server: SocketAddr,
    pub(crate) root: [u8; 32],
    pub(crate) opened: Option<Opened>,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) facts: Facts,
}

impl Machine {
    pub(crate) fn new(named: &str, token: &Token) -> Self {
        Self {
            keys: Keys::generate(name(named), &mut Kernel),
            enclave: token.enclave,
            server: token.servers[0],
            root: token.root_hash,
            opened: None,
            ticket: None,
            facts: Facts::default(),
        }
    }

    /// Applies with a token; `None`: refused, or nobody is there.
    pub(crate) async fn enrol(&mut self, token: &Token) -> Option<&Opened> {
        let sealed = self.application(token);
        let connection = self.try_visitor().await?;
        let answer = connection
            .request(
                Method::POST,
                "/v1/enrol",
                HeaderMap::new(),
                sealed.bytes.clone().into(),
                4 << 20,
            )
            .await
            .ok()?
            .accepted()
            .unwrap();
        self.take(&sealed, &answer.body)
    }

    /// An application with a token.
    pub(crate) fn application(&self, token: &Token) -> Sealed {
        let application = Application {
            request: Request::new(&self.keys).unwrap(),
            facts: self.facts.clone(),
            ticket: self.ticket.as_ref().map(Ticket::duplicate),
        };
        seal(token, &self.keys.static_key(), &application, &mut Kernel).unwrap()
    }

    /// What the server answered; `None`: refused.
    pub(crate) fn take(&mut self, sealed: &Sealed, answer: &[u8]) -> Option<&Opened> {
        let Reply { bundle, ticket } = sealed.open_reply(answer).unwrap()?;
        self.ticket = ticket;
        let opened = Bundle::parse(&bundle)
            .unwrap()
            .open(&self.keys, Some(self.root), now(), 0)
            .unwrap();
        self.opened = Some(opened);
        self.opened.as_ref()
    }

    /// A connection of somebody who is no member yet.
    pub(crate) async fn visitor(&self) -> Connection {
        self.try_visitor().await.unwrap()
    }

    async fn try_visitor(&self) -> Option<Connection> {
        let pinned = self.root;
        let check = move |root: Root<'_>| root.ed25519.is_some_and(|key| root_hash(&VerifyingKey(*key)) == pinned);
        let tls = Tls::new(Trust::Root(Arc::new(check)), None, true).unwrap();
        self.connect(&tls).await.ok()
    }

    /// A connection as the member that it is.
    pub(crate) async fn member(&self) -> Result<Connection, RemoteError> {
        let opened = self.opened.as_ref().unwrap();
        let identity = Identity {
            chain: vec![opened.identity_certificate.clone()],
            key: self.keys.identity_key().to_pkcs8().unwrap().into(),
        };
        let trust = Trust::Authority(vec![opened.root_certificate.clone()]);
        let tls = Tls::new(trust, Some(identity), true).unwrap();
        self.connect(&tls).await
    }

    async fn connect(&self, tls: &Tls) -> Result<Connection, RemoteError> {
        let stream = dial(&self.server.ip().to_string(), self.server.port()).await?;
        Connection::open(stream, &node_server_name(self.enclave), tls).await
    }
}

/// What a member that follows is told.
pub(crate) struct Stream {
    frames: Frames,
    connection: Connection,
}

impl Machine {
    /// Follows from a mark on.
    pub(crate) async fn follow(&self, mark: u64) -> Result<Stream, RemoteError> {
        let connection = self.member().await?;
        let body = v1::Follow {
            mark,
            revocations: 0,
            serial: self.opened.as_ref().unwrap().serial,
        };
        let stream = connection
            .stream(
                Method::POST,
                "/v1/node/follow",
                json(),
                serde_json::to_vec(&body).unwrap().into(),
            )
            .await?;
        Ok(Stream {
            frames: stream.frames(coterie_control::follow::MAX_MESSAGE),
            connection,
        })
    }

    /// Asks for a new bundle, with a fresh sealing key.
    pub(crate) async fn renew(&mut self) -> Result<(), RemoteError> {
        let keys = self.keys.for_delivery(&mut Kernel);
        let request = Request::new(&keys).unwrap().to_text();
        let connection = self.member().await?;
        let answer = connection
            .request(
                Method::POST,
                "/v1/node/bundle",
                HeaderMap::new(),
                request.into(),
                4 << 20,
            )
            .await?
            .accepted()?;
        let floor = self.opened.as_ref().unwrap().serial;
        let opened = Bundle::parse(&answer.body)
            .unwrap()
            .open(&keys, Some(self.root), now(), floor)
            .unwrap();
        assert!(opened.serial > floor, "serials grow");
        (self.keys, self.opened) = (keys, Some(opened));
        Ok(())
    }
}

pub(crate) fn json() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers
}

impl Stream {
    /// The next message; `None` when the server ended the stream.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.frames.next()).await;
        let bytes = next.expect("a node hears something every 2 s").ok()??;
        Some(Message::parse(&bytes).unwrap())
    }

    /// Everything until the next mark, and the mark.
    pub(crate) async fn until_mark(&mut self) -> (Vec<Message>, u64) {
        let mut messages = Vec::new();
        loop {
            match self.next().await.expect("the stream goes on") {
                Message::Mark(mark) => return (messages, mark),
                message => messages.push(message),
            }
        }
    }

    /// Messages until one that `wanted` likes, within so many seconds; gives what it made of it.
    pub(crate) async fn until<T>(&mut self, seconds: u64, mut wanted: impl FnMut(&Message) -> Option<T>) -> T {
        let ends = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < ends {
            let message = self.next().await.expect("the stream goes on");
            if let Some(found) = wanted(&message) {
                return found;
            }
        }
        panic!("it did not come within {seconds} s");
    }

    pub(crate) async fn ack(&self, mark: u64) {
        let body = serde_json::to_vec(&v1::Ack { mark }).unwrap();
        let answer = self
            .connection
            .request(Method::POST, "/v1/node/ack", json(), body.into(), 1 << 16)
            .await;
        answer.unwrap().accepted().unwrap();
    }
}

/// Names that a whole or changed view gives.
pub(crate) fn named(messages: &[Message]) -> BTreeSet<String> {
    let views = messages.iter().filter_map(|message| match message {
        Message::View(piece) => Some(piece),
        _ => None,
    });
    views
        .flat_map(|view| view.entries.iter().map(|e| e.name.to_string()))
        .collect()
}
