//! Packets: each is delivered once at most, unaltered, where it was sent to, and only where the model allows it.

use std::collections::BTreeMap;

use super::{Breach, Promise};
use crate::{clock::Moment, packet::Canary};

/// A packet that a program sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The host that sent it.
    pub host: usize,
    /// Its machine.
    pub machine: usize,
    /// Its enrolment.
    pub enrolment: usize,
    /// The machine that has the destination.
    pub to: usize,
    /// When.
    pub at: Moment,
    /// How many instances of the sender have it: more than one when it waited as the machine was forked.
    copies: usize,
    bytes: Vec<u8>,
}

/// Remembers every packet.
#[derive(Debug)]
pub struct DeliveryCheck {
    canary: Canary,
    sent: Vec<Sent>,
    delivered: BTreeMap<(u64, usize), (Moment, usize)>,
}

impl DeliveryCheck {
    /// Nothing was sent yet.
    #[must_use]
    pub const fn new(canary: Canary) -> Self {
        Self {
            canary,
            sent: Vec::new(),
            delivered: BTreeMap::new(),
        }
    }

    /// The number of the next packet.
    #[must_use]
    pub fn next(&self) -> u64 {
        u64::try_from(self.sent.len()).unwrap_or(u64::MAX)
    }

    /// A packet was given to a node.
    pub fn sent(&mut self, (host, machine, enrolment): (usize, usize, usize), to: usize, bytes: Vec<u8>, at: Moment) {
        self.sent.push(Sent {
            host,
            machine,
            enrolment,
            to,
            at,
            copies: 1,
            bytes,
        });
    }

    /// All packets, by number.
    #[must_use]
    pub fn packets(&self) -> &[Sent] {
        &self.sent
    }

    /// A node gave `packet` to the programs of `host`, which is `machine`: the packet, unless it is the node's own error.
    ///
    /// # Errors
    /// Twice, altered, or to somebody else.
    pub fn arrives(
        &mut self,
        host: usize,
        machine: usize,
        packet: &[u8],
        now: Moment,
    ) -> Result<Option<&Sent>, Breach> {
        let breach = |what: String| Err(Breach::new(Promise::Delivery, what));
        let Some(number) = self.canary.number(packet) else {
            let own_error = matches!(
                (packet.first().map(|b| b >> 4), packet.get(9), packet.get(6)),
                (Some(4), Some(1), _) | (Some(6), _, Some(58))
            );
            return if own_error {
                Ok(None)
            } else {
                breach("a packet that nobody sent".into())
            };
        };
        let sent = usize::try_from(number).ok().and_then(|n| self.sent.get(n));
        let Some(sent) = sent.filter(|s| s.bytes == packet) else {
            return breach(format!("packet {number} was altered on its way"));
        };
        if sent.to != machine {
            return breach(format!(
                "packet {number} for machine {} arrived at machine {machine}",
                sent.to
            ));
        }
        let (first, times) = self.delivered.entry((number, host)).or_insert((now, 0));
        *times += 1;
        if *times > sent.copies {
            return breach(format!("packet {number} was delivered twice, first at {first}"));
        }
        Ok(Some(sent))
    }

    /// A host is copied: what has not arrived may be waiting in it, and waits in both from here on.
    pub fn fork(&mut self, host: usize) {
        for (number, sent) in (0..).zip(self.sent.iter_mut()) {
            let arrived = self
                .delivered
                .range((number, 0)..=(number, usize::MAX))
                .next()
                .is_some();
            if sent.host == host && !arrived {
                sent.copies += 1;
            }
        }
    }

    /// When packet `number` was first delivered to any instance of its machine.
    #[must_use]
    pub fn delivered(&self, number: u64) -> Option<Moment> {
        self.delivered
            .range((number, 0)..=(number, usize::MAX))
            .map(|(_, (at, _))| *at)
            .min()
    }

    /// When packet `number` was delivered to `host`.
    #[must_use]
    pub fn delivered_to(&self, number: u64, host: usize) -> Option<Moment> {
        self.delivered.get(&(number, host)).map(|(at, _)| *at)
    }

    /// Packets delivered so far.
    #[must_use]
    pub fn deliveries(&self) -> usize {
        self.delivered.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_altered_and_elsewhere_are_noticed() {
        let canary = Canary([7; 8]);
        let mut c = DeliveryCheck::new(canary);
        let packet = |n| canary.packet(n, "10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 3);
        let now = Moment::START;
        for n in 0..3 {
            c.sent((0, 0, 0), 1, packet(n), now);
        }
        assert!(c.arrives(1, 1, &packet(0), now).unwrap().is_some());
        assert!(c.arrives(1, 1, &packet(0), now).is_err(), "twice");
        assert!(
            c.arrives(2, 1, &packet(0), now).is_ok(),
            "another instance of a fork is another stack"
        );
        let mut altered = packet(1);
        *altered.last_mut().unwrap() ^= 1;
        assert!(c.arrives(1, 1, &altered, now).is_err(), "altered");
        assert!(c.arrives(1, 3, &packet(2), now).is_err(), "elsewhere");
        assert!(c.arrives(1, 1, &packet(9), now).is_err(), "never sent");
        assert!(c.arrives(1, 1, &[0x45; 40], now).is_err(), "nobody's");
    }
}
