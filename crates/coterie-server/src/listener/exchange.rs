//! HTTP on a connection: the version that TLS agreed on, the requests, and when the connection ends.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::sync::Arc;
use std::time::Duration;

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;

use super::{
    Node,
    connections::{InFlight, Peer, Place},
    stopped,
};

/// Streams of one connection at one time.
const STREAMS: u32 = 32;
/// The same, of a machine that shows no certificate: it has one thing to ask.
const STREAMS_OF_STRANGER: u32 = 4;
/// The head of a request is read for so long (HTTP/1.1).
const HEAD: Duration = Duration::from_secs(10);
/// Most that is kept of what HTTP/1.1 reads ahead.
const READ_AHEAD: usize = 64 * 1024;
/// How long a connection that is closed may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);
/// Where who shows nothing is answered with success all the same.
const FOR_STRANGERS: &str = "/v1/enrol";

/// Serves requests until the peer leaves, has nothing to say for too long, has to make room, or the server stops.
///
/// What is kept is one connection on the heap: an `async fn` would keep it once more for each function that it passes through.
pub(super) fn serve(
    tls: TlsStream<TcpStream>,
    router: Router,
    node: Option<Node>,
    place: Place,
    stopping: watch::Receiver<bool>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let place = Arc::new(place);
    place.begin();
    if let Some(node) = &node
        && let Some((_, key)) = node.certified
    {
        place.belongs_to(Peer::Machine(node.keeper.enclave, key));
    }
    let streams = match &node {
        Some(node) if node.certified.is_none() => STREAMS_OF_STRANGER,
        Some(_) | None => STREAMS,
    };
    let of_requests = Arc::clone(&place);
    // The routes are shared by all connections: each request is told whose it is.
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let in_flight = of_requests.request();
        let may_vouch = match &node {
            None => true,
            Some(node) => node.certified.is_some() && request.uri().path() != FOR_STRANGERS,
        };
        if let Some(node) = &node {
            request.extensions_mut().insert(node.clone());
        }
        let (answered, place) = (router.clone().oneshot(request), Arc::clone(&of_requests));
        async move {
            let response: Response<Body> = answered.await?;
            if let Some(peer) = response.extensions().get() {
                place.belongs_to(*peer);
            }
            // Success is for who showed an accepted key, or the certificate of a member that is enrolled.
            if may_vouch && response.status().is_success() {
                place.vouch();
            }
            Ok::<_, std::convert::Infallible>(response.map(|body| Counted { body, in_flight }))
        }
    });
    let io = TokioIo::new(tls);
    if is_h2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(streams)
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(256 * 1024)
            .max_send_buf_size(64 * 1024)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(io, service);
        let shut_down = http2::Connection::graceful_shutdown;
        Box::pin(until_its_end(Box::pin(connection), shut_down, place, stopping))
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(READ_AHEAD)
            .serve_connection(io, service);
        let shut_down = http1::Connection::graceful_shutdown;
        Box::pin(until_its_end(Box::pin(connection), shut_down, place, stopping))
    }
}

async fn until_its_end<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<Box<C>>,
    shut_down: fn(Pin<&mut C>),
    place: Arc<Place>,
    mut stopping: watch::Receiver<bool>,
) {
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stopping) => {
            shut_down(connection.as_mut());
            connection.await
        }
        () = place.overdue() => {
            tracing::debug!("a connection that nothing was asked on is closed");
            shut_down(connection.as_mut());
            // Who does not even read is not waited for.
            tokio::time::timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
        () = place.evicted() => {
            tracing::debug!("a connection makes room for another");
            Ok(())
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

/// The body of a response: its request is in flight until it is dropped.
struct Counted {
    body: Body,
    #[expect(dead_code, reason = "counts as long as it lives")]
    in_flight: InFlight,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
