//! Whoever stands at the door of an enclave: lets in who has a token, as far as the door, and carries what it brings.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use coterie_crypto::{
    Entropy,
    aead::Suite,
    dh::{KeyPair, PublicKey},
    hash::DigestMac,
    kem::ENCAPSULATION_KEY_LEN,
    same_bytes,
    wrap::WRAPPED_LEN,
};
use coterie_model::{CommunityTag, EpochKey, Instant, UnixTime};

use super::{
    MAX_ANSWER, MAX_REQUEST,
    callers::Callers,
    carry::{Inbound, Outbound},
    payload::{Knocking, opening},
    seal_control,
};
use crate::{
    DropReason, Outcome,
    handshake::{
        exchange::{Answered, Responded},
        frame::{Framed, append_macs},
        payload::Suites,
        responder,
    },
    limit::{Buckets, Seen, source_of},
    node::Transmit,
    schedule,
    session::{Material, Origin, Session},
    wire::{
        control::Control,
        datagram::{self, Datagram, RESPONSE, SealedHeader, Step},
    },
};

/// Tokens that a door knows at one time.
pub const MAX_KNOCKS: usize = 1024;
/// Visits at one time.
const MAX_VISITS: usize = 1024;
/// Of them, under one token: whoever has one leaves room for the others.
const MAX_VISITS_OF_TOKEN: usize = 128;
/// A visit that does nothing for so long is over.
const PATIENCE: Duration = Duration::from_secs(15);
/// A visit takes no longer, whatever it does.
const LONGEST: Duration = Duration::from_secs(120);
/// Knock keys that are tried a second, on all initiations together: a flood must not take the node's time.
const TRIALS: u32 = 200_000;

/// A token, as a door knows it.
#[derive(Debug)]
pub struct Knock {
    /// The token's identifier as tag, epoch 1, and the knock key for this door.
    pub key: EpochKey,
    /// When the token ends.
    pub not_after: UnixTime,
}

/// What the host of a door stores, so that a call is answered once, also after a restart: before anything is sent. Of each
/// token as many visitors are remembered as [`super::MAX_VISITORS_OF_TOKEN`] says, and none when it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// The highest counter of a visitor that was let in.
    Accepted(Caller, u64),
    /// This one need not be remembered any more.
    Forgotten(Caller),
}

/// Who called, and with which token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    /// The token.
    pub token: CommunityTag,
    /// The machine.
    pub static_key: PublicKey,
}

/// A request that a visitor brought.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The visit, for [`Door::answer`].
    pub visit: u32,
    /// The token that opened the door.
    pub token: CommunityTag,
    /// Whose visit it is: proved by the handshake.
    pub static_key: PublicKey,
    /// Where it came from.
    pub from: SocketAddr,
    /// For the server.
    pub bytes: Vec<u8>,
}

/// The door.
pub struct Door {
    keys: KeyPair,
    suites: Suites,
    preferred: Suite,
    entropy: Box<dyn Entropy + Send>,
    knocks: BTreeMap<CommunityTag, (DigestMac, Knock)>,
    visits: BTreeMap<u32, Visit>,
    seen: Seen<[u8; datagram::MAC_LEN]>,
    callers: Callers,
    trials: Buckets<()>,
    /// What each source may take of them: one that knows no token keeps nobody else out.
    knockers: Buckets<u128>,
    sources: Buckets<u128>,
    out: VecDeque<Transmit>,
    requests: VecDeque<Request>,
    records: VecDeque<Record>,
    has_new: bool,
}

struct Visit {
    token: CommunityTag,
    static_key: PublicKey,
    from: SocketAddr,
    suite: Suite,
    remote: u32,
    began: Instant,
    heard: Instant,
    stage: Stage,
}

enum Stage {
    /// The response is out.
    ExpectOffer(Box<Responded>),
    /// The answer is out, and stands ready to be repeated.
    ExpectConfirm { answered: Box<Answered>, answer: Vec<u8> },
    /// The session stands.
    Open {
        session: Box<Session>,
        request: Inbound,
        answer: Option<Outbound>,
    },
    /// Between two states while a message is worked on; never left there.
    Taken,
}

