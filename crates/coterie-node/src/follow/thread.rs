//! The thread: the follower's steps taken, the stream read, requests made.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc::SyncSender};
use std::time::Duration;

use bytes::Bytes;
use coterie_api::{
    Answer, Failure, Reply,
    remote::{Connection, Frames, RemoteError},
    v1,
};
use coterie_control::{
    bundle::{BundleError, Keys},
    follow::{MAX_MESSAGE, Message, message},
};
use coterie_model::{Instant, UnixTime};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc::UnboundedReceiver},
    task::JoinSet,
};
use zeroize::Zeroizing;

use super::{
    Carry, Parts, Renewed, Say, Server, Told,
    follower::{Follower, State, Step},
    link::{self, Credentials},
    record::Record,
};
use crate::{
    driver::now,
    entropy::SystemEntropy,
    identity::{Fixed, Identity, KnownTime, Origin, boot},
    requests::{Asked, Asker},
};

/// Words that the loop has not taken yet: it takes them between packets, and more wait in the connection.
const UNTAKEN: usize = 8;
/// Applications of visitors that wait for the server.
const MAX_CARRIED: usize = 128;
/// A visitor has gone after so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Questions about members under way.
const MAX_ASKED: usize = 32;
/// How long a machine that goes for good waits for a server that is away.
const FAREWELL: Duration = Duration::from_secs(5);

pub(super) struct Thread {
    options: crate::options::Options,
    kept: Arc<crate::identity::Kept>,
    credentials: Credentials,
    follower: Follower,
    record: Option<Record>,
    /// Protocol time as the loop knew it, and when that was.
    time: (UnixTime, Instant),
    /// Of the revocations that the core knows.
    revision: u64,
    said: UnboundedReceiver<Say>,
    asker: Asker,
    room: Arc<Semaphore>,
    link: Option<(Connection, Frames)>,
    /// Which connection this is: what another one was to bring is of no use.
    number: u64,
    tasks: JoinSet<Done>,
    asked: usize,
    carried: VecDeque<Carry>,
    /// The server does not know yet that this node is up.
    is_new: bool,
    farewell: Option<(SyncSender<Reply>, Instant)>,
    trouble: Option<String>,
    has_ended: bool,
    told: Option<Server>,
}

/// What came of something that took time.
enum Done {
    Connected(u64, Result<(Connection, Frames), RemoteError>),
    Renewed(Keys, Result<Bytes, RemoteError>),
    Resolved(v1::Resolve, Result<Option<Bytes>, RemoteError>),
    Carried(Carry, Result<Bytes, RemoteError>),
    Ready(Result<(), RemoteError>),
    Bye(Result<(), RemoteError>),
    Said(&'static str, Result<(), RemoteError>),
}

type Frame = (OwnedSemaphorePermit, Result<Option<Bytes>, RemoteError>);

/// The next message, when there is room for it.
async fn next(link: &mut Option<(Connection, Frames)>, room: &Arc<Semaphore>) -> Frame {
    let Some((_, frames)) = link else {
        return std::future::pending().await;
    };
    let permit = Arc::clone(room).acquire_owned().await;
    let permit = permit.expect("the semaphore is never closed");
    (permit, frames.next().await)
}

impl Thread {
    pub(super) fn new(parts: Parts, said: UnboundedReceiver<Say>) -> Self {
        let (time, at) = parts.time;
        let credentials = parts.credentials;
        let servers = credentials.servers.clone();
        let mut follower = Follower::new(servers, parts.mark, Box::new(SystemEntropy), at);
        follower.renew_by(credentials.lease, time, at);
        if parts.renew {
            follower.told_to_renew(at);
        }
        Self {
            options: parts.options,
            kept: parts.kept,
            credentials,
            follower,
            record: None,
            time: (time, at),
            revision: parts.revision,
            said,
            asker: parts.asker,
            room: Arc::new(Semaphore::new(UNTAKEN)),
            link: None,
            number: 0,
            tasks: JoinSet::new(),
            asked: 0,
            carried: VecDeque::new(),
            is_new: true,
            farewell: None,
            trouble: None,
            has_ended: false,
            told: None,
        }
    }

