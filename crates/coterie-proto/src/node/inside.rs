//! Inside to outside: steps 2 to 4 of a packet's way.

use std::net::SocketAddr;

use coterie_model::Instant;

use super::{
    Node, Outcome, PeerId, Ports,
    peer::{QUEUE, WATCH},
    timers::HOUSEKEEPING,
};
use crate::{
    DropReason,
    session::CounterSpent,
    wire::{
        datagram::SEALED_OVERHEAD,
        ip::{self, Refusal},
    },
};

impl Node {
    /// Takes a packet from this machine's stack.
    pub fn handle_inside(&mut self, packet: &[u8], now: Instant, ports: &mut impl Ports) -> Outcome {
        match self.route(packet) {
            Ok((id, len)) => self.send(id, &packet[..len], now, ports),
            Err(DropReason::NoMember) => {
                let sought = ip::parse(packet).ok().and_then(|p| {
                    let (destination, len) = (p.destination, p.len);
                    self.seek(destination, &packet[..len], now)
                });
                sought.unwrap_or_else(|| self.refuse(packet, DropReason::NoMember, now, ports))
            }
            Err(reason) => self.refuse(packet, reason, now, ports),
        }
    }

    /// Step 3: whose the destination is.
    fn route(&mut self, packet: &[u8]) -> Result<(PeerId, usize), DropReason> {
        let p = ip::parse(packet)?;
        if ip::is_not_unicast(p.destination) {
            return Err(DropReason::NotUnicast);
        }
        if !self.is_own(p.source) {
            return Err(DropReason::SourceNotOurs);
        }
        let id = self.table.owner(p.destination).ok_or(DropReason::NoMember)?;
        Ok((id, p.len))
    }

    /// Step 4: seal, or wait for a session.
    fn send(&mut self, id: PeerId, packet: &[u8], now: Instant, ports: &mut impl Ports) -> Outcome {
        if self.peers[id].has_session() {
            let salt = self.salt;
            return match self.seal_to(id, packet, salt, now, ports) {
                Ok(()) => Outcome::Sent,
                Err(CounterSpent) => self.dropped(DropReason::CounterLimit),
            };
        }
        if let Err(reason) = self.want_session(id, now) {
            return self.refuse(packet, reason, now, ports);
        }
        let live = self.peers[id].live();
        if live.queue.is_empty() {
            live.waiting_since = Some(now);
        }
        if live.queue.len() >= QUEUE {
            live.queue.pop_front();
            live.queue.push_back(packet.to_vec());
            self.counts.queued += 1;
            self.counts.drops.count(DropReason::QueueFull);
            return Outcome::Queued;
        }
        live.queue.push_back(packet.to_vec());
        self.counts.queued += 1;
        self.keep_house_by(now + HOUSEKEEPING);
        Outcome::Queued
    }

    /// Seals `text` under the current session of `id`, which has one.
    fn seal_to(
        &mut self,
        id: PeerId,
        text: &[u8],
        salt: [u8; 4],
        now: Instant,
        ports: &mut impl Ports,
    ) -> Result<(), CounterSpent> {
        let peer = &mut self.peers[id];
        let Some(to) = peer.endpoint() else { return Ok(()) };
        let live = peer.live();
        let Some(session) = live.current.as_mut() else {
            return Ok(());
        };
        let was_unused = !session.used;
        let mut sealed = Err(CounterSpent);
        ports.outside(to, text.len() + SEALED_OVERHEAD, |out| {
            sealed = session.seal(0, salt, text, out);
            sealed.is_ok()
        });
        sealed?;
        let worn = session.is_worn();
        live.sent += 1;
        self.counts.sent += 1;
        self.counts.sent_bytes += u64::try_from(text.len()).unwrap_or(u64::MAX);
        let starts_waiting = live.unheard_since.is_none();
        if starts_waiting {
            live.unheard_since = Some(now);
            live.watch_at.get_or_insert(now + WATCH);
        }
        if was_unused || starts_waiting || worn {
            self.reschedule(id);
        }
        Ok(())
    }

    /// Sends what waited, now that there is a session: a batch of its own, with a salt of its own, because the last batch from
    /// inside may be older than a fork.
    pub(super) fn flush_queue(&mut self, id: PeerId, now: Instant, ports: &mut impl Ports) {
        if self.peers[id].live().queue.is_empty() {
            return;
        }
        let salt = self.entropy.salt();
        while let Some(packet) = self.peers[id].live().queue.pop_front() {
            if self.seal_to(id, &packet, salt, now, ports).is_err() {
                self.counts.drops.count(DropReason::CounterLimit);
            }
        }
    }

    /// Drops everything that waits for `id`, telling the programs that sent it.
    pub(super) fn refuse_queue(&mut self, id: PeerId, reason: DropReason, now: Instant, ports: &mut impl Ports) {
        while let Some(packet) = self.peers[id].live().queue.pop_front() {
            self.refuse(&packet, reason, now, ports);
        }
    }

    /// Counts a drop and tells this machine's own program at once why; the wire stays silent.
    pub(super) fn refuse(
        &mut self,
        packet: &[u8],
        reason: DropReason,
        now: Instant,
        ports: &mut impl Ports,
    ) -> Outcome {
        use DropReason::{MembershipEnded, NoAnswer, NoCommonCommunity, NoEndpoint, NoMember, Revoked};
        let refusal = if matches!(reason, NoMember | NoCommonCommunity | MembershipEnded | Revoked) {
            Some(Refusal::Prohibited)
        } else {
            matches!(reason, NoEndpoint | NoAnswer).then_some(Refusal::Unreachable)
        };
        if let Some(refusal) = refusal
            && self.refusals.allow((), now)
            && let Some(icmp) = ip::refusal(packet, refusal)
        {
            ports.inside(&icmp);
        }
        self.dropped(reason)
    }

    pub(super) fn is_own(&self, addr: std::net::IpAddr) -> bool {
        self.own_addresses.iter().any(|p| p.contains(addr))
    }

    /// Sends a control text under the current session of `id`, if there is one, to its endpoint or to `to`.
    pub(super) fn send_control(&mut self, id: PeerId, text: &[u8], to: Option<SocketAddr>) {
        let salt = self.entropy.salt();
        let peer = &mut self.peers[id];
        let Some(to) = to.or_else(|| peer.endpoint()) else {
            return;
        };
        let Some(session) = peer.current() else { return };
        let used = session.used;
        let mut bytes = vec![0; text.len() + SEALED_OVERHEAD];
        if session.seal(0, salt, text, &mut bytes).is_ok() {
            // Control frames keep no session alive: only packets make it worth replacing.
            session.used = used;
            self.transmit(to, bytes);
        }
    }
}
