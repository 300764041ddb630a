//! The keeper of an enclave: the one task that changes it.
//!
//! Deeds come by a channel, and those that wait are done together: each under a savepoint of one transaction, which holds
//! records, tokens, static keys, changes and audit. Order of a batch: decide in memory, write, commit, tell who follows, answer
//! who asked. A batch that cannot be committed has not happened: the enclave is read anew from the store.

mod deed;
mod enrol;
mod file;
mod follow;
mod member;
mod presence;
mod state;
mod token;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use coterie_crypto::dh::KeyPair;
use coterie_model::{EnclaveId, Name, Revision};
use coterie_store::{Store, TenantId};
use rustls::ServerConfig;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{clock, metrics::Metrics, refusal::Refusal, tls};

pub(crate) use deed::{Act, Deed, Outcome};
pub(crate) use enrol::{Applicant, Entrance, digest};
pub(crate) use follow::{Follow, MOST_CHANGES, Seat, UNREAD, stream};
pub(crate) use presence::{Place, Presence, unanswered};
pub(crate) use state::State;
pub(crate) use token::TokenWanted;

/// Deeds of one transaction.
const BATCH: usize = 32;
/// Deeds that may wait; who comes after that waits for room.
const WAITING: usize = 1024;
/// Batches that a follower may be behind before it is told everything anew.
const TOLD: usize = 256;
/// How often the pulse is told.
const PULSE: u64 = 10;
/// How often members are reminded that their lease is half over.
const REMIND: u64 = 15;

/// What a batch means for who follows.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The enclave's newest change.
    pub(crate) revision: Revision,
    /// For every member.
    pub(crate) everybody: Bytes,
    /// For the members of each community.
    pub(crate) communities: Vec<(Name, Bytes)>,
    /// The same, for doors alone, which mirror communities that are too large for their members.
    pub(crate) mirrors: Vec<(Name, Bytes)>,
    /// The enclave file changed: everybody looks at itself anew.
    pub(crate) file: bool,
    /// Members that changed: who is one of them looks at itself anew.
    pub(crate) members: BTreeSet<Name>,
    /// Whose lease is half over.
    pub(crate) due: BTreeSet<Name>,
    /// Doors are to be told what visitors may knock with.
    pub(crate) knocks: bool,
}

/// A question that the keeper answers between two batches.
type Look = Box<dyn FnOnce(&State) + Send>;

enum Command {
    Do(Deed, oneshot::Sender<Result<Outcome, Refusal>>),
    Look(Look),
    Seat(Follow, oneshot::Sender<Result<Seat, Refusal>>),
    Stop,
}

