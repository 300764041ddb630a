//! What the server says and is asked, and the door that this node may be.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, mpsc::SyncSender};
use std::time::Duration;

use anyhow::Context;
use coterie_api::{Answer, Failure, Reply, node as api, v1};
use coterie_control::bundle::Keys;
use coterie_crypto::{aead::Suite, dh::KeyPair};
use coterie_model::{Instant, Name, Prefix, Revocations};
use coterie_proto::{
    Node, Update,
    bootstrap::{Door, Knock},
    handshake::payload::Suites,
    node::Alarm,
};

use super::{Buffers, Driver, Left, now};
use crate::{
    answers,
    enrol::Pass,
    entropy::SystemEntropy,
    follow::{Carry, Follow, Say, Server, Told, follower::Word},
    identity::Kept,
    options::Options,
    visitors::Visitors,
};

/// How long a person waits for the server to say who somebody is.
const ASKING: Duration = Duration::from_secs(4);
/// How many wait at one time; more hear what is known already.
const MAX_ASKING: usize = 256;

/// What a driver needs to be served.
pub struct Serving {
    /// The command line.
    pub options: Options,
    /// Where the identity is kept.
    pub kept: Arc<Kept>,
    /// The thread that follows the server, where there is one.
    pub follow: Option<Follow>,
    /// Who the node is.
    pub identity: Own,
}

/// What of the identity counts here and at the door.
pub struct Own {
    keys: KeyPair,
    suites: (Suites, Suite),
    pools: Vec<Prefix>,
    by_token: bool,
}

impl Own {
    /// From the keys, what the bundle says, and whether a token made this machine a member.
    #[must_use]
    pub fn new(keys: &Keys, suites: (Suites, Suite), pools: Vec<Prefix>, by_token: bool) -> Self {
        Self {
            keys: keys.static_key(),
            suites,
            pools,
            by_token,
        }
    }
}

/// The state of being served.
pub(super) struct Served {
    state: PathBuf,
    options: Options,
    kept: Arc<Kept>,
    pub(super) follow: Option<Follow>,
    own: Own,
    server: Option<Server>,
    heard: Option<Instant>,
    mark: u64,
    /// Applied, and to be said when it is stored.
    applied: Option<u64>,
    door: Option<(Door, Visitors)>,
    asking: Vec<Asking>,
    alarms: BTreeMap<&'static str, u64>,
    /// The machine was forked.
    forked: bool,
    /// When it was last looked for something that lets the machine in again.
    sought: Option<Instant>,
    /// Whether this machine was among those who are refused when that was looked at last.
    is_refused: bool,
}

/// Somebody waits for the server to say who it is that he names.
struct Asking {
    who: v1::Resolve,
    destination: String,
    until: Instant,
    purpose: Purpose,
}

/// What for.
pub(super) enum Purpose {
    /// A round trip.
    Ping { timeout_ms: u64, reply: SyncSender<Reply> },
    /// An explanation for a person here.
    Explain(SyncSender<Reply>),
    /// An explanation for the server.
    Explained(u64),
}

impl Served {
    pub(super) fn new(parts: Serving) -> Self {
        Self {
            state: parts.options.state.clone(),
            options: parts.options,
            kept: parts.kept,
            follow: parts.follow,
            own: parts.identity,
            server: None,
            heard: None,
            mark: 0,
            applied: None,
            door: None,
            asking: Vec::new(),
            alarms: BTreeMap::new(),
            forked: false,
            sought: None,
            is_refused: false,
        }
    }

    fn is_followed(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.state == "following")
    }

    fn say(&self, say: Say) {
        if let Some(follow) = &self.follow {
            follow.say(say);
        }
    }

    /// The earliest thing that time brings about here.
    pub(super) fn due(&self) -> Option<Instant> {
        let door = self.door.as_ref().and_then(|(door, _)| door.poll_timeout());
        let asking = self.asking.iter().map(|asking| asking.until).min();
        [door, asking].into_iter().flatten().min()
    }

    /// What status tells of the server.
    pub(super) fn server(&self, now: Instant) -> Option<api::Server> {
        let server = self.server.as_ref()?;
        Some(api::Server {
            address: server.address,
            state: server.state.to_owned(),
            since: now.since(server.since).as_secs_f64(),
            mark: self.mark,
            heard: self.heard.map(|at| now.since(at).as_secs_f64()),
            trouble: server.trouble.clone(),
            serial: server.serial,
        })
    }

    /// What status tells of the door.
    pub(super) fn door(&self) -> Option<api::Door> {
        let (door, _) = self.door.as_ref()?;
        Some(api::Door {
            tokens: door.tokens(),
            visits: door.visits(),
        })
    }

    /// Takes a datagram from outside, if it is for the door.
    pub(super) fn take_at_door(&mut self, node: &mut Node, bytes: &mut [u8], from: SocketAddr, now: Instant) -> bool {
        let Some((door, _)) = &mut self.door else { return false };
        let time = node.time(now);
        let taken = door.handle_outside(bytes, from, |index| node.holds_index(index), time, now);
        if door.has_new_visit() {
            node.avoid_indices(door.indices());
        }
        taken.is_some()
    }

    pub(super) fn by_token(&self) -> bool {
        self.own.by_token
    }

    pub(super) fn alarms(&self) -> BTreeMap<String, u64> {
        self.alarms.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect()
    }

    pub(super) fn count_alarm(&mut self, kind: &'static str) {
        *self.alarms.entry(kind).or_default() += 1;
    }
}

