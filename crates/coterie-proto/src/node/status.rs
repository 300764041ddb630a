//! What a node tells about itself: plain values, made when asked for.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use coterie_model::{
    CommunityTag, Epoch, Instant, Name, Prefix, UnixTime,
    choose::{Candidate, Verdict},
};

use super::{Counts, Node};
use crate::DropReason;

/// A node's state.
#[derive(Debug, Clone)]
pub struct Status {
    /// The node's name.
    pub name: Name,
    /// The enclave's name.
    pub enclave: Name,
    /// Its inside addresses.
    pub addresses: Vec<Prefix>,
    /// Protocol time.
    pub time: UnixTime,
    /// True after a fork: keys are gone.
    pub forked: bool,
    /// Revision of the revocations that it knows.
    pub revision: u64,
    /// True while its own key is among those that are refused.
    pub refused: bool,
    /// Its communities.
    pub communities: Vec<CommunityStatus>,
    /// Other members.
    pub peers: Vec<PeerStatus>,
    /// Counts since start.
    pub counts: Counts,
}

/// One community of the node.
#[derive(Debug, Clone)]
pub struct CommunityStatus {
    /// Its id.
    pub tag: CommunityTag,
    /// Its name.
    pub name: Name,
    /// Lower is preferred.
    pub priority: u16,
    /// Holders of the key.
    pub holders: u32,
    /// The epoch that initiations use now, if any.
    pub epoch: Option<Epoch>,
    /// When the node's statement ends.
    pub not_after: UnixTime,
}

/// Another member.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Its name.
    pub name: Name,
    /// Its inside addresses.
    pub addresses: Vec<Prefix>,
    /// Where it is reached.
    pub endpoint: Option<SocketAddr>,
    /// The live session, if there is one.
    pub session: Option<SessionStatus>,
    /// A handshake is under way.
    pub connecting: bool,
    /// Packets sent in live sessions.
    pub sent: u64,
    /// Packets delivered in live sessions.
    pub delivered: u64,
    /// Its static key is revoked.
    pub revoked: bool,
}

/// A live session.
#[derive(Debug, Clone)]
pub struct SessionStatus {
    /// Its community.
    pub tag: CommunityTag,
    /// The epoch that admitted it.
    pub epoch: Epoch,
    /// The suite's name.
    pub suite: &'static str,
    /// Age of its keys.
    pub age: Duration,
    /// True when we made it.
    pub initiator: bool,
}

/// Why a destination is reached as it is: policy and installed state side by side.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The member that has the destination.
    pub peer: Option<Name>,
    /// Shared communities, best first.
    pub candidates: Vec<(Candidate, Verdict)>,
    /// The community of the live session, whose choice holds until rekey.
    pub installed: Option<CommunityTag>,
    /// Why nothing can be sent, if so.
    pub refused: Option<DropReason>,
}

/// How much a node holds, so that whoever runs it can see that none of it grows without bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Members known.
    pub peers: usize,
    /// Members with live state.
    pub live: usize,
    /// Sessions and handshakes of these.
    pub slots: usize,
    /// Receiver indices that name something.
    pub indices: usize,
    /// Deadlines set.
    pub deadlines: usize,
    /// Initiations remembered.
    pub seen: usize,
    /// Questions answered and remembered.
    pub answered: usize,
    /// Questions under way.
    pub asked: usize,
    /// Addresses sought or known to be nobody's.
    pub sought: usize,
    /// Probes on behalf of people that wait for a session.
    pub pings: usize,
}

impl Node {
    /// How much the node holds.
    #[must_use]
    pub fn held(&self) -> Held {
        let live = || self.peers.iter().filter_map(|p| p.live.as_deref());
        let slots = |l: &super::peer::Live| {
            [
                l.current.is_some(),
                l.previous.is_some(),
                l.outgoing.is_some(),
                l.incoming.is_some(),
            ]
            .into_iter()
            .filter(|slot| *slot)
            .count()
        };
        Held {
            peers: self.by_name.len(),
            live: live().count(),
            slots: live().map(slots).sum(),
            indices: self.indices.len(),
            deadlines: self.deadlines.len(),
            seen: self.seen.remembered(),
            answered: self.answered.remembered(),
            asked: self.asked.len(),
            sought: self.seeking.len(),
            pings: self.pings.len(),
        }
    }

    /// The whole state.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let communities = self.membership.own_statements().filter_map(|s| {
            let manifest = self.membership.manifest(s.tag, now)?;
            Some(CommunityStatus {
                tag: s.tag,
                name: manifest.name.clone(),
                priority: manifest.priority,
                holders: manifest.holders,
                epoch: self.membership.initiating_key(s.tag, now).map(|k| k.epoch),
                not_after: s.not_after,
            })
        });
        Status {
            name: self.name.clone(),
            enclave: self.membership.authority().name.clone(),
            addresses: self.own_addresses.clone(),
            time: self.membership.time(now),
            forked: self.forked,
            revision: self.membership.known().1,
            refused: self.is_refused(),
            communities: communities.collect(),
            peers: self.by_name.values().map(|id| self.peer_status(*id, now)).collect(),
            counts: self.counts.clone(),
        }
    }

    fn peer_status(&self, id: usize, now: Instant) -> PeerStatus {
        let peer = &self.peers[id];
        let live = peer.live.as_ref();
        PeerStatus {
            name: peer.name.clone(),
            addresses: peer.addresses.clone(),
            endpoint: peer.endpoint(),
            session: live.and_then(|l| l.current.as_ref()).map(|s| SessionStatus {
                tag: s.origin.tag,
                epoch: s.origin.epoch,
                suite: s.suite.name(),
                age: now.since(s.origin.made),
                initiator: s.origin.initiator,
            }),
            connecting: live.is_some_and(|l| l.outgoing.is_some() || l.incoming.is_some()),
            sent: live.map_or(0, |l| l.sent),
            delivered: live.map_or(0, |l| l.delivered),
            revoked: self.is_refusing(id),
        }
    }

    /// Why `destination` is reached as it is.
    #[must_use]
    pub fn explain(&self, destination: IpAddr, now: Instant) -> Explanation {
        let Some(id) = self.table.owner(destination) else {
            return Explanation {
                peer: None,
                candidates: Vec::new(),
                installed: None,
                refused: Some(DropReason::NoMember),
            };
        };
        Explanation {
            peer: Some(self.peers[id].name.clone()),
            candidates: self.weigh(id, now),
            installed: self.peers[id]
                .live
                .as_ref()
                .and_then(|l| l.current.as_ref())
                .map(|s| s.origin.tag),
            refused: self.choose_for(id, now).err(),
        }
    }

    /// The inside addresses of a member, by name.
    #[must_use]
    pub fn addresses_of(&self, name: &Name) -> Option<&[Prefix]> {
        self.by_name.get(name).map(|id| self.peers[*id].addresses.as_slice())
    }

    /// Packets waiting for sessions.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.peers
            .iter()
            .filter_map(|p| p.live.as_ref())
            .map(|l| l.queue.len())
            .sum()
    }
}
