//! Whatever a stranger on the wire sends: not one datagram comes back, and nothing changes but the counts of drops.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test of nodes uses a part of it")]
mod world;

use std::net::SocketAddr;
use std::time::Duration;

use coterie_crypto::{Entropy, SeededEntropy};
use coterie_proto::Outcome;
use world::{Enclave, Wire, others, outside};

const RANDOM: usize = 100_000;
const MUTATED: usize = 10_000;
const REPLAYED: usize = 10_000;

/// The stranger's dice.
struct Dice(SeededEntropy, Vec<u8>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(SeededEntropy::from_number(seed), vec![])
    }

    fn byte(&mut self) -> u8 {
        if self.1.is_empty() {
            self.1 = vec![0; 1 << 16];
            self.0.fill(&mut self.1);
        }
        self.1.pop().unwrap()
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        let bytes = [(); 4].map(|()| self.byte());
        usize::try_from(u32::from_be_bytes(bytes)).unwrap() % end
    }

    fn source(&mut self) -> SocketAddr {
        match self.below(4) {
            0 => outside(1),
            1 => outside(2),
            2 => SocketAddr::from(([192, 0, 2, self.byte()], 4747)),
            _ => SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, self.byte().into()], 4747)),
        }
    }

    /// A datagram: pure noise, or noise behind a header that looks right.
    fn datagram(&mut self) -> Vec<u8> {
        let len = match self.below(4) {
            0 => self.below(64),
            1 => [52, 64, 108, 168, 1112, 1200, 1208][self.below(7)],
            _ => self.below(1501),
        };
        let mut bytes: Vec<u8> = (0..len).map(|_| self.byte()).collect();
        if self.below(4) > 0 && len >= 8 {
            bytes[0] = u8::try_from(1 + self.below(7)).unwrap();
            if bytes[0] == 4 {
                bytes[1] %= 3;
            }
            let reserved = if bytes[0] == 4 { 2 } else { 1 };
            if bytes[0] != 5 {
                bytes[reserved..4].fill(0);
            }
        }
        bytes
    }

    /// Changes something of a message before its last `spare` bytes.
    fn mutate(&mut self, message: &[u8], spare: usize) -> Vec<u8> {
        let mut bytes = message.to_vec();
        let end = bytes.len() - spare;
        loop {
            match self.below(5) {
                0 => {
                    let at = self.below(end);
                    bytes[at] ^= 1 << self.below(8);
                }
                1 => {
                    let at = self.below(end);
                    bytes[at] = self.byte();
                }
                2 => bytes.truncate(self.below(bytes.len())),
                3 => {
                    for _ in 0..=self.below(32) {
                        let byte = self.byte();
                        bytes.push(byte);
                    }
                }
                _ => {
                    let (at, len) = (self.below(end), 1 + self.below(32));
                    let stop = (at + len).min(end);
                    for byte in &mut bytes[at..stop] {
                        *byte = self.byte();
                    }
                }
            }
            if bytes.len() != message.len() || bytes[..end] != message[..end] {
                return bytes;
            }
            bytes = message.to_vec();
        }
    }
}

/// Members 1 and 2 in a session, 3 that asked for 2 first, 4 that waits for an answer that will never come, 5 a gateway;
/// with one genuine message of every type.
fn world() -> (Wire, Vec<Vec<u8>>) {
    let e = Enclave::new();
    let mut configs: Vec<_> = (1..=5u8).map(|n| (n, e.config(n, &[1], &others(n, 6)))).collect();
    configs[2].1.update.directory[1].statements.clear();
    configs[4].1.may_ask_cookie = true;
    let mut w = Wire::new(configs);
    w.send(1, 2, b"hello");
    w.send(2, 1, b"hello");
    w.send(3, 2, b"who are you");
    w.send(4, 6, b"is anybody there");
    // A gateway under load asks for cookies: here of somebody whose initiations it can verify.
    let initiations = flood(&e, &mut w);
    w.log.retain(|d| d.bytes[0] != 1 || !initiations.contains(&d.bytes));
    w.advance(Duration::from_millis(200));
    let mut messages: Vec<Vec<u8>> = w.log.iter().map(|d| d.bytes.clone()).collect();
    messages.extend(initiations.into_iter().take(2));
    for kind in 1..=7 {
        assert!(messages.iter().any(|m| m[0] == kind), "type {kind}");
    }
    for step in 0..3 {
        assert!(messages.iter().any(|m| m[0] == 4 && m[1] == step), "step {step}");
    }
    (w, messages)
}