/// Revisions that no server counts through between two lists: it went on from a restored backup.
const RESTORED: u64 = 1 << 19;

impl Driver {
    /// A server that went on from a backup counts on far above what was given out, and may have forgotten whom it refused.
    fn notice_restore(&mut self, list: &Revocations) {
        let Some(known) = self.node.revocations() else { return };
        if list.revision.saturating_sub(known.revision) < RESTORED {
            return;
        }
        let time = self.node.time(now());
        let is_named = |key| list.entries.iter().any(|entry| entry.static_key == key);
        let forgotten: Vec<String> = known
            .entries
            .iter()
            .filter(|entry| entry.until > time && !is_named(entry.static_key))
            .map(|entry| entry.member.to_string())
            .collect();
        tracing::warn!(
            ?forgotten,
            "the server went on from a restored backup; it is shown the list of those whom it refused before, and isolates again \
             those whom it forgot, named here by their ids (`coterie audit tail` knows their names)"
        );
        if !forgotten.is_empty() {
            self.served.say(Say::Shown(known.bytes().to_vec()));
        }
        self.served.count_alarm("restored");
    }
}

/// The word for an alarm in status and metrics.
pub(super) fn alarm_name(alarm: &Alarm) -> &'static str {
    match alarm {
        Alarm::Twin(_) => "twin",
        Alarm::Rollback => "rollback",
        Alarm::Foreign => "foreign",
        Alarm::Forked => "forked",
        Alarm::RevokedKnocked => "revoked-knocked",
    }
}

impl Driver {
    /// Takes what the server said.
    pub(super) fn take_told(&mut self, told: Told, now: Instant) -> anyhow::Result<Option<Left>> {
        if self.served.follow.is_none() {
            // It was on its way to whoever followed before.
            return Ok(None);
        }
        match told {
            Told::Word(word, permit) => {
                self.take_word(word, now)?;
                drop(permit);
            }
            Told::Found(who) => self.end_asking(&who, now),
            Told::Absent(who) => {
                if let v1::Resolve::Address(address) = who {
                    let (node, mut ports) = self.parts();
                    node.handle_absent(address, now, &mut ports);
                }
                self.end_asking(&who, now);
            }
            Told::Renewed(renewed) => return Ok(Some(Left::Renewed(renewed))),
            Told::Answered { visit, reply } => {
                let fits = reply.len() <= coterie_proto::bootstrap::MAX_ANSWER;
                if let Some((door, _)) = self.served.door.as_mut().filter(|_| fits) {
                    door.answer(visit, reply, now);
                }
            }
            Told::Server(server) => self.take_server(server),
            Told::Alarm(kind) => {
                tracing::warn!(
                    kind,
                    "alarm: the server shows what is older than what is known, or not its enclave's"
                );
                self.served.count_alarm(kind);
            }
        }
        Ok(None)
    }

    fn take_server(&mut self, server: Server) {
        if server.state == "following" {
            self.served.heard = Some(now());
        }
        self.served.server = Some(server);
        self.seek();
    }

    /// Members that no view names are sought while there is a server to ask.
    fn seek(&mut self) {
        let pools = if self.served.is_followed() {
            self.served.own.pools.clone()
        } else {
            Vec::new()
        };
        self.node.seek_in(pools);
    }

    /// Says that this machine is refused, or is not any more.
    pub(super) fn notice_refusal(&mut self) {
        if self.node.is_refused() == self.served.is_refused {
            return;
        }
        self.served.is_refused = !self.served.is_refused;
        if self.served.is_refused {
            tracing::warn!(
                "this machine is isolated, or its membership was revoked: no member speaks with it; ask the enclave's administrator"
            );
        } else {
            tracing::info!("this machine is refused no more");
        }
    }

