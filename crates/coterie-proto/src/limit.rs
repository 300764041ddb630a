//! Bounded memories against floods and replays: token buckets and seen-sets. None grows with what strangers send.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use coterie_model::Instant;

/// A set of token buckets by key, bounded in number: when it is full, the bucket that was idle longest makes room.
#[derive(Debug)]
pub struct Buckets<K> {
    per_second: u32,
    burst: u32,
    capacity: usize,
    buckets: BTreeMap<K, Bucket>,
    /// Order of last use, for eviction.
    by_age: BTreeSet<(Instant, K)>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Tokens in millionths.
    tokens: u64,
    last: Instant,
}

const MILLION: u64 = 1_000_000;

impl<K: Ord + Copy> Buckets<K> {
    /// Buckets that refill at `per_second` up to `burst`; at most `capacity` are remembered.
    #[must_use]
    pub fn new(per_second: u32, burst: u32, capacity: usize) -> Self {
        Self {
            per_second,
            burst,
            capacity,
            buckets: BTreeMap::new(),
            by_age: BTreeSet::new(),
        }
    }

    /// Takes one token of `key`'s bucket; false when there is none.
    pub fn allow(&mut self, key: K, now: Instant) -> bool {
        let full = u64::from(self.burst) * MILLION;
        let mut bucket = match self.buckets.remove(&key) {
            Some(b) => {
                self.by_age.remove(&(b.last, key));
                b
            }
            None => {
                if self.buckets.len() >= self.capacity
                    && let Some((_, oldest)) = self.by_age.pop_first()
                {
                    self.buckets.remove(&oldest);
                }
                Bucket {
                    tokens: full,
                    last: now,
                }
            }
        };
        let gained = u64::try_from(now.since(bucket.last).as_micros()).unwrap_or(u64::MAX);
        bucket.tokens = bucket
            .tokens
            .saturating_add(gained.saturating_mul(u64::from(self.per_second)))
            .min(full);
        bucket.last = now;
        let allowed = bucket.tokens >= MILLION;
        if allowed {
            bucket.tokens -= MILLION;
        }
        self.buckets.insert(key, bucket);
        self.by_age.insert((now, key));
        allowed
    }
}

/// The part of an address that one source controls: an IPv4 address, or an IPv6 /64.
#[must_use]
pub fn source_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
        IpAddr::V6(a) => match a.to_ipv4_mapped() {
            Some(v4) => v4.to_ipv6_mapped().to_bits(),
            None => a.to_bits() & !u128::from(u64::MAX),
        },
    }
}

/// The last values that were accepted: a bounded set, oldest out first.
#[derive(Debug)]
pub struct Seen<T> {
    capacity: usize,
    set: BTreeSet<T>,
    order: VecDeque<T>,
}

impl<T: Ord + Copy> Seen<T> {
    /// Remembers at most `capacity` values.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            set: BTreeSet::new(),
            order: VecDeque::new(),
        }
    }

    /// How many values are remembered now.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.order.len()
    }

    /// Remembers `value`; false when it was there already.
    pub fn insert(&mut self, value: T) -> bool {
        if !self.set.insert(value) {
            return false;
        }
        self.order.push_back(value);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut b = Buckets::new(4, 8, 10);
        let start = Instant::from_nanos(1);
        let taken = (0..20).filter(|_| b.allow(1u8, start)).count();
        assert_eq!(taken, 8);
        let taken = (0..20).filter(|_| b.allow(1, start + Duration::from_secs(1))).count();
        assert_eq!(taken, 4);
        assert!(b.allow(2, start), "another key has its own");
    }

    #[test]
    fn buckets_are_bounded_and_forget_the_idle_first() {
        let mut b = Buckets::new(1, 1, 2);
        assert!(b.allow(1u8, Instant::from_nanos(1)));
        assert!(b.allow(2, Instant::from_nanos(2)));
        assert!(b.allow(3, Instant::from_nanos(3)), "1 made room");
        assert!(!b.allow(2, Instant::from_nanos(4)), "2 is still known");
        assert_eq!(b.buckets.len(), 2);
        assert_eq!(b.by_age.len(), 2);
    }

    #[test]
    fn seen_is_bounded() {
        let mut s = Seen::new(2);
        assert!(s.insert(1) && s.insert(2));
        assert!(!s.insert(1));
        assert!(s.insert(3));
        assert!(s.insert(1), "1 was the oldest");
    }

    #[test]
    fn an_ipv6_source_is_its_64() {
        let a = source_of("2001:db8::1".parse().unwrap());
        assert_eq!(a, source_of("2001:db8::ffff".parse().unwrap()));
        assert_ne!(a, source_of("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(
            source_of("192.0.2.1".parse().unwrap()),
            source_of("::ffff:192.0.2.1".parse().unwrap())
        );
    }
}
