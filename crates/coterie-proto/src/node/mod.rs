//! One node: a packet's way, in five steps, and everything that makes a session for it.
//!
//! Outbound, *inside to outside*:
//! 1. The host reads a batch from the TUN device, takes `now` and a fresh salt once for it ([`Node::begin_batch`]).
//! 2. [`Node::handle_inside`]: [`crate::wire::ip`] reads the addresses; the source must be ours.
//! 3. `table` finds the member that has the destination. Nobody, or no community in common: a typed drop, and an
//!    ICMP error *inside*, so that the program that sent it knows at once; nothing goes outside.
//! 4. The member's session seals into the host's buffer ([`Ports::outside`]). No session: the packet waits (64 at most)
//!    while `initiate` makes one.
//! 5. The host sends the batch.
//!
//! Inbound mirrors it: [`Node::handle_outside`] → [`crate::wire::datagram`] → session by receiver index → opened in place →
//! replay window → the source must be the sender's, the destination ours → [`Ports::inside`].
//!
//! The surface: [`Node::handle_inside`], [`Node::handle_outside`], [`Node::handle_timeout`], [`Node::handle_update`],
//! [`Node::handle_fork`]; [`Node::poll_persist`] (to be stored *before* what `poll_transmit` gives is sent),
//! [`Node::poll_transmit`], [`Node::poll_event`], [`Node::poll_timeout`]; [`Node::status`] and [`Node::explain`] read.

mod asking;
mod contact;
mod control;
mod initiate;
mod inside;
mod outside;
mod peer;
mod seeking;
mod state;
mod status;
mod table;
mod timers;
mod update;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use coterie_crypto::{
    Entropy,
    aead::Suite,
    dh::{KeyPair, PublicKey},
};
use coterie_model::{
    Authority, CommunityTag, DirectoryEntry, Epoch, EpochKey, Head, Instant, Manifest, MemberId, Name, Prefix,
    Revocations, Signed, Statement, UnixTime, Unverified,
};

use crate::{
    DropReason,
    drop::DropCounts,
    handshake::{cookie::Jar, payload::Suites},
    limit::{Buckets, Seen},
    membership::{Freshness, Membership},
    wire::datagram::MAC_LEN,
};
use peer::Peer;
use table::Table;

pub use status::{CommunityStatus, Explanation, Held, PeerStatus, SessionStatus, Status};
pub use view::ViewPiece;

/// Counters of initiations that are reserved at a time (WIRE section 3.3).
pub const COUNTER_BLOCK: u64 = 4096;

/// Everything a node is made from.
pub struct Config {
    /// The node's static key pair.
    pub keys: KeyPair,
    /// The node's name.
    pub name: Name,
    /// The authority, checked against the root by whoever opened the bundle.
    pub authority: Signed<Authority>,
    /// Where protocol time comes from.
    pub freshness: Freshness,
    /// Protocol time at start.
    pub time: UnixTime,
    /// Suites that may be used.
    pub suites: Suites,
    /// The suite that this machine would like.
    pub preferred: Suite,
    /// Lanes that it sends on, 1-16.
    pub lanes: u8,
    /// Members that must not be able to hear what this node starts (¶39).
    pub exclude: Vec<Name>,
    /// Outside addresses of peers may change in a live session.
    pub roaming: bool,
    /// Gateways and jumpboxes: may ask for cookies.
    pub may_ask_cookie: bool,
    /// The UDP port that members without a known endpoint are asked at.
    pub port: u16,
    /// Membership and directory.
    pub update: Update,
    /// First initiation counter that was never reserved; 1 for a new key.
    pub counter: u64,
    /// Highest initiation counter accepted from each static key, from before a restart.
    pub accepted: Vec<(PublicKey, u64)>,
    /// Questions answered before a restart.
    pub answered: Vec<[u8; 12]>,
    /// Peers with a live session before a restart: contacted at once, because they do not know that theirs is dead.
    pub resume: Vec<(PublicKey, SocketAddr)>,
}

/// New knowledge from a bundle or the directory. What is not newer than what is known is ignored; what is lower is an
/// alarm.
#[derive(Default)]
pub struct Update {
    /// Manifests of epochs.
    pub manifests: Vec<Signed<Manifest>>,
    /// Keys of epochs.
    pub keys: Vec<EpochKey>,
    /// Statements about this node.
    pub statements: Vec<Signed<Statement>>,
    /// Other members, each with all communities.
    pub directory: Vec<DirectoryEntry>,
    /// What a server tells of communities.
    pub views: Vec<ViewPiece>,
    /// Who is refused.
    pub revocations: Option<Unverified<Revocations>>,
    /// The enclave's pulse.
    pub head: Option<Unverified<Head>>,
    /// The exclusions of the template and the member, where they are told anew.
    pub exclude: Option<Vec<Name>>,
    /// True when this is all that there is, as in a bundle: communities, epochs and members that it does not name are over.
    pub complete: bool,
    /// A time that protocol time is not behind, where the host knows one.
    pub time: Option<UnixTime>,
}