/// A handle to the keeper of an enclave.
#[derive(Clone)]
pub(crate) struct Keeper {
    /// Whose the enclave is.
    pub(crate) tenant: TenantId,
    /// The enclave.
    pub(crate) enclave: EnclaveId,
    /// Its name.
    pub(crate) name: Name,
    /// Who follows.
    pub(crate) presence: Arc<Presence>,
    /// What applications are sealed to: it never changes.
    pub(crate) server_key: Arc<KeyPair>,
    commands: mpsc::Sender<Command>,
    tls: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Keeper {
    /// Starts the keeper of an enclave that the store has.
    ///
    /// # Errors
    /// When what the store has is damaged.
    pub(crate) async fn start(
        store: Arc<Store>,
        tenant: TenantId,
        enclave: EnclaveId,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let state = State::load(&store, tenant, enclave).await?;
        let (commands, receiver) = mpsc::channel(WAITING);
        let presence = Arc::new(Presence::default());
        let this = Self {
            tenant,
            enclave,
            name: state.enclave.name().clone(),
            presence: Arc::clone(&presence),
            server_key: Arc::clone(&state.server_key),
            commands,
            tls: Arc::new(Mutex::new(tls::for_nodes(&state.enclave, clock::now())?)),
        };
        let (told, _) = broadcast::channel(TOLD);
        let task = Task {
            store,
            state,
            stale: false,
            presence,
            told,
            metrics,
            tls: Arc::clone(&this.tls),
            tls_made: clock::now().0,
            pulsed: 0,
            reminded: 0,
        };
        tokio::spawn(task.run(receiver));
        Ok(this)
    }

    /// Does a deed: when this returns, what it did is on the disk.
    ///
    /// # Errors
    /// [`Refusal`]: then nothing of it happened.
    pub(crate) async fn act(&self, deed: Deed) -> Result<Outcome, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Do(deed, reply)).await?;
        answer.await.unwrap_or(Err(Refusal::Gone))
    }

    /// Looks at the enclave as it is between two batches.
    ///
    /// # Errors
    /// [`Refusal::Gone`] when the enclave is removed or the server stops.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let look: Look = Box::new(move |state| {
            // Who asked may have gone.
            let _gone = reply.send(look(state));
        });
        self.send(Command::Look(look)).await?;
        answer.await.map_err(|_gone| Refusal::Gone)
    }

    /// What a member that begins to follow is told, and where it is told what comes.
    ///
    /// # Errors
    /// [`Refusal::NotAMember`].
    pub(crate) async fn seat(&self, follow: Follow) -> Result<Seat, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Seat(follow, reply)).await?;
        answer.await.unwrap_or(Err(Refusal::Gone))
    }

    /// The configuration of TLS with the enclave's nodes.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.tls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the keeper: who asks after that is told that the enclave is gone.
    pub(crate) async fn stop(&self) {
        let _gone = self.send(Command::Stop).await;
    }

    async fn send(&self, command: Command) -> Result<(), Refusal> {
        self.commands.send(command).await.map_err(|_closed| Refusal::Gone)
    }
}

struct Task {
    store: Arc<Store>,
    state: State,
    /// The state in memory is not what the store has.
    stale: bool,
    presence: Arc<Presence>,
    told: broadcast::Sender<Arc<Told>>,
    metrics: Arc<Metrics>,
    tls: Arc<Mutex<Arc<ServerConfig>>>,
    tls_made: u64,
    /// When the pulse was told last, and when members were reminded.
    pulsed: u64,
    reminded: u64,
}