impl Door {
    /// A door of the node that has `keys`; `accepted` are the highest counters of visitors that were let in before, as they
    /// were stored.
    #[must_use]
    pub fn new(
        keys: KeyPair,
        (suites, preferred): (Suites, Suite),
        accepted: impl IntoIterator<Item = (Caller, u64)>,
        entropy: Box<dyn Entropy + Send>,
    ) -> Self {
        let mut callers = Callers::default();
        for (caller, counter) in accepted {
            callers.note(caller, counter);
        }
        Self {
            keys,
            suites,
            preferred,
            entropy,
            knocks: BTreeMap::new(),
            visits: BTreeMap::new(),
            seen: Seen::new(8192),
            callers,
            trials: Buckets::new(0, 0, 1),
            knockers: Buckets::new(20, 40, 4096),
            sources: Buckets::new(50, 50, 4096),
            out: VecDeque::new(),
            requests: VecDeque::new(),
            records: VecDeque::new(),
            has_new: false,
        }
    }

    /// Which tokens open the door from now on: the first [`MAX_KNOCKS`]. Visits under others end, and their visitors are
    /// forgotten; but one whose request is with the server, which may have spent the token just now, waits for its answer.
    pub fn handle_knocks(&mut self, knocks: Vec<Knock>) {
        let own = *self.keys.public();
        let tried = |knock: Knock| (knock.key.tag, (schedule::trial_mac_key(&knock.key, &own), knock));
        self.knocks = knocks.into_iter().take(MAX_KNOCKS).map(tried).collect();
        let trials = TRIALS / u32::try_from(self.knocks.len().max(100)).expect("at most MAX_KNOCKS");
        self.trials = Buckets::new(trials, trials, 1);
        let knocks = &self.knocks;
        self.visits
            .retain(|_, visit| knocks.contains_key(&visit.token) || visit.has_asked());
        let gone = self.callers.keep_tokens(|token| knocks.contains_key(token));
        self.records.extend(gone.into_iter().map(Record::Forgotten));
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    /// The next request that came whole.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// The next record to store before anything is sent.
    pub fn poll_record(&mut self) -> Option<Record> {
        self.records.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.visits.values().map(Visit::due).min()
    }

    /// Visits under way.
    #[must_use]
    pub fn visits(&self) -> usize {
        self.visits.len()
    }

    /// The receiver indices of visits under way, which the node beside the door is not to draw
    /// ([`crate::Node::avoid_indices`]).
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        self.visits.keys().copied()
    }

    /// Whether a visit began since this was asked last.
    pub fn has_new_visit(&mut self) -> bool {
        core::mem::take(&mut self.has_new)
    }