/// Where the host's buffers are.
pub trait Ports {
    /// One datagram of exactly `len` bytes to `to`: the host reserves room, `fill` writes all of it and says whether it is to
    /// be sent; if not, the reservation is rolled back.
    fn outside(&mut self, to: SocketAddr, len: usize, fill: impl FnOnce(&mut [u8]) -> bool);

    /// Delivers a packet to this machine's stack.
    fn inside(&mut self, packet: &[u8]);
}

/// What became of one packet or datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Inside packet: sealed and handed out.
    Sent,
    /// Inside packet: waits for a session.
    Queued,
    /// Outside datagram: a packet was delivered inside.
    Delivered,
    /// Outside datagram: a handshake, control or query message was taken.
    Handled,
    /// Went no further.
    Dropped(DropReason),
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub bytes: Vec<u8>,
}

/// What must be stored, so that it survives kill -9 and restart, before anything else leaves the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Persist {
    /// Initiation counters below this one are reserved.
    Counter(u64),
    /// The highest counter accepted from a static key.
    Accepted(PublicKey, u64),
    /// A question was answered.
    Answered([u8; 12]),
    /// A session with a peer at an endpoint is live (`Some`) or gone (`None`).
    Live(PublicKey, Option<SocketAddr>),
    /// Revocations that are newer than all before, to be told again at the next start: whoever is refused stays so.
    Revocations(Box<Signed<Revocations>>),
}

/// What a host or an operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session carries packets now.
    SessionUp {
        /// The peer.
        peer: Name,
        /// Its community.
        tag: CommunityTag,
        /// The epoch that admitted it.
        epoch: Epoch,
        /// True when it replaced one.
        rekey: bool,
    },
    /// The last session with a peer is gone.
    SessionDown(Name),
    /// A peer did not answer.
    NoAnswer(Name),
    /// A peer moved.
    Moved(Name, SocketAddr),
    /// The peer gave back the token of [`Node::handle_ping`].
    Pong([u8; 8]),
    /// Something that should not happen did.
    Alarm(Alarm),
}

/// What wakes an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// A peer runs twice: its machine was forked.
    Twin(Name),
    /// An object below a known revision was shown: somebody rolls us back.
    Rollback,
    /// An object of another enclave or with a bad signature was shown.
    Foreign,
    /// This machine was forked; all keys are gone.
    Forked,
    /// A member whose membership was revoked tried to connect.
    RevokedKnocked,
}

/// Counts for status and metrics.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Inside packets sealed.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Outside packets delivered.
    pub delivered: u64,
    /// Bytes of them.
    pub delivered_bytes: u64,
    /// Inside packets that had to wait.
    pub queued: u64,
    /// Handshakes that made a session, as initiator.
    pub initiated: u64,
    /// Handshakes that made a session, as responder.
    pub responded: u64,
    /// Handshake, control and query datagrams taken.
    pub handled: u64,
    /// What went no further.
    pub drops: DropCounts,
}

/// Names a peer within this node.
type PeerId = usize;

/// A node. One owner drives it; it holds no lock and starts no thread.
pub struct Node {
    keys: KeyPair,
    name: Name,
    membership: Membership,
    suites: Suites,
    preferred: Suite,
    lanes: u8,
    exclude: Vec<Name>,
    roaming: bool,
    port: u16,
    entropy: Box<dyn Entropy + Send>,

    peers: Vec<Peer>,
    /// Places of members that were forgotten.
    free: Vec<PeerId>,
    /// Whole views that are being told, with who was in them so far.
    whole_views: BTreeMap<CommunityTag, BTreeSet<PeerId>>,
    by_static: BTreeMap<PublicKey, PeerId>,
    by_member: BTreeMap<MemberId, PeerId>,
    by_name: BTreeMap<Name, PeerId>,
    table: Table,
    own_addresses: Vec<Prefix>,
    indices: BTreeMap<u32, PeerId>,
    deadlines: BTreeSet<(Instant, PeerId)>,
    housekeeping: Option<Instant>,
    /// How often peers are still to be told our newest statements.
    repeats: u8,
    /// When the next time is.
    repeat_at: Instant,

    counter: u64,
    reserved: u64,
    accepted: BTreeMap<PublicKey, u64>,
    seen: Seen<[u8; MAC_LEN]>,
    sources: Buckets<u128>,
    callers: Buckets<(u128, PublicKey)>,
    refusals: Buckets<()>,
    jar: Jar,
    answered: Seen<[u8; 12]>,
    seen_questions: Seen<[u8; MAC_LEN]>,
    asked: BTreeMap<[u8; 12], asking::Asked>,
    seeking: seeking::Seeking,
    /// Receiver indices that others use at the same port.
    avoided: BTreeSet<u32>,
    /// Probes on behalf of people, which wait for a session.
    pings: Vec<(PeerId, [u8; 8])>,

    salt: [u8; 4],
    counts: Counts,
    transmits: VecDeque<Transmit>,
    persists: VecDeque<Persist>,
    events: VecDeque<Event>,
    forked: bool,
}

