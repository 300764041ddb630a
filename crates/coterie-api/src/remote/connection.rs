//! One connection and its requests.

use std::future::Future;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{
    RemoteError, Tls,
    error::{of_exchange, of_handshake},
};
use crate::v1::{PROBLEM_TYPE, Problem};

/// How long making a connection may take: TCP, TLS and HTTP/2 each.
pub const OPEN_TIME: Duration = Duration::from_secs(10);
/// How long an answer may take, long polls included.
pub const ANSWER_TIME: Duration = Duration::from_secs(90);
/// While requests are open, a server that does not answer pings for this long is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIME: Duration = Duration::from_secs(5);
/// Most bytes of an error that are read.
const MAX_PROBLEM: usize = 1 << 20;

/// Opens a TCP connection to `host` (a name or an address) and `port`, trying each address of a name.
///
/// # Errors
/// [`RemoteError::NotReachable`].
pub async fn dial(host: &str, port: u16) -> Result<TcpStream, RemoteError> {
    let connected = timeout(OPEN_TIME, TcpStream::connect((host, port))).await;
    let connected = connected.unwrap_or_else(|_elapsed| Err(std::io::ErrorKind::TimedOut.into()));
    connected.map_err(|source| RemoteError::NotReachable {
        server: format!("{host}:{port}"),
        source,
    })
}

/// A connection to the server. Clones share it; it ends when the last of them and the last of its streams is dropped.
#[derive(Debug, Clone)]
pub struct Connection {
    server: String,
    authority: String,
    requests: SendRequest<Full<Bytes>>,
    answer_time: Duration,
}

impl Connection {
    /// Makes a connection over `stream` to the server that is called `server_name`, a DNS name or an address. To be called
    /// within a tokio runtime, on which the connection then lives.
    ///
    /// # Errors
    /// [`RemoteError`] when somebody else answers, or nobody does.
    pub async fn open(stream: TcpStream, server_name: &str, tls: &Tls) -> Result<Self, RemoteError> {
        let server = match stream.peer_addr() {
            Ok(address) => format!("{server_name} at {address}"),
            Err(_) => server_name.to_owned(),
        };
        let name = ServerName::try_from(server_name.to_owned()).map_err(|error| RemoteError::Settings {
            what: format!("the server name {server_name}"),
            reason: error.to_string(),
        })?;
        let authority = if server_name.contains(':') {
            format!("[{server_name}]")
        } else {
            server_name.to_owned()
        };
        // Small requests are not to wait for one another; where it cannot be set, they do.
        let _: std::io::Result<()> = stream.set_nodelay(true);
        let handshake = TlsConnector::from(tls.0.clone()).connect(name, stream);
        let stream = within(OPEN_TIME, &server, "TLS began", handshake)
            .await?
            .map_err(|error| of_handshake(&server, &error))?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(RemoteError::Tls {
                server,
                reason: "it does not speak HTTP/2".to_owned(),
            });
        }
        let handshake = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIME)
            .handshake(TokioIo::new(stream));
        let (requests, connection) = within(OPEN_TIME, &server, "HTTP/2 began", handshake)
            .await?
            .map_err(|error| of_exchange(&server, "HTTP/2 began", &error))?;
        // How it ends is told to each of its requests.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self {
            server,
            authority,
            requests,
            answer_time: ANSWER_TIME,
        })
    }

    /// Another time than [`ANSWER_TIME`] for answers; for a stream it counts until the answer begins.
    #[must_use]
    pub fn answer_within(self, answer_time: Duration) -> Self {
        Self { answer_time, ..self }
    }

    /// The server, for messages: its name and address.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Sends a request to `path` (with its query) and reads the whole answer, whatever its status, as long as it has at most
    /// `limit` bytes.
    ///
    /// # Errors
    /// [`RemoteError`] when no answer came; that the server answered with an error is none ([`Response::accepted`]).
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
        limit: usize,
    ) -> Result<Response, RemoteError> {
        let what = format!("{method} {path}");
        let exchange = async {
            let (parts, body) = self.send(method, path, headers, body).await?.into_parts();
            let limit = if parts.status.is_success() { limit } else { MAX_PROBLEM };
            let mut stream = BodyStream {
                server: self.server.clone(),
                what: what.clone(),
                body,
                _connection: self.requests.clone(),
            };
            Ok(Response {
                server: self.server.clone(),
                what: what.clone(),
                status: parts.status,
                headers: parts.headers,
                body: stream.collect(limit).await?,
            })
        };
        within(self.answer_time, &self.server, &what, exchange).await?
    }

    /// Sends a request to `path` and gives what comes back piece by piece.
    ///
    /// # Errors
    /// [`RemoteError`] when no answer came, and when the server answered with an error.
    pub async fn stream(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<BodyStream, RemoteError> {
        let what = format!("{method} {path}");
        let exchange = async {
            let (parts, body) = self.send(method, path, headers, body).await?.into_parts();
            let mut stream = BodyStream {
                server: self.server.clone(),
                what: what.clone(),
                body,
                _connection: self.requests.clone(),
            };
            if parts.status.is_success() {
                return Ok(stream);
            }
            let response = Response {
                server: self.server.clone(),
                what: what.clone(),
                status: parts.status,
                headers: parts.headers,
                body: stream.collect(MAX_PROBLEM).await?,
            };
            response.accepted().map(|_never| stream)
        };
        within(self.answer_time, &self.server, &what, exchange).await?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<http::Response<Incoming>, RemoteError> {
        let what = format!("{method} {path}");
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .body(Full::new(body));
        let mut request = request.map_err(|error| RemoteError::Settings {
            what: what.clone(),
            reason: error.to_string(),
        })?;
        *request.headers_mut() = headers;
        let mut requests = self.requests.clone();
        requests
            .send_request(request)
            .await
            .map_err(|error| of_exchange(&self.server, &what, &error))
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    server: String,
    what: String,
    /// The status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Response {
    /// The answer, if it is no error.
    ///
    /// # Errors
    /// [`RemoteError::Problem`] with what the server says; [`RemoteError::Unexpected`] when it says it in no way that was
    /// agreed on.
    pub fn accepted(self) -> Result<Self, RemoteError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let kind = self.headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
        let is_problem = kind.is_some_and(|kind| kind.starts_with(PROBLEM_TYPE.as_bytes()));
        match serde_json::from_slice::<Problem>(&self.body) {
            Ok(problem) if is_problem => Err(RemoteError::Problem {
                server: self.server,
                problem: Box::new(problem),
            }),
            Ok(_) | Err(_) => Err(RemoteError::Unexpected {
                server: self.server,
                what: self.what,
                found: format!("status {} and no reason", self.status),
            }),
        }
    }

    /// The JSON of an answer that is no error.
    ///
    /// # Errors
    /// As [`Self::accepted`]; also when it is something else.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, RemoteError> {
        let this = self.accepted()?;
        serde_json::from_slice(&this.body).map_err(|error| RemoteError::Unexpected {
            server: this.server,
            what: this.what,
            found: format!("something else than was agreed on ({error})"),
        })
    }
}

