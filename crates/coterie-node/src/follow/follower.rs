//! When to connect, to renew and to acknowledge: a machine without I/O, which is told what happened and says what is to be
//! done. What the server says is checked here, so that the loop only takes it over.

use std::net::SocketAddr;
use std::time::Duration;

use coterie_control::follow::{Message, message::ViewPiece};
use coterie_crypto::{Entropy, sign::VerifyingKey};
use coterie_model::{
    CommunityTag, DirectoryEntry, EnclaveId, Era, Head, Instant, Manifest, Revocations, Signed, UnixTime, Unverified,
};
use coterie_proto::{ViewPiece as Piece, bootstrap::Knock};

use crate::entropy::{jittered, up_to};

/// A server that says nothing for so long is gone: it says something every 2 s.
const SILENCE: Duration = Duration::from_secs(6);
/// First wait before the next server is tried; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long an acknowledgement may wait for others that it covers; one of revocations waits for nothing.
const COALESCE: Duration = Duration::from_secs(1);
/// Whoever is told to ask for a bundle spreads the question over so long.
const RENEW_SPREAD: Duration = Duration::from_secs(2);
/// First wait after a bundle that did not come; it doubles.
const FIRST_RENEW_WAIT: Duration = Duration::from_secs(1);
const LONGEST_RENEW_WAIT: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Connect to this server and begin to follow.
    Connect(SocketAddr),
    /// Give the connection up.
    Disconnect,
    /// Ask for a bundle.
    Renew,
    /// Acknowledge everything up to this mark.
    Acknowledge(u64),
}

/// Whose word counts.
#[derive(Debug, Clone, Copy)]
pub struct Signer {
    /// The era.
    pub era: Era,
    /// The enclave.
    pub enclave: EnclaveId,
    /// What it signs with.
    pub key: VerifyingKey,
}

/// A message, checked, for the loop.
#[derive(Debug)]
pub enum Word {
    /// The enclave's pulse; the core checks it.
    Pulse(Unverified<Head>),
    /// Who is refused; the core checks it.
    Revocations(Unverified<Revocations>),
    /// All epochs of a community.
    Epochs(CommunityTag, Vec<Signed<Manifest>>),
    /// A piece of a view.
    View(Piece),
    /// All that visitors may knock with.
    Knocks(Vec<Knock>),
    /// Everything until here was told.
    Mark(u64),
    /// A question.
    Explain {
        /// What the answer names.
        id: u64,
        /// A name or an inside address.
        destination: String,
    },
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is under way until then.
    Away {
        /// When the next server is tried.
        again_at: Instant,
    },
    /// A connection is being made.
    Connecting,
    /// The server tells what happens.
    Following {
        /// When it said something last.
        heard: Instant,
    },
}

/// The machine.
pub struct Follower {
    servers: Vec<SocketAddr>,
    /// Attempts so far: which server is next.
    attempts: usize,
    state: State,
    wait: Duration,
    /// Of this connection, everything until here was told; where the next one goes on.
    mark: u64,
    /// Acknowledged on this connection.
    acknowledged: Option<u64>,
    /// Applied, to be acknowledged then.
    owed: Option<(u64, Instant)>,
    /// Revocations were told since the last mark.
    refused: bool,
    /// What is applied up to here is acknowledged at once.
    urgent: Option<u64>,
    renew_at: Option<Instant>,
    renewing: bool,
    renew_again: bool,
    renew_wait: Duration,
    entropy: Box<dyn Entropy + Send>,
}

