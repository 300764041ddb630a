//! New knowledge: from a bundle, from the directory, from what peers staple into handshakes.

use std::net::SocketAddr;

use coterie_crypto::dh::PublicKey;
use coterie_model::{CommunityTag, DirectoryEntry, Instant, Manifest, Revocations, Signed, Statement, Unverified};

use super::{Node, PeerId, Persist, Update, peer::Peer, timers::HOUSEKEEPING};
use crate::{DropReason, membership::NotLearned, session::Session};

/// How often a newer statement is told again: of a million sessions at 30 % loss, two thousand make a new handshake.
const REPEATS: u8 = 4;

impl Node {
    /// Takes over what is newer than what is known; what is lower or foreign raises an alarm and is ignored.
    /// After a fork nothing is taken: what would be told is about an identity that this node no longer has.
    pub fn handle_update(&mut self, update: Update, now: Instant) {
        if self.forked {
            return;
        }
        if let Some(time) = update.time {
            self.membership.not_before(time, now);
        }
        if update.complete {
            self.forget_unnamed(&update);
        }
        // Who is refused, before who is new.
        if let Some(list) = update.revocations {
            self.learn_revocations(list);
        }
        for manifest in update.manifests {
            let learned = self.membership.learn_manifest(manifest);
            // A bundle may be overtaken by what the server told while it was on its way; whether it is old, its serial says.
            if !(update.complete && learned == Err(NotLearned::Lower)) {
                self.report(learned);
            }
        }
        for key in update.keys {
            let learned = self.membership.learn_key(key);
            self.report(learned);
        }
        let mut renewed = false;
        for statement in update.statements {
            let learned = self.membership.learn_own(statement);
            renewed |= learned.is_ok();
            self.report(learned);
        }
        self.own_addresses = self
            .membership
            .own_statements()
            .flat_map(|s| s.addresses.iter().copied())
            .collect();
        self.own_addresses.sort_unstable();
        self.own_addresses.dedup();
        if let Some(exclude) = update.exclude {
            self.exclude = exclude;
        }
        for entry in update.directory {
            self.learn_entry(entry);
        }
        for piece in update.views {
            self.learn_view(piece);
        }
        self.find_sought(now);
        if let Some(head) = update.head {
            let learned = self.membership.learn_pulse(head, now);
            self.report(learned);
        }
        if renewed {
            self.tell_own_statements();
            self.repeats = REPEATS;
            self.repeat_at = now + HOUSEKEEPING;
        }
        self.housekeeping = Some(now);
    }

    /// Takes over all epochs of a community that have not retired, as a server tells them: an older one that is not named has
    /// retired. A newer one came with keys that the server had not told of yet.
    pub fn handle_epochs(&mut self, tag: CommunityTag, manifests: Vec<Signed<Manifest>>, now: Instant) {
        if self.forked {
            return;
        }
        let named: Vec<_> = manifests.iter().map(|manifest| manifest.epoch).collect();
        self.membership.keep_epochs(tag, &named);
        for manifest in manifests.into_iter().filter(|manifest| manifest.tag == tag) {
            let learned = self.membership.learn_manifest(manifest);
            self.report(learned);
        }
        self.housekeeping = Some(now);
    }

    /// Ends what a complete update does not name any more: communities, epochs, and members in communities that are listed.
    fn forget_unnamed(&mut self, update: &Update) {
        let epochs: Vec<_> = update.manifests.iter().map(|m| (m.tag, m.epoch)).collect();
        let tags: Vec<_> = update.statements.iter().map(|s| s.tag).collect();
        self.membership.keep_only(&epochs, &tags);
        // A view that is too large to be sent comes empty; then nothing is known to be over in that community.
        let listed: Vec<_> = tags
            .iter()
            .copied()
            .filter(|tag| update.directory.iter().any(|e| e.communities.contains(tag)))
            .collect();
        for id in 0..self.peers.len() {
            let peer = &mut self.peers[id];
            let still = update.directory.iter().find(|e| e.name == peer.name);
            let over = |tag: &CommunityTag| {
                !tags.contains(tag) || listed.contains(tag) && still.is_none_or(|e| !e.communities.contains(tag))
            };
            peer.communities.retain(|tag| !over(tag));
            // Who was enrolled after the update was made shows its statement again, under a key that only members have.
            peer.statements.retain(|s| !over(&s.tag));
            let ended = |session: &Option<Session>| {
                session
                    .as_ref()
                    .is_some_and(|s| over(&s.origin.tag) && peer.statement(s.origin.tag).is_none())
            };
            let Some(live) = peer.live.as_ref() else { continue };
            let (current, previous) = (ended(&live.current), ended(&live.previous));
            if current {
                self.end_peer(id, true);
            } else if previous {
                self.end_previous(id);
            }
        }
    }

    /// Takes over revocations, and ends what they end.
    pub(super) fn learn_revocations(&mut self, list: Unverified<Revocations>) {
        let learned = self.membership.learn_revocations(list);
        if learned.is_ok()
            && let (Some(list), _) = self.membership.difference()
        {
            self.persists.push_back(Persist::Revocations(Box::new(list.clone())));
        }
        self.report(learned);
        self.drop_revoked();
    }