/// An answer that comes piece by piece.
#[derive(Debug)]
pub struct BodyStream {
    server: String,
    what: String,
    body: Incoming,
    /// The connection ends with the last of these.
    _connection: SendRequest<Full<Bytes>>,
}

impl BodyStream {
    /// The next piece, of whatever length; `None` at the end. Can be dropped while it waits, and called again.
    ///
    /// # Errors
    /// [`RemoteError::Broken`] when the connection ends before the answer does.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RemoteError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| of_exchange(&self.server, &self.what, &error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The messages of a stream of them, each of at most `limit` bytes after its length (u32).
    #[must_use]
    pub fn frames(self, limit: usize) -> Frames {
        Frames {
            stream: self,
            limit,
            read: BytesMut::new(),
        }
    }

    async fn collect(&mut self, limit: usize) -> Result<Bytes, RemoteError> {
        let too_long = |this: &Self| RemoteError::TooLong {
            server: this.server.clone(),
            what: this.what.clone(),
            limit,
        };
        let announced = self.body.size_hint().lower();
        if usize::try_from(announced).map_or(true, |announced| announced > limit) {
            return Err(too_long(self));
        }
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if all.len() + piece.len() > limit {
                return Err(too_long(self));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }
}

/// Messages, each after its length (u32, big endian).
#[derive(Debug)]
pub struct Frames {
    stream: BodyStream,
    limit: usize,
    read: BytesMut,
}

impl Frames {
    /// The next message without its length; `None` at the end. Can be dropped while it waits, and called again.
    ///
    /// # Errors
    /// [`RemoteError`] when the connection ends before the answer does, or the answer within a message; when a message is too
    /// long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RemoteError> {
        loop {
            if let Some(length) = self.read.first_chunk::<4>() {
                let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                if length > self.limit {
                    return Err(RemoteError::TooLong {
                        server: self.stream.server.clone(),
                        what: self.stream.what.clone(),
                        limit: self.limit,
                    });
                }
                if self.read.len() - 4 >= length {
                    self.read.advance(4);
                    return Ok(Some(self.read.split_to(length).freeze()));
                }
            }
            match self.stream.next().await? {
                Some(piece) => self.read.extend_from_slice(&piece),
                None if self.read.is_empty() => return Ok(None),
                None => {
                    return Err(RemoteError::Broken {
                        server: self.stream.server.clone(),
                        doing: self.stream.what.clone(),
                        reason: "the answer ends within a message".to_owned(),
                    });
                }
            }
        }
    }
}

async fn within<T>(
    time: Duration,
    server: &str,
    doing: &str,
    future: impl Future<Output = T>,
) -> Result<T, RemoteError> {
    timeout(time, future).await.map_err(|_elapsed| RemoteError::Timeout {
        server: server.to_owned(),
        doing: doing.to_owned(),
        after: time,
    })
}
