//! Outside to inside: a datagram's way from its type to a delivered packet.

use std::net::SocketAddr;

use coterie_model::Instant;

use super::{
    Alarm, Event, Node, Outcome, PeerId, Ports,
    state::{Asked, Stage},
};
use crate::{
    DropReason,
    session::{NotOpened, Session},
    wire::{
        control::Control,
        datagram::{self, Datagram, SealedHeader, Step},
        ip,
    },
};

/// Which of a peer's sessions an index names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Current,
    Previous,
    /// Ours, not proved yet.
    Outgoing,
    /// Theirs, not proved yet.
    Incoming,
}

impl Node {
    /// Takes a datagram from the outside; `bytes` is opened in place.
    pub fn handle_outside(
        &mut self,
        bytes: &mut [u8],
        from: SocketAddr,
        now: Instant,
        ports: &mut impl Ports,
    ) -> Outcome {
        match datagram::parse(bytes) {
            Ok(Datagram::Sealed(header)) => self.handle_sealed(header, bytes, from, now, ports),
            Ok(Datagram::Initiation { sender }) => self.handle_initiation(sender, bytes, from, now),
            Ok(Datagram::Response { sender, receiver }) => {
                self.handle_response((sender, receiver), bytes, Some(from), now)
            }
            Ok(Datagram::Cookie { receiver }) => self.handle_cookie(receiver, bytes, now),
            Ok(Datagram::Provisional { step, receiver }) => self.handle_provisional(step, receiver, bytes, from, now),
            Ok(Datagram::Question) => self.handle_question(bytes, from, now),
            Ok(Datagram::Answer) => self.handle_answer(bytes, from, now),
            Err(reason) => self.dropped(reason),
        }
    }

    /// Offer, answer or confirm under provisional keys.
    fn handle_provisional(
        &mut self,
        step: Step,
        receiver: u32,
        bytes: &[u8],
        from: SocketAddr,
        now: Instant,
    ) -> Outcome {
        let taken = self.take_provisional(step, receiver, bytes, from, now);
        match taken {
            Ok(()) => {
                self.counts.handled += 1;
                Outcome::Handled
            }
            Err(reason) => self.dropped(reason),
        }
    }