    /// Tokens that open the door.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.knocks.len()
    }

    /// Does what is due at `now`: repeats pieces of answers, ends visits.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.visits.retain(|_, visit| !visit.is_over(now));
        let open: Vec<u32> = self.visits.keys().copied().collect();
        for index in open {
            self.carry(index, now);
        }
    }

    /// The server's answer to a request.
    ///
    /// # Panics
    /// When it is longer than [`MAX_ANSWER`]: a caller's error.
    pub fn answer(&mut self, visit: u32, bytes: Vec<u8>, now: Instant) {
        assert!(
            bytes.len() <= MAX_ANSWER,
            "the caller bounds what it takes from the server"
        );
        if let Some(Visit {
            stage: Stage::Open { answer, .. },
            ..
        }) = self.visits.get_mut(&visit)
        {
            answer.get_or_insert_with(|| Outbound::new(bytes, now));
            self.carry(visit, now);
        }
    }

    /// Takes a datagram, if it is for the door: `None` leaves it to the node, whose time is `time` and which says by `taken`
    /// which receiver indices are its own. `bytes` is changed only if it was opened.
    pub fn handle_outside(
        &mut self,
        bytes: &mut [u8],
        from: SocketAddr,
        taken: impl Fn(u32) -> bool,
        time: UnixTime,
        now: Instant,
    ) -> Option<Outcome> {
        let taken = match datagram::parse(bytes).ok()? {
            Datagram::Initiation { sender } => self.handle_initiation(sender, bytes, from, &taken, (time, now))?,
            Datagram::Provisional { step, receiver } if self.visits.contains_key(&receiver) => {
                self.handle_provisional(step, receiver, bytes, from, now)
            }
            Datagram::Sealed(header) if self.visits.contains_key(&header.receiver) => {
                self.handle_sealed(header, bytes, now)
            }
            Datagram::Provisional { .. }
            | Datagram::Sealed(_)
            | Datagram::Response { .. }
            | Datagram::Cookie { .. }
            | Datagram::Question
            | Datagram::Answer => return None,
        };
        Some(taken.map_or_else(Outcome::Dropped, |()| Outcome::Handled))
    }

    /// The checks of WIRE section 3.2 in their order, for who has a token instead of a statement.
    fn handle_initiation(
        &mut self,
        sender: u32,
        message: &[u8],
        from: SocketAddr,
        taken: &dyn Fn(u32) -> bool,
        (time, now): (UnixTime, Instant),
    ) -> Option<Result<(), DropReason>> {
        let source = source_of(from.ip());
        if self.knocks.is_empty() || !self.knockers.allow(source, now) || !self.trials.allow((), now) {
            return None;
        }
        let framed = Framed::cut(message)?;
        let digest = framed.digest();
        let (_, knock) = self
            .knocks
            .values()
            .find(|(mac, _)| same_bytes(&mac.mac(&digest), framed.mac1))?;
        let (key, ended) = (knock.key.duplicate(), knock.not_after <= time);
        Some(if !self.seen.insert(*framed.mac1) {
            Err(DropReason::Replayed)
        } else if ended {
            Err(DropReason::EpochClosed)
        } else {
            self.let_in(sender, &framed, &key, from, taken, now)
        })
    }

    fn let_in(
        &mut self,
        remote: u32,
        framed: &Framed<'_>,
        key: &EpochKey,
        from: SocketAddr,
        taken: &dyn Fn(u32) -> bool,
        now: Instant,
    ) -> Result<(), DropReason> {
        if !self.sources.allow(source_of(from.ip()), now) {
            return Err(DropReason::RateLimited);
        }
        let forged = |_refused| DropReason::Forged;
        let claimed = responder::claimed(&self.keys, key, framed).map_err(forged)?;
        if claimed.static_key() == self.keys.public() {
            return Err(DropReason::BadHandshake);
        }
        let (proved, payload) = claimed.prove(&self.keys).map_err(forged)?;
        let static_key = *proved.static_key();
        let payload = Knocking::parse(&payload).map_err(|_malformed| DropReason::BadHandshake)?;
        let caller = Caller {
            token: key.tag,
            static_key,
        };
        if payload.counter <= self.callers.highest(&caller) {
            return Err(DropReason::Replayed);
        }
        let suite = self
            .suites
            .choose(self.preferred, payload.suites, payload.preferred)
            .filter(|_| payload.suites.has(payload.preferred))
            .ok_or(DropReason::BadHandshake)?;
        // A machine that calls again has given up its visit before.
        self.visits.retain(|_, visit| visit.static_key != static_key);
        let of_token = self.visits.values().filter(|visit| visit.token == key.tag).count();
        if self.visits.len() >= MAX_VISITS || of_token >= MAX_VISITS_OF_TOKEN {
            return Err(DropReason::RateLimited);
        }
        let forgotten = self.callers.note(caller, payload.counter);
        self.records.extend(forgotten.map(Record::Forgotten));
        self.records.push_back(Record::Accepted(caller, payload.counter));
        let local = self.fresh_index(taken);
        let mut message = vec![RESPONSE, 0, 0, 0];
        message.extend_from_slice(&local.to_be_bytes());
        message.extend_from_slice(&remote.to_be_bytes());
        let mac_key = schedule::mac_key(key, &static_key);
        let established = proved
            .respond(&opening(suite), &mut *self.entropy, &mut message)
            .map_err(|_refused| DropReason::BadHandshake)?;
        append_macs(&mut message, &mac_key, None);
        let visit = Visit {
            token: key.tag,
            static_key,
            from,
            suite,
            remote,
            began: now,
            heard: now,
            stage: Stage::ExpectOffer(Box::new(Responded::new(established))),
        };
        self.visits.insert(local, visit);
        self.has_new = true;
        self.out.push_back(Transmit {
            to: from,
            bytes: message,
        });
        Ok(())
    }

    fn fresh_index(&mut self, taken: &dyn Fn(u32) -> bool) -> u32 {
        loop {
            let mut index = [0; 4];
            self.entropy.fill(&mut index);
            let index = u32::from_be_bytes(index);
            if index != 0 && !self.visits.contains_key(&index) && !taken(index) {
                return index;
            }
        }
    }

    fn handle_provisional(
        &mut self,
        step: Step,
        index: u32,
        bytes: &[u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<(), DropReason> {
        let visit = self.visits.get_mut(&index).ok_or(DropReason::UnknownIndex)?;
        let provisional = match &visit.stage {
            Stage::ExpectOffer(responded) => &responded.provisional,
            Stage::ExpectConfirm { answered, .. } => &answered.provisional,
            Stage::Open { .. } | Stage::Taken => return Err(DropReason::Unexpected),
        };
        let forged = |_refused| DropReason::Forged;
        match step {
            Step::Offer => {
                let offer = provisional.open(step, bytes).map_err(forged)?;
                self.take_offer(index, offer, from, now)
            }
            Step::Confirm => {
                let wrapped = provisional.open(step, bytes).map_err(forged)?;
                self.take_confirm(index, &wrapped, now)
            }
            Step::Answer => Err(DropReason::Unexpected),
        }
    }

    fn take_offer(
        &mut self,
        index: u32,
        offer: Box<[u8; ENCAPSULATION_KEY_LEN]>,
        from: SocketAddr,
        now: Instant,
    ) -> Result<(), DropReason> {
        let visit = self.visits.get_mut(&index).ok_or(DropReason::UnknownIndex)?;
        let (stage, bytes) = match core::mem::replace(&mut visit.stage, Stage::Taken) {
            Stage::ExpectOffer(responded) => {
                let Ok(answered) = responded.answer(offer, &mut *self.entropy) else {
                    self.visits.remove(&index);
                    return Err(DropReason::BadHandshake);
                };
                // Only who read the response can have made the offer: this is where the visitor is.
                visit.from = from;
                visit.heard = now;
                let answer = answered
                    .provisional
                    .seal(Step::Answer, visit.remote, &answered.answer[..]);
                let stage = Stage::ExpectConfirm {
                    answered: Box::new(answered),
                    answer: answer.clone(),
                };
                (stage, Some(answer))
            }
            Stage::ExpectConfirm { answered, answer } => {
                let again = (answered.answers(&offer) && visit.from == from).then(|| answer.clone());
                (Stage::ExpectConfirm { answered, answer }, again)
            }
            stage @ (Stage::Open { .. } | Stage::Taken) => (stage, None),
        };
        visit.stage = stage;
        let bytes = bytes.ok_or(DropReason::Unexpected)?;
        self.out.push_back(Transmit { to: visit.from, bytes });
        Ok(())
    }

    fn take_confirm(&mut self, index: u32, wrapped: &[u8; WRAPPED_LEN], now: Instant) -> Result<(), DropReason> {
        let visit = self.visits.get_mut(&index).ok_or(DropReason::UnknownIndex)?;
        let Stage::ExpectConfirm { answered, .. } = &visit.stage else {
            return Err(DropReason::Unexpected);
        };
        let (_, knock) = self.knocks.get(&visit.token).ok_or(DropReason::EpochClosed)?;
        let roots = answered
            .roots(wrapped, &knock.key, self.keys.public())
            .map_err(|_refused| DropReason::Forged)?;
        let material = Material {
            send_root: &roots.r2i,
            receive_root: &roots.i2r,
            suite: visit.suite,
            send_lanes: 1,
            receive_lanes: 1,
        };
        let origin = Origin {
            local_index: index,
            remote_index: visit.remote,
            initiator: false,
            tag: knock.key.tag,
            epoch: knock.key.epoch,
            made: now,
        };
        visit.heard = now;
        visit.stage = Stage::Open {
            session: Box::new(Session::new(&material, origin)),
            request: Inbound::default(),
            answer: None,
        };
        Ok(())
    }

    fn handle_sealed(&mut self, header: SealedHeader, bytes: &mut [u8], now: Instant) -> Result<(), DropReason> {
        let index = header.receiver;
        let visit = self.visits.get_mut(&index).ok_or(DropReason::UnknownIndex)?;
        let Stage::Open {
            session,
            request,
            answer,
        } = &mut visit.stage
        else {
            return Err(DropReason::Unexpected);
        };
        let text = session.open(header, bytes)?;
        visit.heard = now;
        match Control::parse(text).map_err(|_malformed| DropReason::BadControl)? {
            Control::Carry { offset, total, bytes } => {
                let was_whole = request.is_whole();
                let next = request.take(MAX_REQUEST, offset, total, bytes)?;
                if request.is_whole() && !was_whole {
                    self.requests.push_back(Request {
                        visit: index,
                        token: visit.token,
                        static_key: visit.static_key,
                        from: visit.from,
                        bytes: request.take_whole(),
                    });
                }
                self.say(index, &Control::Carried(next).to_bytes());
            }
            Control::Carried(offset) => {
                match answer {
                    Some(answer) => {
                        answer.acknowledge(offset, now);
                        self.carry(index, now);
                    }
                    // The server thinks: the visitor is to know that somebody is here.
                    None if request.is_whole() => self.say(index, &Control::Keepalive.to_bytes()),
                    None => {}
                }
            }
            Control::Close => drop(self.visits.remove(&index)),
            Control::Keepalive => {}
            Control::Probe(_)
            | Control::ProbeReply(_)
            | Control::RekeyInitiation(_)
            | Control::RekeyResponse(_)
            | Control::RekeyOffer(..)
            | Control::RekeyAnswer(..)
            | Control::RekeyConfirm(..)
            | Control::DifferenceRequest(..)
            | Control::Difference { .. }
            | Control::Statement(_) => return Err(DropReason::Unexpected),
        }
        Ok(())
    }

    /// Sends pieces of an answer that may go.
    fn carry(&mut self, index: u32, now: Instant) {
        let Some(Visit {
            stage: Stage::Open {
                answer: Some(answer), ..
            },
            ..
        }) = self.visits.get_mut(&index)
        else {
            return;
        };
        let mut pieces = Vec::new();
        answer.send(now, |text| pieces.push(text.to_vec()));
        for text in pieces {
            self.say(index, &text);
        }
    }

    fn say(&mut self, index: u32, text: &[u8]) {
        let salt = self.entropy.salt();
        let Some(visit) = self.visits.get_mut(&index) else {
            return;
        };
        let Stage::Open { session, .. } = &mut visit.stage else {
            return;
        };
        if let Some(bytes) = seal_control(session, salt, text) {
            self.out.push_back(Transmit { to: visit.from, bytes });
        }
    }
}

impl Visit {
    fn is_over(&self, now: Instant) -> bool {
        now >= self.ends_at()
    }

    /// Its request came whole.
    fn has_asked(&self) -> bool {
        matches!(&self.stage, Stage::Open { request, .. } if request.is_whole())
    }

    fn ends_at(&self) -> Instant {
        (self.heard + PATIENCE).min(self.began + LONGEST)
    }

    fn due(&self) -> Instant {
        let again = match &self.stage {
            Stage::Open {
                answer: Some(answer), ..
            } => answer.again_at(),
            Stage::Open { answer: None, .. } | Stage::ExpectOffer(_) | Stage::ExpectConfirm { .. } | Stage::Taken => {
                None
            }
        };
        let end = self.ends_at();
        again.map_or(end, |at| at.min(end))
    }
}