    /// Runs until the loop is gone or the machine was forked.
    pub(super) async fn run(mut self) {
        if self.follower.mark() != 0 {
            self.open_record(false);
        }
        loop {
            while let Some(step) = self.follower.step(now()) {
                self.take_step(step);
            }
            self.tell_state();
            let farewell = self.farewell.as_ref().map(|(_, until)| *until);
            let due = [self.follower.due(), farewell].into_iter().flatten().min();
            let due = due.map(|at| at.since(now()));
            let wait = async {
                match due {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                said = self.said.recv() => match said {
                    Some(Say::Forget) | None => return,
                    Some(say) => self.hear(say),
                },
                (permit, frame) = next(&mut self.link, &self.room) => self.take_frame(permit, frame),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    // One that panicked, which none does, would leave what it was to do undone.
                    if let Ok(done) = done {
                        self.finish(done);
                    }
                }
                () = wait => self.end_farewell(),
            }
        }
    }

    fn tell(&self, told: Told) {
        self.asker.ask(Asked::Told(told));
    }

    fn protocol_time(&self) -> UnixTime {
        self.time.0.plus(now().since(self.time.1))
    }

    fn tell_state(&mut self) {
        let state = match self.follower.state() {
            State::Away { .. } => "away",
            State::Connecting => "connecting",
            State::Following { .. } => "following",
        };
        // Away is away, whether somebody is being tried or not.
        let follows = |state: &str| state == "following";
        let since = match &self.told {
            Some(told) if follows(told.state) == follows(state) => told.since,
            Some(_) | None => now(),
        };
        let server = Server {
            address: self.follower.server(),
            state,
            since,
            trouble: self.trouble.clone(),
            has_ended: self.has_ended,
            serial: self.credentials.serial,
        };
        if self.told.as_ref() != Some(&server) {
            self.told = Some(server.clone());
            self.tell(Told::Server(server));
        }
    }

    fn in_trouble(&mut self, error: &impl std::fmt::Display) {
        let text = error.to_string();
        if self.trouble.as_ref() != Some(&text) {
            tracing::warn!("the server: {text}");
            self.trouble = Some(text);
        }
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::Connect(to) => {
                self.number += 1;
                let (number, dialer) = (self.number, self.credentials.dialer(to));
                let follow = v1::Follow {
                    mark: self.follower.mark(),
                    revocations: self.revision,
                    serial: self.credentials.serial,
                };
                self.tasks
                    .spawn(async move { Done::Connected(number, dialer.follow(&follow).await) });
            }
            Step::Disconnect => {
                self.in_trouble(&"it has said nothing for 6 s; another connection is made");
                self.link = None;
            }
            Step::Renew => self.renew(),
            Step::Acknowledge(mark) => self.say("/v1/node/ack", v1::Ack { mark }),
        }
    }

    /// Says something of which nothing follows.
    fn say(&mut self, path: &'static str, body: impl serde::Serialize + Send + Sync + 'static) {
        let Some((connection, _)) = &self.link else { return };
        let connection = connection.clone();
        self.tasks
            .spawn(async move { Done::Said(path, link::say(&connection, path, &body).await) });
    }

    fn show(&mut self, list: Vec<u8>) {
        let Some((connection, _)) = &self.link else { return };
        let connection = connection.clone();
        self.tasks
            .spawn(async move { Done::Said("/v1/node/revocations", link::show(&connection, list).await) });
    }

