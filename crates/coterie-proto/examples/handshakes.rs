//! How many complete handshakes one core makes in a second, for each side by itself: all five messages, ML-KEM, both
//! statements verified, and the proof under the final keys.
//!
//! ```text
//! cargo run --release -p coterie-proto --example handshakes -- [rounds] [handshakes in a round]
//! ```
//! Prints one JSON object: the median of all rounds in handshakes a second, and every round's seconds.
#![expect(clippy::print_stdout, reason = "a program that prints its result")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a measurement is made with a clock, outside of the core"
)]

use std::time::{Duration, Instant};

use coterie_crypto::{Entropy, Secret, SeededEntropy, aead::Suite, dh::KeyPair, sign::SigningKey};
use coterie_model::{
    Authority, CommunityTag, DirectoryEntry, EnclaveId, EpochKey, EpochKind, Instant as Running, Manifest, MemberId,
    Name, Prefix, Signed, Statement, UnixTime, commitment,
};
use coterie_proto::{Config, Node, Ports, Update, handshake::payload::Suites, membership::Freshness};

/// The hosts' buffers: nothing but control datagrams leaves the nodes here.
struct NoPackets;

impl Ports for NoPackets {
    fn outside(&mut self, _to: std::net::SocketAddr, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        let _sent = fill(&mut vec![0; len]);
    }

    fn inside(&mut self, _packet: &[u8]) {}
}

/// Random enough for a measurement, and as fast as the kernel's generator in bulk.
struct Fast(SeededEntropy, Vec<u8>);

impl Entropy for Fast {
    fn fill(&mut self, out: &mut [u8]) {
        if self.1.len() < out.len() {
            self.1.resize(1 << 14, 0);
            self.0.fill(&mut self.1);
        }
        let rest = self.1.len() - out.len();
        out.copy_from_slice(&self.1[rest..]);
        self.1.truncate(rest);
    }
}

fn private(n: u32) -> Secret<32> {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    Secret::new(bytes)
}

fn address(n: u32) -> std::net::IpAddr {
    let [_, b, c, d] = n.to_be_bytes();
    [10, b, c, d].into()
}

fn name(n: u32) -> Name {
    Name::new(&format!("m{n}")).expect("a letter and digits")
}

struct Site {
    signer: SigningKey,
}

const ENCLAVE: EnclaveId = EnclaveId([7; 16]);
const TAG: CommunityTag = CommunityTag([1; 16]);
/// The one member that all others call.
const RESPONDER: u32 = 0xff_ffff;

impl Site {
    fn statement(&self, n: u32) -> Signed<Statement> {
        let mut member = [0; 16];
        member[..4].copy_from_slice(&n.to_be_bytes());
        let statement = Statement {
            era: 1,
            enclave: ENCLAVE,
            tag: TAG,
            member: MemberId(member),
            name: name(n),
            static_key: *KeyPair::from_private(private(n)).public(),
            addresses: vec![Prefix::host(address(n)).expect("an IPv4 address")],
            serial: 1,
            not_after: UnixTime(1_000_000),
        };
        Signed::sign(statement, &self.signer)
    }

    fn node(&self, n: u32, directory: Vec<DirectoryEntry>) -> Node {
        let key = EpochKey {
            tag: TAG,
            epoch: 1,
            key: Secret::new([5; 32]),
        };
        let authority = Authority {
            era: 1,
            enclave: ENCLAVE,
            name: name(0),
            statement_key: self.signer.verifying_key(),
            not_after: UnixTime(1_000_000),
        };
        let manifest = Manifest {
            era: 1,
            enclave: ENCLAVE,
            tag: TAG,
            name: name(1),
            priority: 1,
            epoch: 1,
            commitment: commitment(TAG, 1, &key.key),
            activates: UnixTime(0),
            retires: UnixTime(1_000_000),
            kind: EpochKind::Scheduled,
            holders: 2,
        };
        let config = Config {
            keys: KeyPair::from_private(private(n)),
            name: name(n),
            authority: Signed::sign(authority, &self.signer),
            freshness: Freshness::Offline,
            time: UnixTime(1),
            suites: Suites::new(&Suite::ALL).expect("three suites"),
            preferred: Suite::Aes256Gcm,
            lanes: 1,
            exclude: vec![],
            roaming: false,
            may_ask_cookie: false,
            port: 4747,
            update: Update {
                manifests: vec![Signed::sign(manifest, &self.signer)],
                keys: vec![key],
                statements: vec![self.statement(n)],
                directory,
                ..Update::default()
            },
            counter: 1,
            accepted: vec![],
            answered: vec![],
            resume: vec![],
        };
        let entropy = Fast(SeededEntropy::from_number(n.into()), vec![]);
        Node::new(config, Box::new(entropy), Running::ZERO)
    }
}

