//! A sender that runs twice: whoever gets two authentic packets of one counter raises the alarm, or has replaced the session.

use std::collections::{BTreeMap, VecDeque};

use coterie_proto::{
    DropReason, Outcome,
    wire::datagram::{self, Datagram},
};

use super::{Breach, Promise};
use crate::clock::Moment;

/// Packets of a lane that are remembered here: fewer than a node remembers, so that what this knows a node must know.
const MEMORY: usize = 48;

/// A session at its receiver: host, incarnation, index.
type At = (usize, u64, u32);

#[derive(Debug, Clone, Copy)]
struct Opened {
    counter: u64,
    salt: [u8; 4],
    tag: [u8; 16],
}

/// Remembers what each session opened last.
#[derive(Debug, Default)]
pub struct TwinCheck {
    lanes: BTreeMap<(At, u8), VecDeque<Opened>>,
    opened: BTreeMap<At, Moment>,
    /// Colliding authentic packets seen.
    pub collisions: u64,
}

impl TwinCheck {
    /// A datagram was given to a node at `now`. `forked` when a host that runs twice sealed it as
    /// it is, and since when: a session that came about before is the same in both, one that came later is not.
    /// `alarmed` when the node raised the alarm over it.
    ///
    /// # Errors
    /// Two packets of one counter, and nothing came of it.
    pub fn arrived(
        &mut self,
        (host, incarnation): (usize, u64),
        now: Moment,
        bytes: &[u8],
        forked: Option<Moment>,
        (outcome, alarmed): (Outcome, bool),
    ) -> Result<(), Breach> {
        let Ok(Datagram::Sealed(h)) = datagram::parse(bytes) else {
            return Ok(());
        };
        let at = (host, incarnation, h.receiver);
        let tag = bytes.last_chunk().copied().unwrap_or_default();
        let authentic = self
            .opened
            .get(&at)
            .zip(forked)
            .is_some_and(|(opened, forked)| *opened < forked);
        let ring = self.lanes.entry((at, h.lane)).or_default();
        let collides = ring
            .iter()
            .any(|o| o.counter == h.counter && o.tag != tag && o.salt != h.salt);
        if alarmed {
            self.collisions += 1;
            self.forget(at);
            return Ok(());
        }
        match outcome {
            Outcome::Dropped(DropReason::UnknownIndex | DropReason::Unexpected) if collides => self.forget(at),
            Outcome::Dropped(DropReason::Replayed) if collides && authentic => {
                self.collisions += 1;
                let what = format!("host {host} kept a session whose sender runs twice");
                return Err(Breach::new(Promise::Fork, what));
            }
            Outcome::Dropped(
                DropReason::Replayed
                | DropReason::Forged
                | DropReason::UnknownIndex
                | DropReason::Unexpected
                | DropReason::UnknownLane
                | DropReason::CounterLimit,
            ) => {}
            Outcome::Dropped(_) | Outcome::Delivered | Outcome::Handled | Outcome::Sent | Outcome::Queued => {
                self.opened.entry(at).or_insert(now);
                ring.push_back(Opened {
                    counter: h.counter,
                    salt: h.salt,
                    tag,
                });
                if ring.len() > MEMORY {
                    ring.pop_front();
                }
            }
        }
        Ok(())
    }

    /// `twin` has the memory of `host` from here on.
    pub fn fork(&mut self, host: (usize, u64), twin: (usize, u64)) {
        let copies: Vec<_> = self
            .lanes
            .iter()
            .filter(|((at, _), _)| (at.0, at.1) == host)
            .map(|((at, lane), ring)| (((twin.0, twin.1, at.2), *lane), ring.clone()))
            .collect();
        self.lanes.extend(copies);
        let opened: Vec<_> = self
            .opened
            .iter()
            .filter(|(at, _)| (at.0, at.1) == host)
            .map(|(at, t)| ((twin.0, twin.1, at.2), *t))
            .collect();
        self.opened.extend(opened);
    }

    fn forget(&mut self, at: At) {
        self.opened.remove(&at);
        self.lanes.retain(|(of, _), _| *of != at);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coterie_proto::wire::datagram::SealedHeader;

    use super::*;

    #[test]
    fn a_collision_that_nobody_acts_on_is_noticed() {
        let packet = |salt, counter| {
            let mut d = SealedHeader {
                lane: 0,
                receiver: 9,
                salt: [salt; 4],
                counter,
            }
            .to_bytes()
            .to_vec();
            d.extend_from_slice(&[salt; 40]);
            d
        };
        let replayed = (Outcome::Dropped(DropReason::Replayed), false);
        let mut c = TwinCheck::default();
        let moment = |n| Moment::START + Duration::from_millis(n);
        let mut see = |at, d: &[u8], forked, fate| c.arrived((0, 1), moment(at), d, forked, fate);
        let twin = Some(moment(1));
        assert!(see(0, &packet(1, 5), None, (Outcome::Delivered, false)).is_ok());
        assert!(see(1, &packet(1, 5), None, replayed).is_ok(), "a copy");
        assert!(see(2, &packet(3, 5), None, replayed).is_ok(), "a forgery");
        assert!(
            see(3, &packet(2, 5), Some(moment(0)), replayed).is_ok(),
            "forked before the session came about"
        );
        assert!(see(4, &packet(2, 5), twin, replayed).is_err());
        let alarm = (Outcome::Dropped(DropReason::Replayed), true);
        assert!(see(5, &packet(2, 5), twin, alarm).is_ok());
        assert!(
            see(6, &packet(2, 5), twin, replayed).is_ok(),
            "forgotten after the alarm"
        );
    }
}
