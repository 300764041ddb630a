//! Start and stop, in order: the database, the keepers, the port; on a stop the port first, then whoever is being answered,
//! then the database.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use axum::{Router, extract::State, http::StatusCode, routing::get};
use coterie_crypto::Secret;
use coterie_store::Store;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{
    clock,
    entropy::SystemEntropy,
    listener::{Listener, stopped},
    metrics::Metrics,
    nodes, people,
    registry::Server,
    tasks, tls,
};

/// The root key among what the service manager passes (`LoadCredential=`).
const CREDENTIAL: &str = "coterie-server.root";
/// The root key's file, where no credential is passed.
const ROOT_KEY: &str = "root.key";
/// The database.
const DATABASE: &str = "server.db";

/// How a server is started.
#[derive(Debug)]
pub(crate) struct Start {
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// Where nodes reach it.
    pub(crate) advertise: Vec<SocketAddr>,
    /// Names and addresses by which people call it.
    pub(crate) names: Vec<String>,
    /// Certificate and key of the operator's own.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    /// Where health and metrics are told, in clear.
    pub(crate) health: Option<SocketAddr>,
}

/// The database of a server's directory.
pub(crate) fn database(directory: &Path) -> PathBuf {
    directory.join(DATABASE)
}

/// The key that everything secret is sealed under, from the service manager or the directory.
///
/// # Errors
/// When there is none, or it is not 32 bytes as 64 hexadecimal digits.
pub(crate) fn root_key(directory: &Path) -> anyhow::Result<Secret<32>> {
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY").map(|dir| PathBuf::from(dir).join(CREDENTIAL));
    let path = credential
        .filter(|path| path.exists())
        .unwrap_or_else(|| directory.join(ROOT_KEY));
    let text = fs::read_to_string(&path).map(Zeroizing::new).with_context(|| {
        format!(
            "cannot read the root key {}; `coterie-server init` makes a new server with one",
            path.display()
        )
    })?;
    read_key(&text).with_context(|| format!("{} is no root key: 64 hexadecimal digits", path.display()))
}

/// A root key as it is written: 64 hexadecimal digits.
pub(crate) fn read_key(text: &str) -> Option<Secret<32>> {
    let digits = text.trim();
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(Secret::new(*bytes))
}

/// Draws a root key, and keeps it in the directory.
///
/// # Errors
/// When there is one already, or it cannot be written.
pub(crate) fn make_root_key(directory: &Path) -> anyhow::Result<()> {
    let key: Secret<32> = Secret::draw(&mut SystemEntropy);
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in key.expose() {
        std::fmt::Write::write_fmt(&mut *text, format_args!("{byte:02x}"))?;
    }
    text.push('\n');
    let path = directory.join(ROOT_KEY);
    if path.exists() {
        bail!(
            "{} cannot be read as a root key; move it away for a new server, or put the right one there",
            path.display()
        );
    }
    tls::put(directory, ROOT_KEY, text.as_bytes(), 0o600)
}

/// Serves until it is told to stop.
///
/// # Errors
/// What went wrong, where, and what to do; the caller prints it.
pub(crate) async fn serve(start: Start) -> anyhow::Result<()> {
    let (stop, stopping) = watch::channel(false);
    let path = database(&start.directory);
    if !path.exists() {
        bail!(
            "there is no server in {}; make one with `coterie-server init`",
            start.directory.display()
        );
    }
    let store = Store::open(&path, root_key(&start.directory)?, clock::now(), &mut SystemEntropy).await?;
    let store = Arc::new(store);
    let metrics = Arc::new(Metrics::new());
    let server = Server::start(Arc::clone(&store), metrics, start.advertise.clone(), stopping).await?;
    let given = start.certificate.as_ref().map(|(certificate, key)| (certificate, key));
    let listener = Listener {
        people_tls: tls::for_people(&start.directory, given, &start.names)?,
        people: people::router(Arc::clone(&server)),
        nodes: nodes::router(Arc::clone(&server)),
        server: Arc::clone(&server),
    };
    let socket = bind(start.listen)?;
    let health = match start.health {
        Some(address) => Some(bind(address)?),
        None => None,
    };
    let serving = tokio::spawn(Arc::new(listener).serve(socket));
    let working = tokio::spawn(tasks::run(Arc::clone(&server)));
    let telling = health.map(|socket| tokio::spawn(tell_health(socket, Arc::clone(&server))));
    tracing::info!(listen = %start.listen, enclaves = server.all().len(), "ready");
    // Without a service manager nobody is told.
    let _nobody = sd_notify::notify(&[NotifyState::Ready]);
    told_to_stop().await?;
    tracing::info!("stopping: nodes go on, and find the server again when it is back");
    let _nobody = sd_notify::notify(&[NotifyState::Stopping]);
    let _nobody = stop.send(true);
    serving.await.context("the listener ended badly")?;
    working.await.context("the tasks ended badly")?;
    if let Some(telling) = telling {
        telling.abort();
    }
    for keeper in server.all() {
        keeper.stop().await;
    }
    drop(server);
    match Arc::try_unwrap(store) {
        Ok(store) => store.close().await?,
        // What is committed is on the disk all the same.
        Err(_shared) => tracing::debug!("the database is closed with the process"),
    }
    tracing::info!("stopped");
    Ok(())
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(4096)
    };
    listen().with_context(|| format!("cannot listen at {address}; is another server running?"))
}

async fn told_to_stop() -> anyhow::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// Health and metrics, for the machines of the operator.
async fn tell_health(socket: TcpListener, server: Arc<Server>) {
    let mut stopping = server.stopping.clone();
    let router = health_router(server);
    let served = axum::serve(socket, router).with_graceful_shutdown(async move { stopped(&mut stopping).await });
    if let Err(error) = served.await {
        tracing::warn!(%error, "health is not told any more");
    }
}

fn health_router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/health/live", get(|| async { "alive\n" }))
        .route("/health/ready", get(ready))
        .route(
            "/metrics",
            get(|State(server): State<Arc<Server>>| async move { server.metrics.text() }),
        )
        .with_state(server)
}

async fn ready(State(server): State<Arc<Server>>) -> (StatusCode, String) {
    if *server.stopping.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    if let Err(error) = server.store.read().await {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the database cannot be read: {error}\n"),
        );
    }
    if server.metrics.is_failing() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the database takes no writes; see the log\n".to_owned(),
        );
    }
    (StatusCode::OK, "ready\n".to_owned())
}