    fn renew(&mut self) {
        let Some((connection, _)) = &self.link else {
            self.follower.not_renewed(now());
            return;
        };
        let connection = connection.clone();
        match self.credentials.request(&mut SystemEntropy) {
            Ok((keys, request)) => {
                self.tasks
                    .spawn(async move { Done::Renewed(keys, link::bundle(&connection, request).await) });
            }
            Err(error) => {
                self.in_trouble(&format_args!("{error:#}"));
                self.follower.not_renewed(now());
            }
        }
    }

    fn hear(&mut self, say: Say) {
        match say {
            Say::Applied { mark, time, revision } => {
                let at = now();
                self.time = (time, at);
                self.revision = revision;
                self.follower.applied(mark, at);
                self.keep(&message::mark(mark)[4..], &Message::Mark(mark));
            }
            Say::Resolve(asked) => self.resolve(asked),
            Say::Explained(explained) => self.say("/v1/node/explained", explained),
            Say::Shown(list) => self.show(list),
            Say::Carry(carry) => {
                if self.carried.len() < MAX_CARRIED {
                    self.carried.push_back(carry);
                    self.carry();
                }
            }
            Say::Identity { credentials, anew } => self.become_another(*credentials, anew),
            Say::Taken(journal) => {
                // That an older bundle is refused from now on is to survive a loss of power.
                if let Err(error) = journal.sync_data() {
                    tracing::warn!(%error, "the journal could not be forced to disk");
                }
            }
            Say::Bye(reply) => {
                self.farewell = Some((reply, now() + FAREWELL));
                self.take_leave();
            }
            // The run ends with it.
            Say::Forget => {}
        }
    }

    fn become_another(&mut self, credentials: Credentials, anew: bool) {
        let at = now();
        let other = credentials.owner() != self.credentials.owner() || credentials.member != self.credentials.member;
        if anew || other {
            // What was told was told to another core.
            self.follower.forget();
            self.record = None;
            self.link = None;
            self.follower.disconnected(at);
        }
        self.follower.set_servers(credentials.servers.clone(), at);
        if !matches!(self.follower.state(), State::Following { .. }) {
            self.link = None;
        }
        self.follower.renew_by(credentials.lease, self.protocol_time(), at);
        self.credentials = credentials;
    }

    fn resolve(&mut self, asked: v1::Resolve) {
        match &self.link {
            Some((connection, _)) if self.asked < MAX_ASKED => {
                self.asked += 1;
                let connection = connection.clone();
                self.tasks.spawn(async move {
                    let answer = link::resolve(&connection, &asked).await;
                    Done::Resolved(asked, answer)
                });
            }
            Some(_) | None => self.tell(Told::Absent(asked)),
        }
    }

    /// Visitors' applications that wait go to the server, if it is there.
    fn carry(&mut self) {
        let at = now();
        self.carried.retain(|carry| at.since(carry.since) < PATIENCE);
        let Some((connection, _)) = &self.link else { return };
        for carry in self.carried.drain(..) {
            let connection = connection.clone();
            self.tasks.spawn(async move {
                let answer = link::apply(&connection, carry.application.clone(), Some(carry.from)).await;
                Done::Carried(carry, answer)
            });
        }
    }

    fn take_leave(&mut self) {
        let Some((connection, _)) = &self.link else { return };
        let connection = connection.clone();
        self.tasks
            .spawn(async move { Done::Bye(link::say(&connection, "/v1/node/bye", &()).await) });
    }

    fn end_farewell(&mut self) {
        if self.farewell.as_ref().is_some_and(|(_, until)| *until <= now()) {
            self.answer_farewell(Err("no server answers".to_owned()));
        }
    }

    fn answer_farewell(&mut self, came: Result<(), String>) {
        let Some((reply, _)) = self.farewell.take() else { return };
        let answer = match came {
            Ok(()) => Reply::Ok(Answer::Done),
            Err(error) => Reply::Error(Failure {
                code: "server".into(),
                message: format!("the server could not be told that this machine goes: {error}"),
                remedy: "its membership ends with its lease, or by `coterie vm end` where the server is".into(),
            }),
        };
        // Who asked may have gone.
        let _gone = reply.try_send(answer);
    }

