//! Direct query (¶39, WIRE section 7): asking a machine that the directory does not know well enough, and answering.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use coterie_model::{CommunityTag, Epoch, Instant};

use super::{Node, Outcome, PeerId, Persist, Ports};
use crate::{DropReason, limit::source_of, query};

/// How long a question waits for its answer.
const WAIT: Duration = Duration::from_secs(3);
/// Questions under way.
const MAX_ASKED: usize = 256;

/// A question under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) id: PeerId,
    tag: CommunityTag,
    epoch: Epoch,
    at: Instant,
}

impl Node {
    /// Asks where `id` might be for its statement. A question that is under way is not repeated.
    pub(super) fn ask_for(&mut self, id: PeerId, tag: CommunityTag, now: Instant) -> Result<(), DropReason> {
        if self.asked.values().any(|a| a.id == id) {
            return Ok(());
        }
        let sought = self.peers[id]
            .addresses
            .first()
            .map(|p| p.addr())
            .ok_or(DropReason::NoMember)?;
        // Its endpoint if one is known; in transparent mode a member's own address is where it is.
        let to = self.peers[id]
            .endpoint()
            .unwrap_or_else(|| SocketAddr::new(sought, self.port));
        let key = self
            .membership
            .initiating_key(tag, now)
            .ok_or(DropReason::NoCommonCommunity)?;
        let own = self
            .membership
            .own_statement(tag, now)
            .ok_or(DropReason::MembershipEnded)?;
        if self.asked.len() >= MAX_ASKED {
            return Err(DropReason::QueueFull);
        }
        let (question, nonce) = query::ask(key, sought, own, &mut *self.entropy);
        self.asked.insert(
            nonce,
            Asked {
                id,
                tag,
                epoch: key.epoch,
                at: now,
            },
        );
        self.transmit(to, question);
        self.keep_house_by(now + WAIT);
        Ok(())
    }

    /// A question came. Answered once for each nonce, to a current member only, never longer than it was.
    pub(super) fn handle_question(&mut self, bytes: &[u8], from: SocketAddr, now: Instant) -> Outcome {
        match self.answer_question(bytes, from, now) {
            Ok(()) => {
                self.counts.handled += 1;
                Outcome::Handled
            }
            Err(reason) => self.dropped(reason),
        }
    }

    fn answer_question(&mut self, bytes: &[u8], from: SocketAddr, now: Instant) -> Result<(), DropReason> {
        let (digest, mac) = query::mac_of(bytes).ok_or(DropReason::BadLength)?;
        let key = self
            .membership
            .verify_query(&digest, &mac, now)
            .ok_or(DropReason::Stranger)?
            .duplicate();
        // Before the source's share is spent: a copy must not cost the asker his.
        if !self.seen_questions.insert(mac) {
            return Err(DropReason::Replayed);
        }
        if !self.sources.allow(source_of(from.ip()), now) {
            return Err(DropReason::RateLimited);
        }
        let question = query::open_question(&key, bytes).map_err(|_refused| DropReason::Forged)?;
        let asker = question.statement.claimed().static_key;
        let own = self
            .membership
            .own_statement(key.tag, now)
            .ok_or(DropReason::MembershipEnded)?;
        if !own.addresses.iter().any(|p| p.contains(question.sought)) {
            return Err(DropReason::DestinationNotOurs);
        }
        // The asker proves nothing by showing a statement: it is checked, and nothing is learnt of it.
        self.check_statement(question.statement, key.tag, &asker, now)?;
        let answer = query::answer(&key, &question.nonce, own, &mut *self.entropy);
        if answer.len() > bytes.len() {
            return Err(DropReason::BadLength);
        }
        if !self.answered.insert(question.nonce) {
            return Err(DropReason::Replayed);
        }
        self.persists.push_back(Persist::Answered(question.nonce));
        self.transmit(from, answer);
        Ok(())
    }

    /// An answer came: the handshake follows.
    pub(super) fn handle_answer(&mut self, bytes: &[u8], from: SocketAddr, now: Instant) -> Outcome {
        match self.take_answer(bytes, from, now) {
            Ok(()) => {
                self.counts.handled += 1;
                Outcome::Handled
            }
            Err(reason) => self.dropped(reason),
        }
    }

    fn take_answer(&mut self, bytes: &[u8], from: SocketAddr, now: Instant) -> Result<(), DropReason> {
        let (digest, mac) = query::mac_of(bytes).ok_or(DropReason::BadLength)?;
        let key = self
            .membership
            .verify_query(&digest, &mac, now)
            .ok_or(DropReason::Stranger)?;
        let answer = query::open_answer(key, bytes).map_err(|_refused| DropReason::Forged)?;
        let (tag, epoch) = (key.tag, key.epoch);
        let asked = self
            .asked
            .get(&answer.question)
            .copied()
            .ok_or(DropReason::Unexpected)?;
        if asked.tag != tag || asked.epoch != epoch {
            return Err(DropReason::Unexpected);
        }
        let claimed = answer.statement.claimed();
        let (static_key, name) = (claimed.static_key, claimed.name.clone());
        let sought: Option<IpAddr> = self.peers[asked.id].addresses.first().map(|p| p.addr());
        let holds = sought.is_some_and(|addr| claimed.addresses.iter().any(|p| p.contains(addr)));
        if !holds || name != self.peers[asked.id].name {
            return Err(DropReason::BadStatement);
        }
        let statement = self.check_statement(answer.statement, tag, &static_key, now)?;
        self.asked.remove(&answer.question);
        let id = self.learn_statement(statement);
        let pinged = self.pings.iter().any(|(peer, _)| *peer == id);
        let live = self.peers[id].live();
        if live.current.is_none() {
            live.endpoint = Some(from);
        }
        if pinged || !live.queue.is_empty() {
            self.want_session(id, now)?;
        }
        Ok(())
    }

    /// Questions without an answer: what waits for them is refused.
    pub(super) fn forget_questions(&mut self, now: Instant, ports: &mut impl Ports) {
        let over: Vec<_> = self
            .asked
            .iter()
            .filter(|(_, a)| now.since(a.at) >= WAIT)
            .map(|(n, a)| (*n, a.id))
            .collect();
        for (nonce, id) in over {
            self.asked.remove(&nonce);
            self.refuse_queue(id, DropReason::NoAnswer, now, ports);
        }
    }
}
