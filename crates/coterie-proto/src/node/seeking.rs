//! Members that no view names, in communities too large for one: the host asks the server for whoever has an address, and what
//! is sent there waits for the answer.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use coterie_model::{Instant, Prefix};

use super::{Node, Outcome, Ports, timers::HOUSEKEEPING};
use crate::DropReason;

/// How long an answer is waited for.
const WAIT: Duration = Duration::from_secs(3);
/// How long nobody is asked again for an address that nobody has.
const ABSENT: Duration = Duration::from_secs(5);
/// Addresses that are sought or known to be nobody's.
const MAX_SOUGHT: usize = 256;
/// Packets that wait for one address.
const MAX_WAITING: usize = 8;

/// Who is sought.
#[derive(Debug, Default)]
pub(super) struct Seeking {
    /// Where unknown addresses may be members'; empty while there is nobody to ask.
    pools: Vec<Prefix>,
    sought: BTreeMap<IpAddr, Sought>,
    /// To be asked for.
    wanted: VecDeque<IpAddr>,
}

#[derive(Debug)]
enum Sought {
    Asked { at: Instant, waiting: Vec<Vec<u8>> },
    Absent { until: Instant },
}

impl Seeking {
    pub(super) fn len(&self) -> usize {
        self.sought.len()
    }
}

impl Node {
    /// Where members may be that no view names: the host asks for them as [`Node::poll_wanted`] says. No prefix: it has nobody
    /// to ask, and such an address is nobody's.
    pub fn seek_in(&mut self, pools: Vec<Prefix>) {
        self.seeking.pools = pools;
    }

    /// The next address to ask for. What is learnt of its member comes by [`Node::handle_update`], or [`Node::handle_absent`]
    /// says that there is none.
    pub fn poll_wanted(&mut self) -> Option<IpAddr> {
        self.seeking.wanted.pop_front()
    }

    /// Nobody that this node may know has `address`: what waits for it is refused, and for a while nobody is asked again.
    pub fn handle_absent(&mut self, address: IpAddr, now: Instant, ports: &mut impl Ports) {
        let until = now + ABSENT;
        let Some(sought) = self.seeking.sought.get_mut(&address) else {
            return;
        };
        if let Sought::Asked { waiting, .. } = core::mem::replace(sought, Sought::Absent { until }) {
            for packet in waiting {
                self.refuse(&packet, DropReason::NoMember, now, ports);
            }
        }
    }

    /// Takes a packet to an address that is in nobody's entry; gives it back when it is not to wait.
    pub(super) fn seek(&mut self, destination: IpAddr, packet: &[u8], now: Instant) -> Option<Outcome> {
        let may_be = self.seeking.pools.iter().any(|pool| pool.contains(destination));
        if !may_be || self.is_own(destination) || !self.is_member(now) {
            return None;
        }
        let full = self.seeking.sought.len() >= MAX_SOUGHT;
        match self.seeking.sought.get_mut(&destination) {
            Some(Sought::Absent { until }) if *until > now => return None,
            Some(Sought::Asked { waiting, .. }) => {
                if waiting.len() >= MAX_WAITING {
                    return Some(self.dropped(DropReason::QueueFull));
                }
                waiting.push(packet.to_vec());
            }
            None if full => return None,
            Some(Sought::Absent { .. }) | None => {
                let waiting = vec![packet.to_vec()];
                self.seeking
                    .sought
                    .insert(destination, Sought::Asked { at: now, waiting });
                self.seeking.wanted.push_back(destination);
            }
        }
        self.counts.queued += 1;
        self.keep_house_by(now + HOUSEKEEPING);
        Some(Outcome::Queued)
    }

    fn is_member(&self, now: Instant) -> bool {
        let mut own = self.membership.own_statements();
        own.any(|s| self.membership.own_statement(s.tag, now).is_some())
    }

    /// What waited for members that are known now waits for their sessions.
    pub(super) fn find_sought(&mut self, now: Instant) {
        let found = |(address, _): (&IpAddr, &Sought)| Some((*address, self.table.owner(*address)?));
        let found: Vec<_> = self.seeking.sought.iter().filter_map(found).collect();
        for (address, id) in found {
            let Some(Sought::Asked { waiting, .. }) = self.seeking.sought.remove(&address) else {
                continue;
            };
            if self.want_session(id, now).is_err() {
                // The program sends again, and is told why then.
                self.counts.drops.count(DropReason::NoCommonCommunity);
                continue;
            }
            let live = self.peers[id].live();
            live.waiting_since.get_or_insert(now);
            live.queue.extend(waiting);
        }
    }

    /// Questions without an answer, and answers that are old.
    pub(super) fn forget_sought(&mut self, now: Instant, ports: &mut impl Ports) {
        let unanswered = |(address, sought): (&IpAddr, &Sought)| match sought {
            Sought::Asked { at, .. } if now.since(*at) >= WAIT => Some(*address),
            Sought::Asked { .. } | Sought::Absent { .. } => None,
        };
        let unanswered: Vec<_> = self.seeking.sought.iter().filter_map(unanswered).collect();
        for address in unanswered {
            self.handle_absent(address, now, ports);
        }
        self.seeking
            .sought
            .retain(|_, sought| !matches!(sought, Sought::Absent { until } if *until <= now));
    }
}
