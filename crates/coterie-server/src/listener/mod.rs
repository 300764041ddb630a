//! The one port: TLS by the name that is called, then HTTP.
//!
//! A stranger costs little and shuts nobody out. What it has to say it says within deadlines that count from when it was
//! taken; computing for it is done in the order in which strangers speak, so that who says nothing takes nobody's turn; and
//! where there is no room, it is the stranger that was here longest who goes ([`connections`]).

mod connections;
mod exchange;

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use coterie_control::bundle::subject_of;
use coterie_crypto::sign::VerifyingKey;
use coterie_model::Name;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor, server::TlsStream};

use crate::{keeper::Keeper, registry::Server};
pub(crate) use connections::Peer;
use connections::{Admission, Connections, Limits, Place};

/// A caller that has not said its first word by then is cut off.
const HELLO: Duration = Duration::from_secs(3);
/// A caller that has not finished the handshake by then is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Data that a peer does not acknowledge for so long ends the connection.
const UNACKNOWLEDGED_MS: u32 = 6_000;
/// How soon to look again whether there is room.
const ROOM: Duration = Duration::from_millis(10);

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
        let limits = Limits::of_process();
        tracing::info!(connections = limits.total, "listening");
        let connections = Arc::new(Connections::new(limits));
        // Answering a hello is computing alone: more at a time than there are cores would take no less time.
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let turns = Arc::new(Semaphore::new(cores));
        let (open, mut closed) = mpsc::channel::<()>(1);
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
            let taken = Instant::now();
            let place = loop {
                match connections.admit(address.ip(), taken, Instant::now()) {
                    Admission::Taken(place) => break Some(place),
                    // Others wait in the kernel's queue meanwhile.
                    Admission::Wait => tokio::time::sleep(ROOM).await,
                    Admission::Full => break None,
                }
            };
            let Some(place) = place else {
                tracing::warn!(%address, "a connection was not taken: all there may be are in use");
                continue;
            };
            let caller = Caller {
                listener: Arc::clone(&self),
                turns: Arc::clone(&turns),
                address,
                taken,
                place,
                open: open.clone(),
            };
            tokio::spawn(caller.shake_hands(stream));
        }
        drop(open);
        let _all = tokio::time::timeout(Duration::from_secs(10), closed.recv()).await;
    }
}

/// Somebody who has just come.
struct Caller {
    listener: Arc<Listener>,
    turns: Arc<Semaphore>,
    address: SocketAddr,
    taken: Instant,
    place: Place,
    /// Held as long as the connection lives: the listener waits until all are dropped.
    open: mpsc::Sender<()>,
}

impl Caller {
    async fn shake_hands(self, stream: TcpStream) {
        let _best_effort = stream.set_nodelay(true);
        let _best_effort = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MS);
        let address = self.address;
        let shaken = tokio::select! {
            shaken = timeout_at(self.taken + HANDSHAKE, self.tls(stream)) => shaken.unwrap_or_else(|late| Err(late.into())),
            () = self.place.evicted() => Err(std::io::ErrorKind::ConnectionAborted.into()),
        };
        let (tls, router, node) = match shaken {
            Ok(shaken) => shaken,
            Err(error) => return tracing::debug!(%error, %address, "no handshake"),
        };
        let (place, stopping, open) = (self.place, self.listener.server.stopping.clone(), self.open);
        // A task of its own: what the handshake took is given back, and a stream that waits is small.
        let serving = exchange::serve(tls, router, node, place, stopping);
        tokio::spawn(async move {
            let _open = open;
            serving.await;
        });
    }

    async fn tls(&self, stream: TcpStream) -> std::io::Result<(TlsStream<TcpStream>, Router, Option<Node>)> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let start = timeout_at(self.taken + HELLO, hello).await??;
        self.place.hello();
        let name = start.client_hello().server_name().map(str::to_owned);
        let enclave = name.as_deref().and_then(coterie_api::v1::enclave_of_server_name);
        // To who names an enclave that is not here, nobody is.
        let keeper = match enclave {
            Some(enclave) => Some(
                self.listener
                    .server
                    .keeper_of(enclave)
                    .ok_or(std::io::ErrorKind::NotFound)?,
            ),
            None => None,
        };
        let config = keeper
            .as_ref()
            .map_or_else(|| Arc::clone(&self.listener.people_tls), Keeper::tls);
        // The turn ends with the computing: who says nothing more keeps nobody waiting.
        let turn = self.turns.acquire().await.map_err(std::io::Error::other)?;
        let answered = start.into_stream(config);
        drop(turn);
        let tls = answered.await?;
        let Some(keeper) = keeper else {
            return Ok((tls, self.listener.people.clone(), None));
        };
        let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certified = shown.and_then(|leaf| subject_of(leaf));
        let certified = certified
            .filter(|(name, _, _)| *name == keeper.name)
            .map(|(_, member, key)| (member, key));
        let node = Node {
            keeper,
            address: self.address,
            certified,
        };
        Ok((tls, self.listener.nodes.clone(), Some(node)))
    }
}

/// Waits until the server stops.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // A sender that is gone has stopped too.
    let _stopped = stopping.wait_for(|stopping| *stopping).await;
}