    fn learn_entry(&mut self, entry: DirectoryEntry) {
        if entry.name == self.name {
            return;
        }
        let id = self.peer_named(&entry.name);
        for prefix in &entry.addresses {
            self.table.insert(*prefix, id);
        }
        let peer = &mut self.peers[id];
        // A member that has left a community still has its old statement, which nothing revokes. What the directory does not
        // list any more is over, unless it was said later than what the directory knows.
        let newest = entry.statements.iter().map(|s| s.serial).max();
        peer.statements
            .retain(|s| entry.communities.contains(&s.tag) || newest.is_some_and(|n| s.serial > n));
        self.follow_endpoints(id, &entry.endpoints);
        let peer = &mut self.peers[id];
        peer.communities = entry.communities;
        peer.endpoints = entry.endpoints;
        peer.addresses = entry.addresses;
        for statement in entry.statements {
            let fits = statement.era == self.membership.authority().era
                && statement.enclave == self.membership.authority().enclave;
            if fits {
                self.learn_statement(statement);
            }
        }
    }

    /// Where peers are not followed when they move, the directory says where they are.
    pub(super) fn follow_endpoints(&mut self, id: PeerId, endpoints: &[SocketAddr]) {
        let peer = &mut self.peers[id];
        if !self.roaming
            && let Some(live) = peer.live.as_mut()
            && !endpoints.is_empty()
            && live.endpoint.is_some_and(|e| !endpoints.contains(&e))
            && endpoints != peer.endpoints
        {
            live.endpoint = None;
        }
    }

    pub(super) fn peer_named(&mut self, name: &coterie_model::Name) -> PeerId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.peers[id] = Peer::new(name.clone());
                id
            }
            None => {
                self.peers.push(Peer::new(name.clone()));
                self.peers.len() - 1
            }
        };
        self.by_name.insert(name.clone(), id);
        id
    }

    /// Checks a statement that a peer shows (WIRE section 3.2, point 10).
    pub(super) fn check_statement(
        &self,
        statement: Unverified<Statement>,
        tag: CommunityTag,
        static_key: &PublicKey,
        now: Instant,
    ) -> Result<Signed<Statement>, DropReason> {
        let id = self.by_member.get(&statement.claimed().member);
        let known = id.and_then(|id| self.peers[*id].statement(tag));
        self.membership.check_statement(statement, tag, static_key, known, now)
    }

    /// Takes over a checked statement of another member; gives its peer. A new enrolment under a known name replaces the
    /// old one.
    pub(super) fn learn_statement(&mut self, statement: Signed<Statement>) -> PeerId {
        let known = self.by_member.get(&statement.member).copied();
        let id = known.unwrap_or_else(|| self.peer_named(&statement.name));
        if self.peers[id].static_key != Some(statement.static_key) {
            // Serials grow with each enrolment of a name: an older one that is still current does not come back.
            if self.peers[id].statements.iter().any(|s| s.serial >= statement.serial) {
                return id;
            }
            self.replace_identity(id, &statement);
        }
        let peer = &mut self.peers[id];
        match peer.statements.iter_mut().find(|s| s.tag == statement.tag) {
            Some(old) if old.serial >= statement.serial => return id,
            Some(old) => *old = statement.into_value(),
            None => {
                // Most members share one community: no room is kept for more.
                peer.statements.reserve_exact(1);
                peer.statements.push(statement.into_value());
            }
        }
        let mut addresses: Vec<_> = peer
            .statements
            .iter()
            .flat_map(|s| s.addresses.iter().copied())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses != peer.addresses {
            self.table.remove(id);
            for prefix in &addresses {
                self.table.insert(*prefix, id);
            }
            self.peers[id].addresses = addresses;
        }
        id
    }

    fn replace_identity(&mut self, id: PeerId, statement: &Statement) {
        if let Some(old) = self.peers[id].static_key {
            self.end_peer(id, false);
            self.by_static.remove(&old);
        }
        let peer = &mut self.peers[id];
        if let Some(old) = peer.member {
            self.by_member.remove(&old);
        }
        peer.statements.clear();
        peer.member = Some(statement.member);
        peer.static_key = Some(statement.static_key);
        self.by_static.insert(statement.static_key, id);
        self.by_member.insert(statement.member, id);
    }

    /// Once a second after an update, a few times: no peer acknowledges it.
    pub(super) fn repeat_own_statements(&mut self, now: Instant) {
        if self.repeats > 0 && self.repeat_at <= now {
            self.repeats -= 1;
            self.repeat_at = now + HOUSEKEEPING;
            self.tell_own_statements();
        }
    }

    /// Live sessions are told our newer statements, so that they live on.
    fn tell_own_statements(&mut self) {
        let sessions: Vec<_> = (0..self.peers.len())
            .filter_map(|id| Some((id, self.peers[id].live.as_ref()?.current.as_ref()?.origin.tag)))
            .collect();
        for (id, tag) in sessions {
            let statement = self
                .membership
                .own_statements()
                .find(|s| s.tag == tag)
                .map(|s| s.bytes().to_vec());
            if let Some(bytes) = statement {
                let text = crate::wire::control::Control::Statement(&bytes).to_bytes();
                self.send_control(id, &text, None);
            }
        }
    }
}
