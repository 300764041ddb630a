//! What a node keeps of one other member: little while it is silent, a box of live state while there is a session or the
//! wish for one.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use coterie_crypto::{aead::Suite, dh::PublicKey};
use coterie_model::{CommunityTag, Epoch, Instant, MemberId, Name, Prefix, Statement};

use super::state::{Incoming, Outgoing};
use crate::{session::Session, wire::datagram::MAC_LEN};

/// Packets that wait for a session with one peer.
pub(super) const QUEUE: usize = 64;

pub(super) struct Peer {
    pub(super) name: Name,
    pub(super) member: Option<MemberId>,
    pub(super) static_key: Option<PublicKey>,
    /// Checked, one for each shared community.
    pub(super) statements: Vec<Statement>,
    /// Shared communities that the directory says it is in.
    pub(super) communities: Vec<CommunityTag>,
    pub(super) addresses: Vec<Prefix>,
    /// Outside addresses of the directory.
    pub(super) endpoints: Vec<SocketAddr>,
    pub(super) live: Option<Box<Live>>,
}

#[derive(Default)]
pub(super) struct Live {
    /// Carries what is sent.
    pub(super) current: Option<Session>,
    /// Still opens what is under way.
    pub(super) previous: Option<Session>,
    /// A handshake of ours.
    pub(super) outgoing: Option<Outgoing>,
    /// A handshake of theirs.
    pub(super) incoming: Option<Incoming>,
    pub(super) queue: VecDeque<Vec<u8>>,
    /// When the queue was last empty and no longer was.
    pub(super) waiting_since: Option<Instant>,
    /// Where authentic packets came from last, or where the handshake went.
    pub(super) endpoint: Option<SocketAddr>,
    /// A new outside address on trial, its token, and when it was sent.
    pub(super) challenge: Option<(SocketAddr, [u8; 8], Instant)>,
    /// The oldest packet sent since something was heard.
    pub(super) unheard_since: Option<Instant>,
    /// When silence is looked at next.
    pub(super) watch_at: Option<Instant>,
    pub(super) silent_probes: u8,
    /// A failed rekey is tried again from here.
    pub(super) rekey_not_before: Option<Instant>,
    /// A cookie for the next initiation, and when it came.
    pub(super) cookie: Option<([u8; MAC_LEN], Instant)>,
    /// A difference that the peer sends us: transfer, total, bytes so far.
    pub(super) difference: Option<(u32, usize, Vec<u8>)>,
    /// The peer has newer revocations than we.
    pub(super) wants_difference: bool,
    /// When the peer was last given a difference.
    pub(super) given_at: Option<Instant>,
    /// When the peer was last asked for a difference.
    pub(super) difference_at: Option<Instant>,
    /// Where the deadline stands in the node's set.
    pub(super) deadline: Option<Instant>,
    pub(super) sent: u64,
    pub(super) delivered: u64,
}

/// What both ends agreed on in messages 1 and 2.
#[derive(Clone, Copy)]
pub(super) struct Agreed {
    pub(super) tag: CommunityTag,
    pub(super) epoch: Epoch,
    pub(super) suite: Suite,
    pub(super) peer_lanes: u8,
    pub(super) local_index: u32,
    pub(super) remote_index: u32,
}

impl Peer {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            member: None,
            static_key: None,
            statements: Vec::new(),
            communities: Vec::new(),
            addresses: Vec::new(),
            endpoints: Vec::new(),
            live: None,
        }
    }

    pub(super) fn live(&mut self) -> &mut Live {
        self.live.get_or_insert_with(Box::default)
    }

    /// The outside address to use.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.live
            .as_ref()
            .and_then(|l| l.endpoint)
            .or_else(|| self.endpoints.first().copied())
    }

    /// The outside address for the `attempt`th try: the one in use first, then those of the directory, in turn.
    pub(super) fn endpoint_for(&self, attempt: usize) -> Option<SocketAddr> {
        let in_use = self.live.as_ref().and_then(|l| l.endpoint);
        let others = self.endpoints.iter().copied().filter(|e| Some(*e) != in_use);
        let all: Vec<SocketAddr> = in_use.into_iter().chain(others).collect();
        all.get(attempt.checked_rem(all.len())?).copied()
    }

    pub(super) fn current(&mut self) -> Option<&mut Session> {
        self.live.as_mut()?.current.as_mut()
    }

    pub(super) fn has_session(&self) -> bool {
        self.live.as_ref().is_some_and(|l| l.current.is_some())
    }

    pub(super) fn statement(&self, tag: CommunityTag) -> Option<&Statement> {
        self.statements.iter().find(|s| s.tag == tag)
    }

    pub(super) fn in_community(&self, tag: CommunityTag) -> bool {
        self.communities.contains(&tag) || self.statement(tag).is_some()
    }
}

impl Live {
    /// What we send arrives, as far as can be known.
    pub(super) fn answered(&mut self) {
        self.unheard_since = None;
        self.silent_probes = 0;
    }

    /// True when nothing would be lost by forgetting it.
    pub(super) fn is_idle(&self) -> bool {
        self.current.is_none()
            && self.previous.is_none()
            && self.outgoing.is_none()
            && self.incoming.is_none()
            && self.queue.is_empty()
    }

    /// The next instant at which this peer needs attention.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let rekey = self.current.as_ref().filter(|_| self.outgoing.is_none()).and_then(|s| {
            let at = self.rekey_not_before.unwrap_or(Instant::ZERO).max(s.rekey_at());
            // Past its rekey time and unused: it wakes nobody until it is used or ends.
            (s.used || s.is_worn()).then_some(at)
        });
        [
            self.current.as_ref().map(Session::ends_at),
            self.previous.as_ref().map(Session::ends_at),
            rekey,
            self.outgoing.as_ref().map(|o| o.retry_at),
            self.incoming.as_ref().map(Incoming::expires_at),
            self.watch_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// How long silence after a packet of ours is normal.
pub(super) const WATCH: Duration = Duration::from_secs(1);