    fn take_word(&mut self, word: Word, now: Instant) -> anyhow::Result<()> {
        self.served.heard = Some(now);
        let update = match word {
            Word::Pulse(head) => Update {
                head: Some(head),
                ..Update::default()
            },
            Word::Revocations(list) => {
                self.notice_restore(list.claimed());
                Update {
                    revocations: Some(list),
                    ..Update::default()
                }
            }
            Word::View(piece) => Update {
                views: vec![piece],
                ..Update::default()
            },
            Word::Epochs(tag, manifests) => {
                self.node.handle_epochs(tag, manifests, now);
                return Ok(());
            }
            Word::Mark(mark) => {
                self.served.applied = Some(mark);
                return Ok(());
            }
            Word::Knocks(knocks) => return self.take_knocks(knocks),
            Word::Explain { id, destination } => {
                self.ask_for(destination, Purpose::Explained(id), now);
                return Ok(());
            }
        };
        self.node.handle_update(update, now);
        Ok(())
    }

    /// Says what is applied, now that it is stored.
    pub(super) fn say_applied(&mut self) {
        let Some(mark) = self.served.applied.take() else { return };
        self.served.mark = mark;
        let now = now();
        self.served.say(Say::Applied {
            mark,
            time: self.node.time(now),
            revision: self.node.revision(),
        });
    }

    /// Asks for members that no view names.
    pub(super) fn ask_for_wanted(&mut self) {
        while let Some(address) = self.node.poll_wanted() {
            self.served.say(Say::Resolve(v1::Resolve::Address(address)));
        }
    }

    /// Does something for which somebody has to be known, now or when the server said who it is.
    pub(super) fn ask_for(&mut self, destination: String, purpose: Purpose, now: Instant) {
        let who = match destination.parse::<IpAddr>() {
            Ok(address) if self.node.explain(address, now).peer.is_none() => Some(v1::Resolve::Address(address)),
            Ok(_) => None,
            Err(_) => Name::new(&destination)
                .ok()
                .filter(|name| self.node.addresses_of(name).is_none())
                .map(v1::Resolve::Name),
        };
        let may_ask = self.served.is_followed() && self.served.asking.len() < MAX_ASKING;
        match who.filter(|_| may_ask) {
            Some(who) => {
                if !self.served.asking.iter().any(|asking| asking.who == who) {
                    self.served.say(Say::Resolve(who.clone()));
                }
                self.served.asking.push(Asking {
                    who,
                    destination,
                    until: now + ASKING,
                    purpose,
                });
            }
            None => self.fulfil(&destination, purpose, now),
        }
    }

    fn end_asking(&mut self, who: &v1::Resolve, now: Instant) {
        let all = std::mem::take(&mut self.served.asking);
        let (over, others) = all.into_iter().partition(|asking| asking.who == *who);
        self.served.asking = others;
        let over: Vec<Asking> = over;
        for asking in over {
            self.fulfil(&asking.destination, asking.purpose, now);
        }
    }

    /// Questions that the server did not answer in time, and what time brings about at the door.
    pub(super) fn attend_served(&mut self, now: Instant) {
        while let Some(at) = self.served.asking.iter().position(|asking| asking.until <= now) {
            let asking = self.served.asking.swap_remove(at);
            self.fulfil(&asking.destination, asking.purpose, now);
        }
        if let Some((door, _)) = &mut self.served.door
            && door.poll_timeout().is_some_and(|at| at <= now)
        {
            door.handle_timeout(now);
        }
    }

    fn fulfil(&mut self, destination: &str, purpose: Purpose, now: Instant) {
        match purpose {
            Purpose::Ping { timeout_ms, reply } => {
                if let Err(failure) = self.start_ping(destination, timeout_ms, &reply, now) {
                    // Who asked may have gone.
                    let _gone = reply.try_send(Reply::Error(failure));
                }
            }
            Purpose::Explain(reply) => {
                let answer = match self.explained(destination, now) {
                    Ok(explanation) => Reply::Ok(Answer::Explanation(explanation)),
                    Err(failure) => Reply::Error(failure),
                };
                let _gone = reply.try_send(answer);
            }
            Purpose::Explained(id) => {
                let (explanation, failure) = match self.explained(destination, now) {
                    Ok(explanation) => (Some(explanation), None),
                    Err(failure) => (None, Some(failure)),
                };
                self.served.say(Say::Explained(v1::NodeExplained {
                    id,
                    explanation,
                    failure,
                }));
            }
        }
    }

    fn explained(&self, destination: &str, now: Instant) -> Result<api::Explanation, Failure> {
        let ip = self.resolve(destination)?;
        Ok(answers::explanation(ip, &self.node.explain(ip, now)))
    }