    fn take_provisional(
        &mut self,
        step: Step,
        receiver: u32,
        bytes: &[u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<(), DropReason> {
        let id = self.indices.get(&receiver).copied().ok_or(DropReason::UnknownIndex)?;
        let live = self.peers[id].live.as_ref().ok_or(DropReason::Unexpected)?;
        let forged = |_refused| DropReason::Forged;
        match step {
            Step::Answer => {
                let Some(Stage::ExpectAnswer { offered, agreed, .. }) = live.outgoing.as_ref().map(|o| &o.stage) else {
                    return Err(DropReason::Unexpected);
                };
                if agreed.local_index != receiver {
                    return Err(DropReason::Unexpected);
                }
                let answer = offered.provisional.open(step, bytes).map_err(forged)?;
                self.accept_answer(id, &answer, false, now)
            }
            Step::Offer | Step::Confirm => {
                let incoming = live.incoming.as_ref().ok_or(DropReason::Unexpected)?;
                if incoming.agreed.local_index != receiver || incoming.in_session {
                    return Err(DropReason::Unexpected);
                }
                let provisional = match &incoming.stage {
                    Asked::ExpectOffer(responded) => &responded.provisional,
                    Asked::ExpectConfirm { answered, .. } => &answered.provisional,
                    Asked::ExpectProof(_) | Asked::Taken => return Err(DropReason::Unexpected),
                };
                if step == Step::Offer {
                    let offer = provisional.open(step, bytes).map_err(forged)?;
                    self.accept_offer(id, offer, Some(from))
                } else {
                    let wrapped = provisional.open(step, bytes).map_err(forged)?;
                    self.accept_confirm(id, &wrapped, false, now)
                }
            }
        }
    }

    /// A packet or control frame under final keys.
    fn handle_sealed(
        &mut self,
        header: SealedHeader,
        bytes: &mut [u8],
        from: SocketAddr,
        now: Instant,
        ports: &mut impl Ports,
    ) -> Outcome {
        let Some(id) = self.indices.get(&header.receiver).copied() else {
            return self.dropped(DropReason::UnknownIndex);
        };
        let Some((slot, session)) = self.session_of(id, header.receiver) else {
            return self.dropped(DropReason::Unexpected);
        };
        let was_unused = !session.used;
        let index = header.receiver;
        let text = match session.open(header, bytes) {
            Ok(text) => text,
            Err(NotOpened::Twin) => return self.drop_twin(id),
            Err(other) => return self.dropped(other.into()),
        };
        match slot {
            Slot::Outgoing => self.promote_outgoing(id, now, ports),
            Slot::Incoming => self.promote_incoming(id, now, ports),
            Slot::Current | Slot::Previous => {}
        }
        // What comes under the session before says nothing about the one that carries what we send.
        self.heard(id, from, slot != Slot::Previous, now);
        let is_control = text.first().is_some_and(|b| *b < 0x10);
        if is_control {
            if was_unused && let Some((_, session)) = self.session_of(id, index) {
                session.used = false;
            }
            return self.handle_control((id, index), text, from, now);
        }
        if was_unused {
            self.reschedule(id);
        }
        self.deliver(id, text, ports)
    }

    fn session_of(&mut self, id: PeerId, index: u32) -> Option<(Slot, &mut Session)> {
        let live = self.peers[id].live.as_mut()?;
        let outgoing = match live.outgoing.as_mut().map(|o| &mut o.stage) {
            Some(Stage::ExpectProof { session, .. }) => Some((Slot::Outgoing, session)),
            _ => None,
        };
        let incoming = match live.incoming.as_mut().map(|i| &mut i.stage) {
            Some(Asked::ExpectProof(session)) => Some((Slot::Incoming, session)),
            _ => None,
        };
        let current = live.current.as_mut().map(|s| (Slot::Current, s));
        let previous = live.previous.as_mut().map(|s| (Slot::Previous, s));
        [current, previous, outgoing, incoming]
            .into_iter()
            .flatten()
            .find(|(_, s)| s.origin.local_index == index)
    }

    /// Step 4 of WIRE 5.1: addresses, then inside.
    fn deliver(&mut self, id: PeerId, text: &[u8], ports: &mut impl Ports) -> Outcome {
        let Ok(packet) = ip::parse(text) else {
            return self.dropped(DropReason::MalformedPacket);
        };
        if packet.len != text.len() {
            return self.dropped(DropReason::MalformedPacket);
        }
        if ip::is_not_unicast(packet.source) || self.table.owner(packet.source) != Some(id) {
            return self.dropped(DropReason::SourceNotTheirs);
        }
        if ip::is_not_unicast(packet.destination) || !self.is_own(packet.destination) {
            return self.dropped(DropReason::DestinationNotOurs);
        }
        ports.inside(text);
        self.counts.delivered += 1;
        self.counts.delivered_bytes += u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.peers[id].live().delivered += 1;
        Outcome::Delivered
    }

    /// An authentic datagram came: the peer is alive, and perhaps elsewhere.
    fn heard(&mut self, id: PeerId, from: SocketAddr, current: bool, now: Instant) {
        let roaming = self.roaming;
        let live = self.peers[id].live();
        // From elsewhere it says nothing about where we send to: only an answer to a probe does.
        if current && live.endpoint.is_none_or(|e| e == from) {
            live.answered();
        }
        if !roaming || live.endpoint == Some(from) || live.endpoint.is_none() {
            return;
        }
        let due = live
            .challenge
            .is_none_or(|(_, _, at)| now.since(at) >= std::time::Duration::from_secs(1));
        if due {
            let mut token = [0; 8];
            self.entropy.fill(&mut token);
            self.peers[id].live().challenge = Some((from, token, now));
            self.send_control(id, &Control::Probe(token).to_bytes(), Some(from));
        }
    }

    /// The sender runs twice: neither twin keeps the session.
    fn drop_twin(&mut self, id: PeerId) -> Outcome {
        let name = self.peers[id].name.clone();
        self.end_peer(id, false);
        self.events.push_back(Event::Alarm(Alarm::Twin(name)));
        self.dropped(DropReason::Replayed)
    }
}