    fn finish(&mut self, done: Done) {
        match done {
            // Another connection is being made, or none.
            Done::Connected(number, _) if number != self.number || self.follower.state() != State::Connecting => {}
            Done::Connected(_, Ok(link)) => self.connected(link),
            Done::Connected(_, Err(error)) => {
                self.has_ended = error.code() == Some(v1::problem::code::NOT_A_MEMBER);
                self.in_trouble(&error);
                self.follower.disconnected(now());
            }
            Done::Renewed(keys, answer) => self.take_bundle(keys, answer),
            Done::Resolved(asked, answer) => {
                self.asked -= 1;
                self.take_resolved(asked, answer);
            }
            Done::Carried(carry, Ok(reply)) => self.tell(Told::Answered {
                visit: carry.visit,
                reply: reply.to_vec(),
            }),
            Done::Carried(carry, Err(error)) => {
                tracing::info!(%error, "a visitor's application did not reach the server; it is sent again");
                self.carried.push_back(carry);
            }
            Done::Ready(came) => self.is_new = came.is_err(),
            Done::Bye(came) => self.answer_farewell(came.map_err(|error| error.to_string())),
            Done::Said(path, Err(error)) => tracing::info!(%error, path, "the server did not take it"),
            Done::Said(_, Ok(())) => {}
        }
    }

    fn connected(&mut self, link: (Connection, Frames)) {
        tracing::info!(
            server = link.0.server(),
            mark = self.follower.mark(),
            "following the server"
        );
        // Behind a mark only changes are told: a record that was given up in between would lack what they change.
        if self.follower.mark() == 0 {
            self.open_record(true);
        }
        let connection = link.0.clone();
        self.link = Some(link);
        self.trouble = None;
        self.has_ended = false;
        self.follower.connected(now());
        if self.is_new {
            let ready = v1::node::Ready {
                version: env!("CARGO_PKG_VERSION").into(),
                boot: boot().unwrap_or_default(),
            };
            self.tasks
                .spawn(async move { Done::Ready(link::say(&connection, "/v1/node/ready", &ready).await) });
        }
        self.carry();
        if self.farewell.is_some() {
            self.take_leave();
        }
    }

    fn open_record(&mut self, anew: bool) {
        let opened = Record::open(&self.options.state, &self.credentials.owner(), anew);
        self.record = opened
            .inspect_err(|error| tracing::warn!(%error, "what the server tells cannot be kept for the next start"))
            .ok();
    }

    fn take_frame(&mut self, permit: OwnedSemaphorePermit, frame: Result<Option<Bytes>, RemoteError>) {
        let at = now();
        let bytes = match frame {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return self.lose(&"it ended the stream; another connection is made"),
            Err(error) => return self.lose(&error),
        };
        let message = match Message::parse(&bytes) {
            Ok(message) => message,
            Err(error) => return self.lose(&format_args!("it says what is no message: {error}")),
        };
        if !matches!(message, Message::Mark(_)) {
            self.keep(&bytes, &message);
        }
        match self.follower.take(message, &self.credentials.signer, at) {
            Ok(Some(word)) => self.tell(Told::Word(word, Some(permit))),
            Ok(None) => {}
            Err(error) => {
                self.tell(Told::Alarm("foreign"));
                self.lose(&error);
            }
        }
        if !self.carried.is_empty() {
            self.carry();
        }
    }

    fn lose(&mut self, why: &impl std::fmt::Display) {
        self.in_trouble(why);
        self.link = None;
        self.follower.disconnected(now());
    }

