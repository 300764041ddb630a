//! The wire between hosts: pure and seeded. It loses, repeats, delays, reorders, damages, and is cut in one direction or both.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::rng::Rng;

/// What the wire does to datagrams. Chances are in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// Datagrams that never arrive.
    pub loss: u64,
    /// Datagrams that arrive twice.
    pub duplicate: u64,
    /// Datagrams that are held back behind later ones.
    pub reorder: u64,
    /// Datagrams of which bits are flipped, bytes cut or added.
    pub corrupt: u64,
    /// How long a datagram takes at least.
    pub delay: Duration,
    /// By how much more it may take.
    pub jitter: Duration,
}

impl Faults {
    /// A good network of one site.
    pub const NONE: Self = Self {
        loss: 0,
        duplicate: 0,
        reorder: 0,
        corrupt: 0,
        delay: Duration::from_micros(150),
        jitter: Duration::from_micros(100),
    };
}

/// Longest extra delay of a datagram that is held back.
pub const HELD_BACK: Duration = Duration::from_secs(2);

/// A datagram's arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// How long it takes.
    pub after: Duration,
    /// What arrives.
    pub bytes: Vec<u8>,
    /// True when it is not what was sent.
    pub damaged: bool,
}

/// The wire. Hosts are numbers here.
#[derive(Debug)]
pub struct Link {
    rng: Rng,
    /// What it does now.
    pub faults: Faults,
    cut: BTreeSet<(usize, usize)>,
}

impl Link {
    /// A wire without faults, whose chances come from `rng`.
    #[must_use]
    pub const fn new(rng: Rng) -> Self {
        Self {
            rng,
            faults: Faults::NONE,
            cut: BTreeSet::new(),
        }
    }

    /// Cuts the way from one host to another, and back unless `one_way`.
    pub fn cut(&mut self, from: usize, to: usize, one_way: bool) {
        self.cut.insert((from, to));
        if !one_way {
            self.cut.insert((to, from));
        }
    }

    /// Mends every cut.
    pub fn mend(&mut self) {
        self.cut.clear();
    }

    /// True when nothing goes from one to the other.
    #[must_use]
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }

    /// What becomes of a datagram: no flight (lost), one, or two.
    pub fn carry(&mut self, from: usize, to: usize, bytes: &[u8]) -> Vec<Flight> {
        if self.is_cut(from, to) || self.rng.chance(self.faults.loss) {
            return Vec::new();
        }
        let copies = if self.rng.chance(self.faults.duplicate) { 2 } else { 1 };
        (0..copies).map(|_| self.flight(bytes)).collect()
    }

    fn flight(&mut self, bytes: &[u8]) -> Flight {
        let mut after = self.faults.delay + self.rng.between(Duration::ZERO, self.faults.jitter);
        if self.rng.chance(self.faults.reorder) {
            after += self.rng.between(Duration::ZERO, HELD_BACK);
        }
        let mut arrives = bytes.to_vec();
        if self.rng.chance(self.faults.corrupt) {
            damage(&mut arrives, &mut self.rng);
        }
        Flight {
            after,
            damaged: arrives != bytes,
            bytes: arrives,
        }
    }
}

/// Flips bits of `bytes`, cuts it or adds to it. Two flips of one bit leave it as it was.
pub fn damage(bytes: &mut Vec<u8>, rng: &mut Rng) {
    match rng.below(8) {
        0 if bytes.len() > 1 => bytes.truncate(rng.index(bytes.len())),
        1 => {
            for _ in 0..=rng.below(16) {
                bytes.push(rng.byte());
            }
        }
        _ => {
            for _ in 0..=rng.below(3) {
                let at = rng.index(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_carries_the_same() {
        let run = || {
            let mut link = Link::new(Rng::new(3));
            link.faults = Faults {
                loss: 300,
                duplicate: 200,
                reorder: 200,
                corrupt: 100,
                ..Faults::NONE
            };
            (0..500u32)
                .map(|n| link.carry(0, 1, &n.to_be_bytes()))
                .collect::<Vec<_>>()
        };
        let flights = run();
        assert_eq!(flights, run());
        let lost = flights.iter().filter(|f| f.is_empty()).count();
        let twice = flights.iter().filter(|f| f.len() == 2).count();
        assert!((100..200).contains(&lost), "{lost}");
        assert!((40..110).contains(&twice), "{twice}");
    }

    #[test]
    fn a_cut_has_a_direction() {
        let mut link = Link::new(Rng::new(3));
        link.cut(0, 1, true);
        assert!(link.carry(0, 1, b"x").is_empty());
        assert_eq!(link.carry(1, 0, b"x").len(), 1);
        link.mend();
        assert_eq!(link.carry(0, 1, b"x").len(), 1);
    }
}