impl Follower {
    /// One that knows everything up to `mark` (0: nothing). The first server is tried at once.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>, mark: u64, entropy: Box<dyn Entropy + Send>, now: Instant) -> Self {
        Self {
            servers,
            attempts: 0,
            state: State::Away { again_at: now },
            wait: FIRST_WAIT,
            mark,
            acknowledged: None,
            owed: None,
            refused: false,
            urgent: None,
            renew_at: None,
            renewing: false,
            renew_again: false,
            renew_wait: FIRST_RENEW_WAIT,
            entropy,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The server that is, or was last, tried.
    #[must_use]
    pub fn server(&self) -> Option<SocketAddr> {
        let at = self.attempts.saturating_sub(1).checked_rem(self.servers.len())?;
        self.servers.get(at).copied()
    }

    /// Everything until here was told.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// Nothing is known any more: the server is to tell everything on the next connection.
    pub fn forget(&mut self) {
        self.mark = 0;
    }

    /// The servers changed. Whoever is followed and still among them is followed on.
    pub fn set_servers(&mut self, servers: Vec<SocketAddr>, now: Instant) {
        if servers == self.servers {
            return;
        }
        let current = self.server();
        let stays = current.and_then(|current| servers.iter().position(|server| *server == current));
        self.servers = servers;
        self.attempts = match (self.state, stays) {
            (State::Away { .. }, _) => 0,
            (State::Connecting | State::Following { .. }, Some(at)) => at + 1,
            (State::Connecting | State::Following { .. }, None) => {
                self.state = State::Away { again_at: now };
                0
            }
        };
    }

    /// A bundle is in use that was issued at `issued` and ends at `ends`, where it is `time` now: another one is asked for when
    /// less than half of it is left, whatever the server says.
    pub fn renew_by(&mut self, (issued, ends): (UnixTime, UnixTime), time: UnixTime, now: Instant) {
        let half = issued.plus(ends.since(issued) / 2);
        let spread = up_to(RENEW_SPREAD.min(half.since(time) / 4), &mut *self.entropy);
        let at = now + half.since(time) + spread;
        self.renew_at = Some(self.renew_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// The next thing to do at `now`.
    pub fn step(&mut self, now: Instant) -> Option<Step> {
        match self.state {
            State::Away { again_at } if again_at <= now && !self.servers.is_empty() => {
                self.attempts += 1;
                self.state = State::Connecting;
                return self.server().map(Step::Connect);
            }
            State::Following { heard } if now.since(heard) >= SILENCE => {
                self.fall_back(now);
                return Some(Step::Disconnect);
            }
            State::Following { .. } => {}
            State::Away { .. } | State::Connecting => return None,
        }
        if let Some((mark, at)) = self.owed
            && at <= now
        {
            self.owed = None;
            self.acknowledged = Some(mark);
            return Some(Step::Acknowledge(mark));
        }
        if !self.renewing && self.renew_at.is_some_and(|at| at <= now) {
            (self.renewing, self.renew_again) = (true, false);
            return Some(Step::Renew);
        }
        None
    }

    /// When [`Self::step`] may have something new.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Away { again_at } => (!self.servers.is_empty()).then_some(again_at),
            State::Connecting => None,
            State::Following { heard } => {
                let renew = self.renew_at.filter(|_| !self.renewing);
                let owed = self.owed.map(|(_, at)| at);
                [Some(heard + SILENCE), renew, owed].into_iter().flatten().min()
            }
        }
    }

    /// The server began to answer.
    pub fn connected(&mut self, now: Instant) {
        self.state = State::Following { heard: now };
        self.acknowledged = None;
        self.owed = None;
        self.refused = false;
        self.urgent = None;
    }

    /// No connection came about, or it ended.
    pub fn disconnected(&mut self, now: Instant) {
        self.fall_back(now);
    }

    fn fall_back(&mut self, now: Instant) {
        if let State::Away { .. } = self.state {
            return;
        }
        let wait = jittered(self.wait, &mut *self.entropy);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        self.state = State::Away { again_at: now + wait };
        self.owed = None;
    }

    /// The server said something; `None` where there is nothing in it for the loop.
    ///
    /// # Errors
    /// [`NotTheirs`] when it shows an object that nobody signed who may: then nothing of the message counts.
    pub fn take(&mut self, message: Message, signer: &Signer, now: Instant) -> Result<Option<Word>, NotTheirs> {
        if let State::Following { heard } = &mut self.state {
            *heard = now;
        }
        match &message {
            Message::Revocations(_) => self.refused = true,
            Message::Renew => self.told_to_renew(now),
            Message::Mark(mark) => {
                // Who tells this much means it: the next attempt begins with short waits again.
                self.wait = FIRST_WAIT;
                self.mark = *mark;
                if std::mem::take(&mut self.refused) {
                    self.urgent = Some(*mark);
                }
            }
            Message::Pulse(_)
            | Message::Manifests(..)
            | Message::View(_)
            | Message::Knocks(_)
            | Message::Explain { .. } => {}
        }
        signer.check(message)
    }

    /// The loop has applied everything up to `mark`.
    pub fn applied(&mut self, mark: u64, now: Instant) {
        if self.acknowledged == Some(mark) || !matches!(self.state, State::Following { .. }) {
            return;
        }
        let urgent = self.urgent.take_if(|urgent| *urgent <= mark).is_some();
        let at = match self.owed {
            _ if urgent => now,
            Some((_, at)) => at,
            None => now + COALESCE,
        };
        self.owed = Some((mark, at));
    }

    /// The server wants the node to have another bundle.
    pub fn told_to_renew(&mut self, now: Instant) {
        if self.renewing {
            // What changed may have come too late for the bundle that is under way.
            self.renew_again = true;
            return;
        }
        let at = now + up_to(RENEW_SPREAD, &mut *self.entropy);
        self.renew_at = Some(self.renew_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// A bundle came and is in use; [`Self::renew_by`] says until when. Whether another one is to be asked for at once.
    pub fn renewed(&mut self, now: Instant) -> bool {
        (self.renewing, self.renew_wait) = (false, FIRST_RENEW_WAIT);
        self.renew_at = None;
        let again = std::mem::take(&mut self.renew_again);
        if again {
            self.told_to_renew(now);
        }
        again
    }

    /// No bundle came.
    pub fn not_renewed(&mut self, now: Instant) {
        self.renewing = false;
        let wait = jittered(self.renew_wait, &mut *self.entropy);
        self.renew_wait = (self.renew_wait * 2).min(LONGEST_RENEW_WAIT);
        self.renew_at = Some(now + wait);
    }
}

/// An object in the stream is not of the enclave that is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server shows a {0} that the enclave did not sign")]
pub struct NotTheirs(&'static str);

impl Signer {
    /// A message with its objects checked; `None` where there is nothing in it for the loop.
    ///
    /// # Errors
    /// [`NotTheirs`].
    pub fn check(&self, message: Message) -> Result<Option<Word>, NotTheirs> {
        Ok(Some(match message {
            Message::Pulse(head) => Word::Pulse(head),
            Message::Revocations(list) => Word::Revocations(list),
            Message::Manifests(tag, manifests) => {
                let manifests = manifests.into_iter().map(|m| self.manifest(m));
                Word::Epochs(tag, manifests.collect::<Result<_, _>>()?)
            }
            Message::View(piece) => Word::View(self.piece(piece)?),
            Message::Renew => return Ok(None),
            Message::Knocks(knocks) => {
                let knock = |knocking: coterie_control::follow::Knocking| Knock {
                    key: knocking.key,
                    not_after: knocking.not_after,
                };
                Word::Knocks(knocks.into_iter().map(knock).collect())
            }
            Message::Mark(mark) => Word::Mark(mark),
            Message::Explain { id, destination } => Word::Explain { id, destination },
        }))
    }

    fn manifest(&self, manifest: Unverified<Manifest>) -> Result<Signed<Manifest>, NotTheirs> {
        let manifest = manifest.verify(&self.key).map_err(|_refused| NotTheirs("manifest"))?;
        let is_ours = (manifest.era, manifest.enclave) == (self.era, self.enclave);
        is_ours.then_some(manifest).ok_or(NotTheirs("manifest"))
    }

    fn piece(&self, piece: ViewPiece) -> Result<Piece, NotTheirs> {
        let entries = piece.entries.into_iter().map(|entry| {
            let statements = entry.statements.into_iter().map(|statement| {
                let statement = statement.verify(&self.key).map_err(|_refused| NotTheirs("statement"))?;
                let is_ours = (statement.era, statement.enclave) == (self.era, self.enclave)
                    && statement.tag == piece.tag
                    && statement.name == entry.name;
                is_ours.then_some(statement).ok_or(NotTheirs("statement"))
            });
            Ok(DirectoryEntry {
                statements: statements.collect::<Result<_, _>>()?,
                name: entry.name,
                communities: entry.communities,
                addresses: entry.addresses,
                endpoints: entry.endpoints,
            })
        });
        Ok(Piece {
            tag: piece.tag,
            begins: piece.begins,
            ends: piece.ends,
            entries: entries.collect::<Result<_, _>>()?,
            gone: piece.gone,
        })
    }
}

#[cfg(test)]
mod tests;