    /// Keeps a message for the next start. Marks are kept when the loop has applied them.
    fn keep(&mut self, bytes: &[u8], message: &Message) {
        let Some(record) = &mut self.record else { return };
        if let Err(error) = record.keep(bytes, message) {
            tracing::warn!(%error, "what the server tells cannot be kept for the next start");
            self.record = None;
        } else if record.is_full() {
            // Told anew it is shorter.
            self.record = None;
            self.follower.forget();
            self.lose(&"its changes fill the record; it is asked for everything anew");
        }
    }

    fn take_resolved(&mut self, asked: v1::Resolve, answer: Result<Option<Bytes>, RemoteError>) {
        let told = match answer {
            Ok(Some(bytes)) => self.tell_resolved(&bytes),
            Ok(None) => false,
            Err(error) => {
                tracing::info!(%error, "a member could not be asked for");
                false
            }
        };
        self.tell(if told { Told::Found(asked) } else { Told::Absent(asked) });
    }

    /// What is known of a member; false when it is nothing.
    fn tell_resolved(&mut self, mut bytes: &[u8]) -> bool {
        let mut any = false;
        while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            let Some((message, rest)) = rest.split_at_checked(length).filter(|_| length <= MAX_MESSAGE) else {
                return any;
            };
            bytes = rest;
            let parsed = Message::parse(message).ok();
            let view = parsed.filter(|message| matches!(message, Message::View(_)));
            let Some(view) = view else { continue };
            self.keep(message, &view);
            match self.credentials.signer.check(view) {
                Ok(Some(word)) => {
                    self.tell(Told::Word(word, None));
                    any = true;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "alarm");
                    self.tell(Told::Alarm("foreign"));
                }
            }
        }
        any
    }

    fn take_bundle(&mut self, keys: Keys, answer: Result<Bytes, RemoteError>) {
        let at = now();
        let bundle = match answer {
            // It was on its way while the node became somebody else.
            Ok(_) if *keys.static_key().public() != self.credentials.static_key() => {
                self.follower.not_renewed(at);
                return;
            }
            Ok(bundle) => bundle,
            Err(error) => {
                self.in_trouble(&error);
                self.follower.not_renewed(at);
                return;
            }
        };
        if let Err(error) = self.adopt(keys, &bundle, at) {
            if let Some(BundleError::RolledBack { .. }) = error.downcast_ref() {
                self.tell(Told::Alarm("rollback"));
            }
            self.in_trouble(&format_args!("its bundle is not taken over: {error:#}"));
            self.follower.not_renewed(at);
        }
    }

    /// Keeps the bundle for the next start, and then hands it to the loop.
    fn adopt(&mut self, keys: Keys, bundle: &[u8], at: Instant) -> anyhow::Result<()> {
        let time = self.protocol_time();
        let opened = self.credentials.open(bundle, &keys, time)?;
        let text = keys.to_text();
        let identity = Identity {
            bundle: Zeroizing::new(bundle.to_vec()),
            keys: Zeroizing::new(text.as_bytes().to_vec()),
            origin: Origin::Recovered,
            boot: self.credentials.boot.clone(),
            known: boot().map(|boot| KnownTime { boot, at, time }),
        };
        let for_loop = Keys::parse(text.as_bytes())?;
        let fixed = Fixed::of(&self.options, &opened, &keys);
        let credentials = Credentials::new(&opened, keys, self.credentials.boot.clone())?;
        self.kept.keep(&self.options, &identity)?;
        let again = self.follower.renewed(at);
        self.follower.renew_by(credentials.lease, time, at);
        self.follower.set_servers(credentials.servers.clone(), at);
        if !matches!(self.follower.state(), State::Following { .. }) {
            self.link = None;
        }
        self.credentials = credentials;
        self.trouble = None;
        if let Some(record) = &mut self.record
            && let Err(error) = record.renewed(again)
        {
            tracing::warn!(%error, "what the server tells cannot be kept for the next start");
            self.record = None;
        }
        self.tell(Told::Renewed(Box::new(Renewed {
            opened,
            fixed,
            keys: for_loop,
        })));
        Ok(())
    }
}
