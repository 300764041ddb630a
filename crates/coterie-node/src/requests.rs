//! What reaches the loop from outside of it: people through the control socket, the service manager through signals.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use coterie_api::{Failure, Reply, Request};
use coterie_io::{local, poll::Waker};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::follow::Told;

/// Connections served at once; more wait for nothing and are closed.
const MAX_CONNECTIONS: usize = 32;
/// Longest request line.
const MAX_LINE: u64 = 4096;
/// A request that the loop has not answered by then never will be.
const LOOP_TIMEOUT: Duration = Duration::from_secs(60);
const STACK: usize = 128 * 1024;

/// Something for the loop to do.
pub enum Asked {
    /// A person's request and where its answer goes.
    Request(Request, SyncSender<Reply>),
    /// Read the bundle again.
    Reload,
    /// Stop.
    Stop,
    /// The server, by the thread that follows it.
    Told(Told),
}

/// The loop's end of the channel.
pub struct Requests {
    receiver: Receiver<Asked>,
    waker: Arc<Waker>,
}

/// The other end.
#[derive(Clone)]
pub struct Asker {
    sender: Sender<Asked>,
    waker: Arc<Waker>,
}

impl Requests {
    /// A channel with its wake-up.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> anyhow::Result<(Self, Asker)> {
        let waker = Arc::new(Waker::new().context("cannot make an eventfd")?);
        let (sender, receiver) = channel();
        Ok((
            Self {
                receiver,
                waker: Arc::clone(&waker),
            },
            Asker { sender, waker },
        ))
    }

    /// What the loop polls.
    #[must_use]
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// The next thing to do, if there is one.
    #[must_use]
    pub fn next(&self) -> Option<Asked> {
        self.receiver.try_recv().ok()
    }
}

impl Asker {
    pub(crate) fn ask(&self, asked: Asked) {
        // A loop that is gone takes no requests; the process is ending then.
        if self.sender.send(asked).is_ok() {
            self.waker.wake();
        }
    }

    /// Asks and waits for the answer.
    #[must_use]
    pub fn call(&self, request: Request) -> Reply {
        let (reply, answer) = sync_channel(1);
        self.ask(Asked::Request(request, reply));
        answer.recv_timeout(LOOP_TIMEOUT).unwrap_or_else(|_gone| {
            Reply::Error(Failure {
                code: "stopping".into(),
                message: "coteried did not answer".into(),
                remedy: "look at its log; it may be stopping".into(),
            })
        })
    }
}

/// Turns SIGHUP into a reload, SIGTERM and SIGINT into a stop.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn watch_signals(asker: Asker) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGTERM, SIGINT]).context("cannot handle signals")?;
    spawn("signals", move || {
        for signal in signals.forever() {
            asker.ask(if signal == SIGHUP { Asked::Reload } else { Asked::Stop });
        }
    })
}

/// Serves the control socket at `path`.
///
/// # Errors
/// When it cannot listen there.
pub fn serve(path: &Path, asker: Asker) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let listener = local::listen(path, 0o660).with_context(|| format!("cannot listen at {}", path.display()))?;
    spawn("control", move || accept(&listener, &asker))
}

fn accept(listener: &UnixListener, asker: &Asker) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (asker, open) = (asker.clone(), Arc::clone(&open));
        let served = spawn("control-client", move || {
            // A client that goes away in the middle is its own affair.
            let _gone = converse(stream, &asker);
            open.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = served {
            tracing::warn!(%error, "a control connection could not be served");
        }
    }
}

fn converse(stream: UnixStream, asker: &Asker) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let read = std::io::Read::take(&mut reader, MAX_LINE).read_line(&mut line)?;
        if read == 0 {
            return Ok(());
        }
        let reply = match serde_json::from_str::<Request>(&line) {
            Ok(request) => asker.call(request),
            Err(error) => Reply::Error(Failure {
                code: "bad-request".into(),
                message: format!("no request: {error}"),
                remedy: "use a coterie of the same version as coteried".into(),
            }),
        };
        let mut text = serde_json::to_string(&reply)?;
        text.push('\n');
        writer.write_all(text.as_bytes())?;
    }
}

/// Starts a thread with a small stack.
///
/// # Errors
/// When the system has no thread left.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(work)
        .map(|_handle| ())
        .with_context(|| format!("cannot start the thread {name:?}"))
}
