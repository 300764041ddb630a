//! The views of communities, as a server tells them: in pieces and by changes, community by community.

use std::collections::BTreeSet;

use coterie_model::{CommunityTag, DirectoryEntry, Name};

use super::{Node, PeerId, peer::Peer};
use crate::session::Session;

/// A piece of what the members of a community know of each other.
#[derive(Debug)]
pub struct ViewPiece {
    /// The community.
    pub tag: CommunityTag,
    /// The first piece of a whole view.
    pub begins: bool,
    /// The last piece: who was in none since the first is gone.
    pub ends: bool,
    /// Members, with their statements for this community.
    pub entries: Vec<DirectoryEntry>,
    /// Members that are in it no more.
    pub gone: Vec<Name>,
}

impl Node {
    /// Takes over a piece of a view.
    pub(super) fn learn_view(&mut self, piece: ViewPiece) {
        let tag = piece.tag;
        if piece.begins {
            self.whole_views.insert(tag, BTreeSet::new());
        }
        for entry in piece.entries {
            if entry.name == self.name {
                continue;
            }
            let id = self.learn_member(entry, tag);
            if let Some(seen) = self.whole_views.get_mut(&tag) {
                seen.insert(id);
            }
        }
        for name in &piece.gone {
            if let Some(id) = self.by_name.get(name).copied() {
                self.leaves(id, tag);
            }
        }
        if piece.ends
            && let Some(seen) = self.whole_views.remove(&tag)
        {
            let over: Vec<PeerId> = (0..self.peers.len())
                .filter(|id| self.peers[*id].in_community(tag) && !seen.contains(id))
                .collect();
            over.into_iter().for_each(|id| self.leaves(id, tag));
        }
    }

    /// What is told of a member in one community; what is known of it in others stays.
    fn learn_member(&mut self, entry: DirectoryEntry, tag: CommunityTag) -> PeerId {
        let id = self.peer_named(&entry.name);
        for prefix in &entry.addresses {
            self.table.insert(*prefix, id);
        }
        self.follow_endpoints(id, &entry.endpoints);
        let peer = &mut self.peers[id];
        if !peer.communities.contains(&tag) {
            peer.communities.reserve_exact(1);
            peer.communities.push(tag);
        }
        peer.endpoints = entry.endpoints;
        peer.addresses = entry.addresses;
        for statement in entry.statements {
            let authority = self.membership.authority();
            if (statement.era, statement.enclave, statement.tag) == (authority.era, authority.enclave, tag) {
                self.learn_statement(statement);
            }
        }
        id
    }

    /// A member is in a community no more: sessions that it admitted end, and who is in none is forgotten.
    fn leaves(&mut self, id: PeerId, tag: CommunityTag) {
        let peer = &mut self.peers[id];
        peer.communities.retain(|other| *other != tag);
        // Whoever was not told yet, or was ended and goes on, has its statement still: it does not come back with that.
        if let Some(statement) = peer.statement(tag) {
            self.membership.end_serial(statement);
        }
        peer.statements.retain(|s| s.tag != tag);
        let nothing_left = peer.communities.is_empty() && peer.statements.is_empty();
        let admitted = |session: &Option<Session>| session.as_ref().is_some_and(|s| s.origin.tag == tag);
        let (current, previous) = peer.live.as_ref().map_or((false, false), |live| {
            (admitted(&live.current), admitted(&live.previous))
        });
        if nothing_left {
            self.forget(id);
        } else if current {
            self.end_peer(id, true);
        } else if previous {
            self.end_previous(id);
        }
    }

    /// Nothing is left of a member; its place is another's.
    pub(super) fn forget(&mut self, id: PeerId) {
        self.end_peer(id, true);
        let peer = core::mem::replace(&mut self.peers[id], Peer::new(self.name.clone()));
        self.by_name.remove(&peer.name);
        if let Some(static_key) = peer.static_key {
            self.by_static.remove(&static_key);
        }
        if let Some(member) = peer.member {
            self.by_member.remove(&member);
        }
        self.table.remove(id);
        self.pings.retain(|(waiting, _)| *waiting != id);
        self.asked.retain(|_, asked| asked.id != id);
        for seen in self.whole_views.values_mut() {
            seen.remove(&id);
        }
        self.free.push(id);
    }
}