/// Time that each side spent in its node.
#[derive(Default)]
struct Spent {
    initiator: Duration,
    responder: Duration,
}

/// `count` members call one, one after the other; gives the time of both sides.
fn round(site: &Site, count: u32, round: u32) -> Spent {
    let to: std::net::SocketAddr = ([192, 0, 2, 1], 4747).into();
    let entry = DirectoryEntry {
        name: name(RESPONDER),
        communities: vec![TAG],
        addresses: vec![Prefix::host(address(RESPONDER)).expect("an IPv4 address")],
        endpoints: vec![to],
        statements: vec![site.statement(RESPONDER)],
    };
    let mut responder = site.node(RESPONDER, vec![]);
    // Each at an address and a time of its own, so that no bucket is empty.
    let callers: Vec<(u32, Node)> = (0..count)
        .map(|n| {
            (
                1 + round * count + n,
                site.node(1 + round * count + n, vec![entry.clone()]),
            )
        })
        .collect();
    let mut spent = Spent::default();
    for (n, mut initiator) in callers {
        let now = Running::from_nanos(u64::from(n) * 1_000_000);
        let from = std::net::SocketAddr::new(address(n), 4747);
        let start = Instant::now();
        let started = initiator.handle_ping(address(RESPONDER), now);
        spent.initiator += start.elapsed();
        started.expect("a common community");
        loop {
            let start = Instant::now();
            let out: Vec<_> = std::iter::from_fn(|| initiator.poll_transmit()).collect();
            spent.initiator += start.elapsed();
            if out.is_empty() {
                break;
            }
            let start = Instant::now();
            for mut datagram in out {
                responder.handle_outside(&mut datagram.bytes, from, now, &mut NoPackets);
            }
            let back: Vec<_> = std::iter::from_fn(|| responder.poll_transmit()).collect();
            let while_persist = std::iter::from_fn(|| responder.poll_persist()).count();
            spent.responder += start.elapsed();
            assert!(while_persist <= 2, "the counter, and the session");
            let start = Instant::now();
            for mut datagram in back {
                initiator.handle_outside(&mut datagram.bytes, to, now, &mut NoPackets);
            }
            spent.initiator += start.elapsed();
        }
        assert_eq!(initiator.counts().initiated, 1, "a session");
    }
    assert_eq!(responder.counts().responded, u64::from(count));
    spent
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|a| a.parse().expect("a number"));
    let rounds: u32 = numbers.next().unwrap_or(20);
    let count: u32 = numbers.next().unwrap_or(500);
    let site = Site {
        signer: SigningKey::from_seed(Secret::new([9; 32])),
    };
    let _warm = round(&site, count, 0);
    let spent: Vec<Spent> = (1..=rounds).map(|n| round(&site, count, n)).collect();
    let of = |side: fn(&Spent) -> Duration| {
        let mut seconds: Vec<f64> = spent.iter().map(|s| side(s).as_secs_f64()).collect();
        let raw: Vec<String> = seconds.iter().map(|s| format!("{s:.6}")).collect();
        seconds.sort_by(f64::total_cmp);
        let rate = f64::from(count) / seconds[seconds.len() / 2];
        format!("{{\"per_second\":{rate:.0},\"round_seconds\":[{}]}}", raw.join(","))
    };
    println!(
        "{{\"handshakes_in_a_round\":{count},\"initiator\":{},\"responder\":{}}}",
        of(|s| s.initiator),
        of(|s| s.responder)
    );
}
