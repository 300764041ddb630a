//! No datagram of a handshake, a query or a control frame is larger than an IPv6 path of 1,280 bytes takes, with
//! statements and lists as long as they can be.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test of nodes uses a part of it")]
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use coterie_model::{Signed, Unverified};
use coterie_proto::{Update, wire::MAX_CONTROL_DATAGRAM};
use world::{Enclave, HOUR, Wire, others};

/// Bytes that sealing adds to a frame.
const SEAL: usize = 32;

#[test]
fn nothing_but_packets_is_larger_than_1232() {
    let e = Enclave {
        long: true,
        ..Enclave::new()
    };
    let mut configs: Vec<_> = (1..=3u8).map(|n| (n, e.config(n, &[1], &others(n, 3)))).collect();
    // Member 1 has to ask for 3, and 2 has the longest list of revocations.
    configs[0].1.update.directory[1].statements.clear();
    let list = e.revocations(1, &[], 900);
    configs[1].1.update.revocations = Some(Unverified::parse(list.bytes()).unwrap());
    configs[1].1.update.head = Some(Unverified::parse(e.head(&list, 1).bytes()).unwrap());
    let mut w = Wire::new(configs);
    w.send(1, 2, b"hello");
    w.send(1, 3, b"who are you");
    // Long enough for a rekey by the initiator, and for the difference.
    for _ in 0..140 {
        w.advance(Duration::from_secs(1));
        w.send(1, 2, b"tick");
    }
    let now = w.now;
    assert_eq!(w.host(1).node.status(now).revision, 1, "the difference arrived");
    assert!(w.host(1).node.counts().initiated >= 2, "a rekey happened");
    let newer: Signed<_> = e.statement(1, 1, 2, 2 * HOUR);
    let statement_len = newer.bytes().len();
    w.host(1).node.handle_update(
        Update {
            statements: vec![newer],
            ..Update::default()
        },
        now,
    );
    w.host(1).node.shut_down();
    w.settle();

    let mut sizes: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
    for datagram in &w.log {
        sizes.entry(datagram.bytes[0]).or_default().push(datagram.bytes.len());
    }
    for kind in [1, 2, 4, 5, 6, 7] {
        let largest = sizes[&kind].iter().max().unwrap();
        assert!(*largest <= MAX_CONTROL_DATAGRAM, "type {kind}: {largest}");
    }
    assert_eq!(sizes[&6], [1200]);
    // Frames by their lengths: difference, rekey offer, answer and confirm, statement, rekey initiation and response.
    let (initiation, response) = (sizes[&1][0], sizes[&2][0]);
    let frames = [
        13 + 1024,
        5 + 1184,
        5 + 1088,
        5 + 40,
        1 + statement_len,
        1 + initiation,
        1 + response,
    ];
    for frame in frames {
        assert!(sizes[&5].contains(&(frame + SEAL)), "frame of {frame}");
    }
    let longest_statement = 1 + 8 + 3 * 16 + 64 + 32 + 1 + (1 + 1 + 4) + 15 * 18 + 8 + 8 + 64;
    assert_eq!(
        statement_len, longest_statement,
        "as long as one gets with an IPv4 address"
    );
}

#[test]
fn a_cookie_has_52_bytes() {
    use coterie_crypto::SeededEntropy;
    use coterie_model::Instant;
    use coterie_proto::handshake::cookie::Jar;
    let mut entropy = SeededEntropy::from_number(1);
    let mut jar = Jar::new(true, Instant::ZERO, &mut entropy);
    let from = world::outside(1);
    let key = Enclave::key(1, 1);
    let datagram = jar.ask(&key, &[1; 32], (1, &[2; 16]), from, Instant::ZERO, &mut entropy);
    assert_eq!(datagram.len(), 52);
}
