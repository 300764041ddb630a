//! Control frames inside a session (WIRE section 6), and the exchange of revisions.

use std::net::SocketAddr;
use std::time::Duration;

use coterie_model::{Era, Instant, Reader, Revision, Unverified, Writer};

use super::{Alarm, Event, Node, Outcome, PeerId};
use crate::{
    DropReason,
    membership::NotLearned,
    wire::{
        control::{Control, DIFFERENCE_CHUNK},
        datagram::{self, Datagram},
    },
};

/// Most bytes of a difference.
const DIFFERENCE_MAX: usize = 65_535;
/// Probes that wait for sessions.
const MAX_PINGS: usize = 64;
/// A peer is asked for, or given, a difference at most so often.
const DIFFERENCE_EVERY: Duration = Duration::from_secs(1);

impl Node {
    /// Takes a frame that came inside the session of `index`.
    pub(super) fn handle_control(
        &mut self,
        (id, index): (PeerId, u32),
        text: &[u8],
        from: SocketAddr,
        now: Instant,
    ) -> Outcome {
        let Ok(frame) = Control::parse(text) else {
            return self.dropped(DropReason::BadControl);
        };
        let taken = match frame {
            Control::Keepalive => Ok(()),
            Control::Probe(token) => {
                self.send_control(id, &Control::ProbeReply(token).to_bytes(), Some(from));
                Ok(())
            }
            Control::ProbeReply(token) => {
                self.take_probe_reply(id, token, from);
                Ok(())
            }
            Control::Close => {
                self.close(id, index);
                Ok(())
            }
            Control::RekeyInitiation(message) => return self.handle_rekey_initiation(id, message, now),
            Control::RekeyResponse(message) => match datagram::parse(message) {
                Ok(Datagram::Response { sender, receiver }) => {
                    return self.handle_response((sender, receiver), message, None, now);
                }
                Ok(_) | Err(_) => Err(DropReason::BadControl),
            },
            Control::RekeyOffer(index, offer) => self
                .expects_incoming(id, index)
                .and_then(|()| self.accept_offer(id, Box::new(*offer), None)),
            Control::RekeyAnswer(index, answer) => self
                .expects_outgoing(id, index)
                .and_then(|()| self.accept_answer(id, answer, true, now)),
            Control::RekeyConfirm(index, wrapped) => self
                .expects_incoming(id, index)
                .and_then(|()| self.accept_confirm(id, wrapped, true, now)),
            Control::DifferenceRequest(era, revision) => {
                self.give_difference(id, era, revision, now);
                Ok(())
            }
            Control::Difference {
                transfer,
                offset,
                total,
                bytes,
            } => self.take_difference(id, (transfer, offset, total), bytes, now),
            Control::Statement(bytes) => self.take_statement(id, bytes, now),
            // Members carry nothing for each other: this is a visitor's, at a door.
            Control::Carry { .. } | Control::Carried(_) => Err(DropReason::Unexpected),
        };
        match taken {
            Ok(()) => {
                self.counts.handled += 1;
                Outcome::Handled
            }
            Err(reason) => self.dropped(reason),
        }
    }

    fn expects_incoming(&self, id: PeerId, index: u32) -> Result<(), DropReason> {
        let incoming = self.peers[id].live.as_ref().and_then(|l| l.incoming.as_ref());
        if incoming.is_some_and(|i| i.agreed.local_index == index) {
            Ok(())
        } else {
            Err(DropReason::Unexpected)
        }
    }

    fn expects_outgoing(&self, id: PeerId, index: u32) -> Result<(), DropReason> {
        let outgoing = self.peers[id].live.as_ref().and_then(|l| l.outgoing.as_ref());
        if outgoing.is_some_and(|o| o.local_index() == Some(index)) {
            Ok(())
        } else {
            Err(DropReason::Unexpected)
        }
    }

    /// Makes a session with the member at `destination` if there is none, and probes it: [`Event::Pong`] gives the token back.
    ///
    /// # Errors
    /// Why nothing can be sent there.
    pub fn handle_ping(&mut self, destination: std::net::IpAddr, now: Instant) -> Result<[u8; 8], DropReason> {
        let id = self.table.owner(destination).ok_or(DropReason::NoMember)?;
        let mut token = [0; 8];
        self.entropy.fill(&mut token);
        if self.peers[id].has_session() {
            self.send_control(id, &Control::Probe(token).to_bytes(), None);
            self.watch_for_answer(id, now);
        } else {
            self.want_session(id, now)?;
            // Who gave up waiting does not hold a place for ever.
            if self.pings.len() >= MAX_PINGS {
                self.pings.remove(0);
            }
            self.pings.push((id, token));
        }
        Ok(token)
    }

    /// Sends the probes that waited for a session with `id`.
    pub(super) fn send_pings(&mut self, id: PeerId) {
        let (ready, waiting): (Vec<_>, Vec<_>) = core::mem::take(&mut self.pings)
            .into_iter()
            .partition(|(peer, _)| *peer == id);
        self.pings = waiting;
        for (_, token) in ready {
            self.send_control(id, &Control::Probe(token).to_bytes(), None);
        }
    }

    /// A token came back: if it was a challenge, and from where it was sent to, the peer has moved.
    fn take_probe_reply(&mut self, id: PeerId, token: [u8; 8], from: SocketAddr) {
        self.events.push_back(Event::Pong(token));
        let live = self.peers[id].live();
        live.answered();
        if live.challenge.is_some_and(|(to, sent, _)| to == from && sent == token) {
            live.challenge = None;
            live.endpoint = Some(from);
            let name = self.peers[id].name.clone();
            self.events.push_back(Event::Moved(name, from));
        }
    }

