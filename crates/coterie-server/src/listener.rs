//! The one port: TLS by the name that is called, then HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use coterie_control::bundle::subject_of;
use coterie_crypto::sign::VerifyingKey;
use coterie_model::Name;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor, server::TlsStream};
use tower::ServiceExt as _;

use crate::{keeper::Keeper, registry::Server};

/// A caller that has not finished the handshake by then is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Data that a peer does not acknowledge for so long ends the connection.
const UNACKNOWLEDGED_MS: u32 = 6_000;
/// Handshakes at one time; more wait.
const HANDSHAKES: usize = 256;
/// Streams of one connection at one time.
const STREAMS: u32 = 32;

/// The node at the other end of a connection.
#[derive(Clone)]
pub(crate) struct Node {
    /// Of the enclave that it called.
    pub(crate) keeper: Keeper,
    /// Where it is.
    pub(crate) address: SocketAddr,
    /// Whom its certificate names, if it showed one: checked against the enclave's root, and with each request against who is
    /// enrolled.
    pub(crate) certified: Option<(Name, VerifyingKey)>,
}

/// The listener.
pub(crate) struct Listener {
    /// What it serves.
    pub(crate) server: Arc<Server>,
    /// TLS with people.
    pub(crate) people_tls: Arc<ServerConfig>,
    /// What people may call.
    pub(crate) people: Router,
    /// What nodes may call.
    pub(crate) nodes: Router,
}

impl Listener {
    /// Serves until the server stops, then until every connection has ended.
    pub(crate) async fn serve(self: Arc<Self>, socket: TcpListener) {
        let mut stopping = self.server.stopping.clone();
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let connections = open_connections();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                _ = stopping.changed() => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Descriptors that are used up come free again when others leave.
                    tracing::warn!(%error, "a connection was not taken");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // A socket for both families shows IPv4 addresses in IPv6's clothes.
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            let (this, handshakes) = (Arc::clone(&self), Arc::clone(&handshakes));
            let token = connections.0.clone();
            tokio::spawn(async move {
                let _open = token;
                let shaking = handshakes.acquire_owned().await;
                this.connection(stream, address, shaking.ok()).await;
            });
        }
        let (open, mut closed) = connections;
        drop(open);
        let _all = tokio::time::timeout(Duration::from_secs(10), closed.recv()).await;
    }

    async fn connection(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        shaking: Option<tokio::sync::OwnedSemaphorePermit>,
    ) {
        let _best_effort = stream.set_nodelay(true);
        let _best_effort = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MS);
        let shaken = tokio::time::timeout(HANDSHAKE, self.shake_hands(stream, address)).await;
        drop(shaking);
        match shaken {
            Ok(Ok((tls, router, node))) => self.http(tls, router, node).await,
            Ok(Err(error)) => tracing::debug!(%error, %address, "no handshake"),
            Err(_late) => tracing::debug!(%address, "the handshake took too long"),
        }
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> std::io::Result<(TlsStream<TcpStream>, Router, Option<Node>)> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let name = start.client_hello().server_name().map(str::to_owned);
        let enclave = name.as_deref().and_then(coterie_api::v1::enclave_of_server_name);
        let Some(enclave) = enclave else {
            let tls = start.into_stream(Arc::clone(&self.people_tls)).await?;
            return Ok((tls, self.people.clone(), None));
        };
        // To who names an enclave that is not here, nobody is.
        let keeper = self.server.keeper_of(enclave).ok_or(std::io::ErrorKind::NotFound)?;
        let tls = start.into_stream(keeper.tls()).await?;
        let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certified = shown.and_then(|leaf| subject_of(leaf));
        let certified = certified
            .filter(|(name, _, _)| *name == keeper.name)
            .map(|(_, member, key)| (member, key));
        let node = Node {
            keeper,
            address,
            certified,
        };
        Ok((tls, self.nodes.clone(), Some(node)))
    }

    async fn http(&self, tls: TlsStream<TcpStream>, router: Router, node: Option<Node>) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(10));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(256 * 1024)
            .max_send_buf_size(64 * 1024)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        // The routes are shared by all connections: each request is told whose it is.
        let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            if let Some(node) = &node {
                request.extensions_mut().insert(node.clone());
            }
            router.clone().oneshot(request)
        });
        let connection = builder.serve_connection(TokioIo::new(tls), service);
        tokio::pin!(connection);
        let mut stopping = self.server.stopping.clone();
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    }
}

/// Waits until the server stops.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // A sender that is gone has stopped too.
    let _stopped = stopping.wait_for(|stopping| *stopping).await;
}

/// What each connection holds as long as it lives, and what ends when all are gone.
fn open_connections() -> (tokio::sync::mpsc::Sender<()>, tokio::sync::mpsc::Receiver<()>) {
    tokio::sync::mpsc::channel(1)
}