type Waiting = (Deed, oneshot::Sender<Result<Outcome, Refusal>>);

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut next = None;
        loop {
            let command = match next.take() {
                Some(command) => command,
                None => tokio::select! {
                    command = commands.recv() => match command {
                        Some(command) => command,
                        None => return,
                    },
                    _ = ticks.tick() => {
                        self.tick();
                        continue;
                    }
                },
            };
            match command {
                Command::Do(deed, reply) => {
                    let mut batch = vec![(deed, reply)];
                    while batch.len() < BATCH {
                        match commands.try_recv() {
                            Ok(Command::Do(deed, reply)) => batch.push((deed, reply)),
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_empty) => break,
                        }
                    }
                    self.work(batch).await;
                }
                Command::Look(look) => {
                    if self.stale && self.read_anew().await.is_err() {
                        continue;
                    }
                    look(&self.state);
                }
                Command::Seat(follow, reply) => {
                    let seat = match self.stale {
                        true => self.read_anew().await,
                        false => Ok(()),
                    };
                    let seat = match seat {
                        Ok(()) => self.state.seat(&self.store, &follow, self.told.subscribe()).await,
                        Err(error) => Err(error),
                    };
                    let _gone = reply.send(seat);
                }
                Command::Stop => {
                    self.metrics.forget(self.state.tenant, self.state.enclave.name());
                    return;
                }
            }
        }
    }

    /// Does a batch, and answers.
    async fn work(&mut self, batch: Vec<Waiting>) {
        let began = std::time::Instant::now();
        let (deeds, replies): (Vec<Deed>, Vec<_>) = batch.into_iter().unzip();
        let results = self.results(&deeds).await;
        self.metrics.batch(deeds.len(), began.elapsed());
        for (reply, result) in replies.into_iter().zip(results) {
            let _gone = reply.send(result);
        }
    }

    /// What became of each deed of a batch. One that leaves the enclave half changed is left out, and the others are done anew.
    async fn results(&mut self, deeds: &[Deed]) -> Vec<Result<Outcome, Refusal>> {
        let mut results: Vec<Option<Result<Outcome, Refusal>>> = deeds.iter().map(|_| None).collect();
        loop {
            if self.stale
                && let Err(refusal) = self.read_anew().await
            {
                return fill(results, &refusal);
            }
            let left: Vec<(usize, &Deed)> = deeds
                .iter()
                .enumerate()
                .filter(|(i, _)| results[*i].is_none())
                .collect();
            if left.is_empty() {
                return fill(results, &Refusal::Gone);
            }
            match self.state.batch(&self.store, &left, clock::now()).await {
                Ok((done, told)) => {
                    for ((i, _), result) in left.iter().zip(done) {
                        if let Ok(Outcome::Gone(names, _)) = &result {
                            names.iter().for_each(|name| self.presence.forget(name));
                        }
                        results[*i] = Some(result);
                    }
                    self.metrics.store_works();
                    self.tell(told);
                    return fill(results, &Refusal::Gone);
                }
                Err(state::Undone::Spoilt(place, refusal)) => {
                    self.stale = true;
                    results[left[place].0] = Some(Err(refusal));
                }
                Err(state::Undone::Conflict) => {
                    tracing::warn!(enclave = %self.state.enclave.name(), "somebody else changed the enclave in the store; reading it anew");
                    self.state.doubt();
                    self.stale = true;
                }
                Err(state::Undone::Store(error)) => {
                    tracing::error!(%error, enclave = %self.state.enclave.name(), "nothing was written");
                    self.metrics.store_failed();
                    self.state.doubt();
                    self.stale = true;
                    return fill(results, &Refusal::Store(error.to_string()));
                }
            }
        }
    }

    async fn read_anew(&mut self) -> Result<(), Refusal> {
        if let Err(error) = self.state.read_anew(&self.store).await {
            self.state.doubt();
            return Err(Refusal::Store(format!("{error:#}")));
        }
        self.stale = false;
        Ok(())
    }

    fn tell(&mut self, told: Told) {
        if told.members.is_empty()
            && told.communities.is_empty()
            && told.everybody.is_empty()
            && told.mirrors.is_empty()
            && !told.knocks
        {
            return;
        }
        // Nobody may follow.
        let _nobody = self.told.send(Arc::new(told));
    }

    fn tick(&mut self) {
        let now = clock::now();
        let mut told = Told {
            revision: self.state.revision,
            ..Told::default()
        };
        if self.pulsed + PULSE <= now.0
            && let Some(head) = self.state.enclave.head(now)
        {
            self.pulsed = now.0;
            told.everybody = coterie_control::follow::message::pulse(&head).into();
        }
        if self.reminded + REMIND <= now.0 {
            self.reminded = now.0;
            let due = self.state.enclave.due_for_renewal(now).into_iter();
            told.due = due.filter(|name| self.presence.is_here(name)).collect();
        }
        if self.state.knocks_ended(now) {
            self.state.knocking = None;
            told.knocks = true;
        }
        if !told.everybody.is_empty() || !told.due.is_empty() || told.knocks {
            let _nobody = self.told.send(Arc::new(told));
        }
        self.metrics.enclave(&self.state, self.presence.count());
        if tls::is_due(self.tls_made, now) || self.state.root_changed {
            self.state.root_changed = false;
            match tls::for_nodes(&self.state.enclave, now) {
                Ok(config) => {
                    *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = config;
                    self.tls_made = now.0;
                }
                Err(error) => tracing::error!("no new certificate for nodes: {error:#}"),
            }
        }
    }
}

fn fill(results: Vec<Option<Result<Outcome, Refusal>>>, missing: &Refusal) -> Vec<Result<Outcome, Refusal>> {
    results
        .into_iter()
        .map(|result| result.unwrap_or_else(|| Err(missing.clone())))
        .collect()
}
