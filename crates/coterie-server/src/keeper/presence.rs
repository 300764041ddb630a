//! Who follows at the moment, and what each has acknowledged. Forgotten when the server stops.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coterie_api::node::{Explanation, Failure};
use coterie_model::{MemberId, Name, Revision};
use tokio::sync::{Notify, mpsc, oneshot};

/// Streams of one member whose words were not all read: each holds all that it is told first.
const STREAMS: usize = 12;
/// How long a node has to say what it has installed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who follows.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    inner: Mutex<Inner>,
    acknowledged: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    here: BTreeMap<Name, Connected>,
    seen: BTreeMap<Name, Instant>,
    /// How many streams of each member are not read to their end.
    places: BTreeMap<Name, usize>,
    next: u64,
    /// Who was asked, and who waits for the answer.
    questions: BTreeMap<u64, (Name, oneshot::Sender<Installed>)>,
}

/// What a node says of what it has installed.
pub(crate) type Installed = Result<Explanation, Failure>;

/// Why a node says nothing.
pub(crate) fn unanswered(message: String) -> Failure {
    Failure {
        code: "unanswered".to_owned(),
        message,
        remedy: "look with `coterie get member` whether it is connected, and ask again".to_owned(),
    }
}

/// One that follows.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    /// This stream of it.
    pub(crate) stream: u64,
    /// Its enrolment.
    pub(crate) member: MemberId,
    /// Since when.
    pub(crate) since: Instant,
    /// The newest change that it has acknowledged.
    pub(crate) acknowledged: Revision,
    /// The program that it said it runs.
    pub(crate) version: Option<String>,
    say: mpsc::Sender<Bytes>,
}

/// A stream that counts, until it is dropped.
pub(crate) struct Place {
    presence: Arc<Presence>,
    name: Name,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.presence.inner();
        if let Some(count) = inner.places.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                inner.places.remove(&self.name);
            }
        }
    }
}

impl Presence {
    /// Room for one more stream of a member, unless it has too many.
    pub(crate) fn place(self: &Arc<Self>, name: &Name) -> Option<Place> {
        let mut inner = self.inner();
        let count = inner.places.entry(name.clone()).or_default();
        if *count >= STREAMS {
            return None;
        }
        *count += 1;
        drop(inner);
        Some(Place {
            presence: Arc::clone(self),
            name: name.clone(),
        })
    }

    /// A member follows by a new stream, which replaces one that it had; gives the stream's number.
    pub(crate) fn enter(&self, name: &Name, member: MemberId, say: mpsc::Sender<Bytes>) -> u64 {
        let mut inner = self.inner();
        inner.next += 1;
        let stream = inner.next;
        let connected = Connected {
            stream,
            member,
            since: Instant::now(),
            acknowledged: 0,
            version: None,
            say,
        };
        inner.here.insert(name.clone(), connected);
        stream
    }

    /// A stream ended.
    pub(crate) fn leave(&self, name: &Name, stream: u64) {
        let mut inner = self.inner();
        if inner.here.get(name).is_some_and(|here| here.stream == stream) {
            inner.here.remove(name);
            inner.seen.insert(name.clone(), Instant::now());
        }
        drop(inner);
        self.acknowledged.notify_waiters();
    }

    /// Whether a member follows.
    pub(crate) fn is_here(&self, name: &Name) -> bool {
        self.inner().here.contains_key(name)
    }

    /// Whether a member follows, or did since this process began.
    pub(crate) fn was_here(&self, name: &Name) -> bool {
        let inner = self.inner();
        inner.here.contains_key(name) || inner.seen.contains_key(name)
    }

    /// One that follows.
    pub(crate) fn connected(&self, name: &Name) -> Option<Connected> {
        self.inner().here.get(name).cloned()
    }

    /// How long ago a member that does not follow did so last, as far as this process knows.
    pub(crate) fn away_for(&self, name: &Name) -> Option<Duration> {
        self.inner().seen.get(name).map(Instant::elapsed)
    }

    /// A member is gone: nothing is remembered of it.
    pub(crate) fn forget(&self, name: &Name) {
        self.inner().seen.remove(name);
    }

    /// How many follow.
    pub(crate) fn count(&self) -> usize {
        self.inner().here.len()
    }

    /// A member has acknowledged everything up to `mark`.
    pub(crate) fn acknowledge(&self, (name, member): (&Name, MemberId), mark: Revision) {
        if let Some(here) = self.inner().here.get_mut(name).filter(|here| here.member == member) {
            here.acknowledged = here.acknowledged.max(mark);
        }
        self.acknowledged.notify_waiters();
    }

    /// A member told which program it runs.
    pub(crate) fn note_version(&self, (name, member): (&Name, MemberId), version: String) {
        if let Some(here) = self.inner().here.get_mut(name).filter(|here| here.member == member) {
            here.version = Some(version);
        }
    }

    /// Waits until everybody who follows has acknowledged `revision`, but not longer than `patience`; gives how many of how many
    /// have, and how long it took.
    pub(crate) async fn all_acknowledged(
        &self,
        revision: Revision,
        without: &[Name],
        patience: Duration,
    ) -> (usize, usize, Duration) {
        let began = Instant::now();
        loop {
            let waiting = self.acknowledged.notified();
            tokio::pin!(waiting);
            waiting.as_mut().enable();
            let (acknowledged, all) = {
                let inner = self.inner();
                let others = || inner.here.iter().filter(|(name, _)| !without.contains(name));
                (
                    others().filter(|(_, here)| here.acknowledged >= revision).count(),
                    others().count(),
                )
            };
            let left = patience.saturating_sub(began.elapsed());
            if acknowledged == all || left.is_zero() {
                return (acknowledged, all, began.elapsed());
            }
            let _late = tokio::time::timeout(left, waiting).await;
        }
    }

    /// Asks a member what it has installed towards a destination.
    ///
    /// # Errors
    /// What the node says against it, or why it says nothing.
    pub(crate) async fn ask(&self, name: &Name, destination: &str) -> Installed {
        let (reply, answer) = oneshot::channel();
        let (id, say) = {
            let mut inner = self.inner();
            let here = inner
                .here
                .get(name)
                .ok_or_else(|| unanswered(format!("`{name}` is not connected")))?;
            let say = here.say.clone();
            inner.next += 1;
            let id = inner.next;
            inner.questions.insert(id, (name.clone(), reply));
            (id, say)
        };
        let question = coterie_control::follow::message::explain(id, destination);
        let asked = say
            .try_send(question.into())
            .map_err(|_full| unanswered(format!("`{name}` does not keep up")));
        let answered = match asked {
            Ok(()) => match tokio::time::timeout(PATIENCE, answer).await {
                Ok(Ok(installed)) => installed,
                Ok(Err(_)) | Err(_) => Err(unanswered(format!("`{name}` did not answer"))),
            },
            Err(error) => Err(error),
        };
        self.inner().questions.remove(&id);
        answered
    }

    /// A member's answer to [`Self::ask`]; of one that was not asked this it counts for nothing.
    pub(crate) fn answer(&self, name: &Name, id: u64, installed: Installed) {
        let mut inner = self.inner();
        if inner.questions.get(&id).is_some_and(|(asked, _)| asked == name)
            && let Some((_, reply)) = inner.questions.remove(&id)
        {
            let _late = reply.send(installed);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