impl Node {
    /// Makes a node at `now`.
    #[must_use]
    pub fn new(config: Config, mut entropy: Box<dyn Entropy + Send>, now: Instant) -> Self {
        let own = *config.keys.public();
        let jar = Jar::new(config.may_ask_cookie, now, &mut *entropy);
        let salt = entropy.salt();
        let mut answered = Seen::new(1024);
        config.answered.iter().for_each(|nonce| {
            answered.insert(*nonce);
        });
        let mut node = Self {
            keys: config.keys,
            name: config.name,
            membership: Membership::new(config.authority, own, config.freshness, (now, config.time)),
            suites: config.suites,
            preferred: config.preferred,
            lanes: config.lanes.clamp(1, crate::handshake::payload::MAX_LANES),
            exclude: config.exclude,
            roaming: config.roaming,
            port: config.port,
            entropy,
            peers: Vec::new(),
            free: Vec::new(),
            whole_views: BTreeMap::new(),
            by_static: BTreeMap::new(),
            by_member: BTreeMap::new(),
            by_name: BTreeMap::new(),
            table: Table::default(),
            own_addresses: Vec::new(),
            indices: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            housekeeping: None,
            repeats: 0,
            repeat_at: now,
            counter: config.counter.max(1),
            reserved: config.counter.max(1),
            accepted: config.accepted.into_iter().collect(),
            seen: Seen::new(8192),
            sources: Buckets::new(50, 50, 4096),
            callers: Buckets::new(4, 8, 4096),
            refusals: Buckets::new(1000, 1000, 1),
            jar,
            answered,
            seen_questions: Seen::new(8192),
            asked: BTreeMap::new(),
            seeking: seeking::Seeking::default(),
            avoided: BTreeSet::new(),
            pings: Vec::new(),
            salt,
            counts: Counts::default(),
            transmits: VecDeque::new(),
            persists: VecDeque::new(),
            events: VecDeque::new(),
            forked: false,
        };
        node.handle_update(config.update, now);
        node.resume(config.resume, now);
        node
    }

    /// Starts a batch: draws the salt that its packets share (WIRE section 5).
    pub fn begin_batch(&mut self) {
        self.salt = self.entropy.salt();
    }

    /// The next datagram to send. Ask after every call that puts something in, and after [`Node::poll_persist`].
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next record to store, before anything is sent.
    pub fn poll_persist(&mut self) -> Option<Persist> {
        self.persists.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Node::handle_timeout`] wants to be called, and for what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let peer = self.deadlines.first().map(|(at, _)| (*at, "peer"));
        let house = self.housekeeping.map(|at| (at, "housekeeping"));
        match (peer, house) {
            (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
            (a, b) => a.or(b),
        }
    }

    /// Protocol time at `now`.
    #[must_use]
    pub fn time(&self, now: Instant) -> UnixTime {
        self.membership.time(now)
    }

    /// Of the revocations that are known.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.membership.known().1
    }

    /// Who is refused, as it was told last.
    #[must_use]
    pub fn revocations(&self) -> Option<&Signed<Revocations>> {
        self.membership.difference().0
    }

    /// Whether this node itself is among those who are refused.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.membership.is_revoked(self.keys.public())
    }

    /// This node's static key.
    #[must_use]
    pub fn static_key(&self) -> &PublicKey {
        self.keys.public()
    }

    /// Counts since the node was made.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The machine was forked or restored: every session and key goes, now (DESIGN: coming back). What re-admits it is the
    /// template's choice, and needs a new bundle.
    pub fn handle_fork(&mut self) {
        for id in 0..self.peers.len() {
            self.end_peer(id, false);
        }
        self.membership.erase();
        self.keys = KeyPair::generate(&mut *self.entropy);
        self.forked = true;
        self.transmits.clear();
        self.events.push_back(Event::Alarm(Alarm::Forked));
    }

    /// Whether a receiver index names something here.
    #[must_use]
    pub fn holds_index(&self, index: u32) -> bool {
        self.indices.contains_key(&index)
    }

    /// Indices that others use at the same port from now on ([`crate::bootstrap::Door::indices`]): none of them is drawn.
    pub fn avoid_indices(&mut self, others: impl IntoIterator<Item = u32>) {
        self.avoided.clear();
        self.avoided.extend(others);
    }

    fn dropped(&mut self, reason: DropReason) -> Outcome {
        self.counts.drops.count(reason);
        Outcome::Dropped(reason)
    }

    /// A receiver index that is in no other use: random, not zero.
    fn fresh_index(&mut self, id: PeerId) -> u32 {
        loop {
            let mut bytes = [0; 4];
            self.entropy.fill(&mut bytes);
            let index = u32::from_be_bytes(bytes);
            if index != 0 && !self.indices.contains_key(&index) && !self.avoided.contains(&index) {
                self.indices.insert(index, id);
                return index;
            }
        }
    }

    fn next_counter(&mut self) -> u64 {
        if self.counter >= self.reserved {
            self.reserved = self.counter + COUNTER_BLOCK;
            self.persists.push_back(Persist::Counter(self.reserved));
        }
        let counter = self.counter;
        self.counter += 1;
        counter
    }

    fn transmit(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        self.transmits.push_back(Transmit { to, bytes });
    }
}

#[cfg(test)]
mod tests;