    /// After a handshake: whoever is behind asks (WIRE section 4.3).
    pub(super) fn compare_revisions(&mut self, id: PeerId, era: Era, revision: Revision, now: Instant) {
        let (own_era, own_revision) = self.membership.known();
        if era == own_era && revision > own_revision {
            // Asked for once the session stands: the request is a control frame.
            self.peers[id].live().difference_at = None;
            self.keep_house_by(now);
            self.peers[id].live().difference = None;
            self.peers[id].live().wants_difference = true;
        }
    }

    pub(super) fn request_differences(&mut self, now: Instant) {
        let (era, revision) = self.membership.known();
        let wanting: Vec<PeerId> = (0..self.peers.len())
            .filter(|id| {
                let live = self.peers[*id].live.as_ref();
                live.is_some_and(|l| {
                    l.wants_difference
                        && l.current.is_some()
                        && l.difference_at.is_none_or(|at| now.since(at) >= DIFFERENCE_EVERY)
                })
            })
            .collect();
        for id in wanting {
            self.peers[id].live().difference_at = Some(now);
            self.send_control(id, &Control::DifferenceRequest(era, revision).to_bytes(), None);
        }
    }

    /// True while some peer is known to have newer revocations than ours.
    pub(super) fn wants_difference(&self) -> bool {
        self.peers
            .iter()
            .any(|p| p.live.as_ref().is_some_and(|l| l.wants_difference))
    }

    fn give_difference(&mut self, id: PeerId, era: Era, revision: Revision, now: Instant) {
        let (own_era, own_revision) = self.membership.known();
        let live = self.peers[id].live();
        let due = live.given_at.is_none_or(|at| now.since(at) >= DIFFERENCE_EVERY);
        if era != own_era || revision >= own_revision || !due {
            return;
        }
        live.given_at = Some(now);
        let (revocations, head) = self.membership.difference();
        let mut w = Writer::new();
        w.counted(revocations.map_or(&[], |r| r.bytes()))
            .counted(head.map_or(&[], |h| h.bytes()));
        let whole = w.into_bytes();
        let mut transfer = [0; 4];
        self.entropy.fill(&mut transfer);
        let total = u32::try_from(whole.len()).unwrap_or(u32::MAX);
        for (n, bytes) in whole.chunks(DIFFERENCE_CHUNK).enumerate() {
            let offset = u32::try_from(n * DIFFERENCE_CHUNK).unwrap_or(u32::MAX);
            let frame = Control::Difference {
                transfer: u32::from_be_bytes(transfer),
                offset,
                total,
                bytes,
            };
            self.send_control(id, &frame.to_bytes(), None);
        }
    }

    fn take_difference(
        &mut self,
        id: PeerId,
        (transfer, offset, total): (u32, u32, u32),
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let total = usize::try_from(total)
            .ok()
            .filter(|t| *t <= DIFFERENCE_MAX)
            .ok_or(DropReason::BadControl)?;
        let offset = usize::try_from(offset).map_err(|_range| DropReason::BadControl)?;
        let live = self.peers[id].live();
        if !live.wants_difference {
            return Err(DropReason::Unexpected);
        }
        if offset == 0 {
            live.difference = Some((transfer, total, Vec::new()));
        }
        let Some((current, expected, so_far)) = live.difference.as_mut() else {
            return Err(DropReason::Unexpected);
        };
        if *current != transfer || *expected != total || so_far.len() != offset || offset + bytes.len() > total {
            live.difference = None;
            return Err(DropReason::Unexpected);
        }
        so_far.extend_from_slice(bytes);
        if so_far.len() < total {
            return Ok(());
        }
        let whole = core::mem::take(so_far);
        live.difference = None;
        live.wants_difference = false;
        self.apply_difference(&whole, now)
    }

    fn apply_difference(&mut self, whole: &[u8], now: Instant) -> Result<(), DropReason> {
        let mut r = Reader::new(whole);
        let malformed = |_| DropReason::BadControl;
        let revocations = r.counted(DIFFERENCE_MAX, "revocations").map_err(malformed)?;
        let head = r.counted(DIFFERENCE_MAX, "head").map_err(malformed)?;
        r.finish().map_err(malformed)?;
        if !revocations.is_empty() {
            let list = Unverified::<coterie_model::Revocations>::parse(revocations).map_err(malformed)?;
            // The issuer may have told more while the difference was on its way.
            if list.claimed().revision <= self.membership.known().1 {
                return Ok(());
            }
            self.learn_revocations(list);
        }
        if !head.is_empty() {
            let learned = self
                .membership
                .learn_head(Unverified::parse(head).map_err(malformed)?, now);
            self.report(learned);
        }
        Ok(())
    }

    /// A newer statement of the peer: the session lives on with it.
    fn take_statement(&mut self, id: PeerId, bytes: &[u8], now: Instant) -> Result<(), DropReason> {
        let statement =
            Unverified::<coterie_model::Statement>::parse(bytes).map_err(|_malformed| DropReason::BadControl)?;
        let static_key = self.peers[id].static_key.ok_or(DropReason::Unexpected)?;
        let tag = statement.claimed().tag;
        let statement = self.check_statement(statement, tag, &static_key, now)?;
        self.learn_statement(statement);
        self.reschedule(id);
        Ok(())
    }

    /// Turns a refusal to learn into an alarm where it should wake somebody.
    pub(super) fn report(&mut self, learned: Result<(), NotLearned>) {
        let alarm = match learned {
            Ok(()) | Err(NotLearned::Known | NotLearned::Early) => return,
            Err(NotLearned::Lower) => Alarm::Rollback,
            Err(NotLearned::Foreign) => Alarm::Foreign,
        };
        self.events.push_back(Event::Alarm(alarm));
    }
}
