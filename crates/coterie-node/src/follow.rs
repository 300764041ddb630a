//! Following the server: a thread of its own that connects, reads what it is told, checks it and hands it to the loop in pieces,
//! and does what the loop asks of the server.
//!
//! | module | what |
//! |---|---|
//! | [`follower`] | when to connect, renew, acknowledge; what is believed |
//! | [`link`] | TLS and the requests |
//! | [`record`] | what was told, for the next start |
//! | `thread` | the three together |

pub mod follower;
pub mod link;
pub mod record;
mod thread;

use std::net::SocketAddr;
use std::sync::{Arc, mpsc::SyncSender};

use anyhow::Context;
use coterie_api::{Reply, v1};
use coterie_control::bundle::{Keys, Opened};
use coterie_model::{Instant, UnixTime};
use coterie_proto::{Update, ViewPiece};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::{
    identity::{Fixed, Kept},
    options::Options,
    requests::Asker,
};
use follower::{Signer, Word};
use link::Credentials;
use record::Owner;

/// Bytes of stack: certificates and keys of the post-quantum exchange are worked on here.
const STACK: usize = 1024 * 1024;

/// What the loop tells the thread.
pub enum Say {
    /// Everything until this mark is applied and stored, and it is this late.
    Applied {
        /// The mark.
        mark: u64,
        /// Protocol time.
        time: UnixTime,
        /// Of the revocations that are known.
        revision: u64,
    },
    /// Who is this?
    Resolve(v1::Resolve),
    /// The answer to a question.
    Explained(v1::NodeExplained),
    /// A visitor's application.
    Carry(Carry),
    /// The node is somebody else, or has another bundle, from now on. With `anew` a new core runs, which has to be told
    /// everything.
    Identity {
        /// Who.
        credentials: Box<Credentials>,
        /// Whether the core is a new one.
        anew: bool,
    },
    /// The bundle that came is in use; the journal says so when this is on disk.
    Taken(std::fs::File),
    /// A list of revocations that the server may have forgotten, as it was signed.
    Shown(Vec<u8>),
    /// The machine goes for good; who is to hear what came of it.
    Bye(SyncSender<Reply>),
    /// Nobody is followed any more, or the machine was forked: nothing of its keys may stay.
    Forget,
}

/// A visitor's application on its way to the server.
#[derive(Debug)]
pub struct Carry {
    /// The visit.
    pub visit: u32,
    /// Where the visitor is.
    pub from: SocketAddr,
    /// What it brought.
    pub application: Vec<u8>,
    /// When it came.
    pub since: Instant,
}

/// What the thread tells the loop.
pub enum Told {
    /// A message. The permit is room for one of the stream, which is given back when the word was taken.
    Word(Word, Option<OwnedSemaphorePermit>),
    /// Who was asked for is known now.
    Found(v1::Resolve),
    /// Who was asked for is nobody, or cannot be asked for.
    Absent(v1::Resolve),
    /// A bundle came, and is kept already.
    Renewed(Box<Renewed>),
    /// The server's answer to a visitor.
    Answered {
        /// The visit.
        visit: u32,
        /// For the visitor.
        reply: Vec<u8>,
    },
    /// The way to the server changed.
    Server(Server),
    /// The server shows what is older than what is known, or what is not its own.
    Alarm(&'static str),
}

/// A bundle that came.
pub struct Renewed {
    /// What is in it.
    pub opened: Opened,
    /// What of it no running core changes.
    pub fixed: Fixed,
    /// The keys that it was opened with.
    pub keys: Keys,
}

/// The way to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The one that is, or was last, tried.
    pub address: Option<SocketAddr>,
    /// `following`, `connecting` or `away`.
    pub state: &'static str,
    /// Since when.
    pub since: Instant,
    /// What went wrong last.
    pub trouble: Option<String>,
    /// It said that this machine is no member any more.
    pub has_ended: bool,
    /// The serial of the newest bundle.
    pub serial: u64,
}

/// What the thread needs.
pub struct Parts {
    /// The command line.
    pub options: Options,
    /// Where identities are kept.
    pub kept: Arc<Kept>,
    /// Who the node is.
    pub credentials: Credentials,
    /// The mark that it had when it stopped, 0 for none.
    pub mark: u64,
    /// The server had asked it to renew.
    pub renew: bool,
    /// Of the revocations that it knows.
    pub revision: u64,
    /// Protocol time, and when it was that late.
    pub time: (UnixTime, Instant),
    /// The way to the loop.
    pub asker: Asker,
}

/// The loop's end.
#[derive(Debug, Clone)]
pub struct Follow {
    say: mpsc::UnboundedSender<Say>,
}

impl Follow {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start(parts: Parts) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .context("cannot make a runtime for the way to the server")?;
        let (say, said) = mpsc::unbounded_channel();
        let thread = thread::Thread::new(parts, said);
        std::thread::Builder::new()
            .name("follow".to_owned())
            .stack_size(STACK)
            .spawn(move || runtime.block_on(thread.run()))
            .context("cannot start the thread that follows the server")?;
        Ok(Self { say })
    }

    /// Says something. A thread that is gone hears nothing; the process is ending then, or was forked.
    pub fn say(&self, say: Say) {
        let _gone = self.say.send(say);
    }
}

/// What a node was told before it stopped, checked anew.
#[derive(Default)]
pub struct Remembered {
    /// Views, for the core's first update.
    pub views: Vec<ViewPiece>,
    /// The newest epochs of each community.
    pub epochs: Vec<Word>,
    /// Where the stream goes on.
    pub mark: u64,
    /// The server had asked for a renewal.
    pub renew: bool,
}

impl Remembered {
    /// Reads what `owner` was told. What the enclave did not sign ends it: then the server is asked for everything.
    #[must_use]
    pub fn read(state: &std::path::Path, owner: &Owner, signer: &Signer) -> Self {
        let recalled = record::recall(state, owner);
        let mut this = Self {
            mark: recalled.mark,
            renew: recalled.renew,
            ..Self::default()
        };
        for message in recalled.messages {
            match signer.check(message) {
                Ok(Some(Word::View(piece))) => this.views.push(piece),
                Ok(Some(Word::Epochs(tag, manifests))) => {
                    this.epochs
                        .retain(|word| !matches!(word, Word::Epochs(other, _) if *other == tag));
                    this.epochs.push(Word::Epochs(tag, manifests));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "what the server told before is not believed; it is asked for anew");
                    return Self::default();
                }
            }
        }
        this
    }

    /// The views in the core's first update.
    pub fn put_into(&mut self, update: &mut Update) {
        update.views.append(&mut self.views);
    }
}