    /// The machine goes for good: the server is told.
    pub(super) fn say_bye(&self, reply: SyncSender<Reply>) {
        match &self.served.follow {
            Some(follow) => follow.say(Say::Bye(reply)),
            None => {
                let _gone = reply.try_send(Reply::Error(Failure {
                    code: "no-server".into(),
                    message: "this enclave has no server to be told".into(),
                    remedy: "whoever issues bundles takes the member out of the enclave file".into(),
                }));
            }
        }
    }

    fn take_knocks(&mut self, knocks: Vec<Knock>) -> anyhow::Result<()> {
        if self.served.door.is_none() && !knocks.is_empty() {
            let (visitors, accepted) = Visitors::open(&self.served.state, *self.node.static_key())
                .context("cannot open what this door remembers of visitors")?;
            let keys = KeyPair::from_private(self.served.own.keys.private().duplicate());
            let door = Door::new(keys, self.served.own.suites, accepted, Box::new(SystemEntropy));
            self.served.door = Some((door, visitors));
        }
        if let Some((door, _)) = &mut self.served.door {
            if door.tokens() != knocks.len() {
                tracing::info!(tokens = knocks.len(), "at the door");
            }
            door.handle_knocks(knocks);
        }
        Ok(())
    }

    /// What visitors brought goes to the server, what the door says to them, stored first, to the wire.
    pub(super) fn flush_door(&mut self) -> anyhow::Result<()> {
        let Some((door, visitors)) = &mut self.served.door else {
            return Ok(());
        };
        while let Some(record) = door.poll_record() {
            visitors.write(&record).context(
                "cannot write what this door remembers of visitors; nothing is said to one that it does not",
            )?;
        }
        while let Some(transmit) = door.poll_transmit() {
            super::queue(&self.udp, &mut self.out, &transmit);
        }
        let requests: Vec<_> = std::iter::from_fn(|| door.poll_request()).collect();
        for request in requests {
            tracing::info!(from = %request.from, "a visitor applies");
            self.served.say(Say::Carry(Carry {
                visit: request.visit,
                from: request.from,
                application: request.bytes,
                since: now(),
            }));
        }
        Ok(())
    }

    /// The machine was forked: keys are nowhere any more.
    pub(super) fn forget_keys(&mut self) {
        self.end_follow();
        self.forget_identity();
        self.served.forked = true;
    }

    fn forget_identity(&mut self) {
        self.served.own.keys = KeyPair::generate(&mut SystemEntropy);
        if let Err(error) = self.served.kept.forget(&self.served.options) {
            tracing::warn!("the identity that was kept could not be forgotten: {error:#}");
        }
    }

    /// Whether a machine that a token had made a member, and that is none any more, has something that lets it in again: a token
    /// that it has not used, or, if it was forked, its ticket. It is looked for every few seconds.
    pub(super) fn may_return(&mut self, now: Instant) -> bool {
        let has_ended = self.served.server.as_ref().is_some_and(|server| server.has_ended);
        let is_out = self.served.forked || has_ended;
        let looked = self.served.sought.is_some_and(|at| now.since(at) < super::IDLE_TICK);
        if !is_out || looked || !self.served.by_token() {
            return false;
        }
        self.served.sought = Some(now);
        let pass = Pass::find(&self.served.options).ok().flatten();
        let returns = pass.is_some_and(|pass| pass.is_fresh || self.served.forked && pass.readmits());
        if returns && !self.served.forked {
            self.forget_identity();
        }
        returns
    }

    /// Whoever the node is from now on.
    pub fn set_own(&mut self, own: Own) {
        if *own.keys.public() != *self.served.own.keys.public() {
            // The door's handshakes are under the key of before.
            self.served.door = None;
        }
        self.served.own = own;
        self.seek();
    }

    /// Who follows the server from now on, where nobody did before.
    pub fn set_follow(&mut self, follow: Follow) {
        self.served.follow = Some(follow);
    }

    /// No server is followed any more: nobody visits, and nobody can be asked.
    pub fn end_follow(&mut self) {
        self.served.say(Say::Forget);
        self.served.follow = None;
        self.served.server = None;
        self.served.door = None;
        self.seek();
    }

    /// Who follows the server.
    #[must_use]
    pub fn follow(&self) -> Option<&Follow> {
        self.served.follow.as_ref()
    }

    fn parts(&mut self) -> (&mut Node, Buffers<'_>) {
        let ports = Buffers {
            out: &mut self.out,
            udp: &self.udp,
            tun: &mut self.tun,
        };
        (&mut self.node, ports)
    }
}