/// Initiations of member 1 to the gateway, from many addresses, until it asks for a cookie.
fn flood(e: &Enclave, w: &mut Wire) -> Vec<Vec<u8>> {
    use coterie_proto::handshake::{
        initiator::{Introduction, initiate},
        payload::Suites,
    };
    let (keys, statement) = (world::keys(1), e.statement(1, 1, 1, world::HOUR));
    let me = Introduction {
        keys: &keys,
        lanes: 1,
        suites: Suites::new(&coterie_crypto::aead::Suite::ALL).unwrap(),
        preferred: coterie_crypto::aead::Suite::Aes256Gcm,
        era: 1,
        revision: 0,
        statement: &statement,
    };
    let mut entropy = SeededEntropy::from_number(77);
    let mut sent = vec![];
    for n in 0..1100u16 {
        let numbers = (u32::from(n) + 1, 100 + u64::from(n));
        let gateway = *world::keys(5).public();
        let (_, message) = initiate(me, &Enclave::key(1, 1), &gateway, numbers, None, &mut entropy).unwrap();
        let [high, low] = n.to_be_bytes();
        w.inject(SocketAddr::from(([198, 51, high, low], 4747)), 5, &message);
        sent.push(message);
    }
    sent
}

/// Hands `datagrams` to every node; nothing may come of it.
fn meets_silence(w: &mut Wire, datagrams: impl Iterator<Item = Vec<u8>>, dice: &mut Dice) -> usize {
    let nodes: Vec<u8> = w.hosts.iter().map(|h| h.n).collect();
    let before: Vec<String> = nodes.iter().map(|n| w.observed(*n)).collect();
    let dropped_before: u64 = w.hosts.iter().map(|h| h.node.counts().drops.total()).sum();
    let mut count = 0;
    for bytes in datagrams {
        let from = dice.source();
        for n in &nodes {
            let outcome = w.hand(from, *n, &bytes);
            assert!(
                matches!(outcome, Outcome::Dropped(_)),
                "{outcome:?} by {n} for {bytes:02x?}"
            );
        }
        count += 1;
    }
    for (n, before) in nodes.iter().zip(before) {
        assert_eq!(w.observed(*n), before, "member {n}");
        let host = w.host(*n);
        assert_eq!(host.node.poll_transmit(), None, "member {n} answered");
        assert_eq!(host.node.poll_persist(), None);
        assert_eq!(host.node.poll_event(), None);
        assert!(host.buffers.out.is_empty());
    }
    let dropped: u64 = w.hosts.iter().map(|h| h.node.counts().drops.total()).sum();
    assert_eq!(
        dropped - dropped_before,
        u64::try_from(count * nodes.len()).unwrap(),
        "each one counted"
    );
    count
}

/// Sessions that stood carry on.
fn works_still(w: &mut Wire) {
    for n in 1..=5 {
        w.received(n);
    }
    w.send(1, 2, b"and on");
    w.send(2, 1, b"and on");
    assert_eq!((w.received(2).len(), w.received(1).len()), (1, 1));
}

#[test]
fn random_datagrams() {
    let (mut w, _) = world();
    let (mut dice, mut more) = (Dice::new(1), Dice::new(2));
    let sent = meets_silence(&mut w, (0..RANDOM).map(|_| more.datagram()), &mut dice);
    assert_eq!(sent, RANDOM);
    works_still(&mut w);
}

#[test]
fn mutated_messages_of_every_type() {
    let (mut w, messages) = world();
    let (mut dice, mut more) = (Dice::new(3), Dice::new(4));
    for kind in 1..=7u8 {
        let of_kind: Vec<_> = messages.iter().filter(|m| m[0] == kind).collect();
        // mac2 is nobody's concern who asked for no cookie.
        let spare = if kind <= 2 { 16 } else { 0 };
        let mutated = (0..MUTATED).map(|_| {
            let message = of_kind[more.below(of_kind.len())];
            more.mutate(message, spare)
        });
        let mutated: Vec<_> = mutated.collect();
        assert_eq!(meets_silence(&mut w, mutated.into_iter(), &mut dice), MUTATED);
    }
    works_still(&mut w);
}

#[test]
fn replayed_messages_of_every_type() {
    let (mut w, messages) = world();
    let (mut dice, mut more) = (Dice::new(5), Dice::new(6));
    for kind in 1..=7u8 {
        let of_kind: Vec<_> = messages.iter().filter(|m| m[0] == kind).cloned().collect();
        let replayed: Vec<_> = (0..REPLAYED)
            .map(|_| of_kind[more.below(of_kind.len())].clone())
            .collect();
        assert_eq!(meets_silence(&mut w, replayed.into_iter(), &mut dice), REPLAYED);
    }
    works_still(&mut w);
}
