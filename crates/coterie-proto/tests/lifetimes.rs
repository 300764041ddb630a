//! What a session may outlive, and what it may not.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test of nodes uses a part of it")]
mod world;

use std::time::Duration;

use coterie_model::{CommunityTag, Revocations, Signed};
use coterie_proto::{Config, DropReason, Outcome, Update, membership::Freshness};
use world::{Enclave, HOUR, Wire, outside};

const ALICE: u8 = 1;
const BOB: u8 = 2;

/// A member's configuration where statements of community 1 end at `not_after`.
fn config(enclave: &Enclave, (n, other): (u8, u8), communities: &[u8], not_after: u64) -> Config {
    let mut config = enclave.config(n, communities, &[other]);
    config.update.statements[0] = enclave.statement(n, 1, 1, not_after);
    config.update.directory[0] = enclave.entry(other, communities);
    config.update.directory[0].statements = vec![enclave.statement(other, 1, 1, not_after)];
    config
}

#[test]
fn the_session_before_ends_with_the_statements_of_its_own_community() {
    let enclave = Enclave::new();
    let make = |n, other| {
        let mut config = config(&enclave, (n, other), &[1, 2], 150);
        // No rekey after 100 s uses community 1.
        config.update.manifests[0] = enclave.manifest(1, 1, 0, 100);
        (n, config)
    };
    let mut w = Wire::new(vec![make(ALICE, BOB), make(BOB, ALICE)]);
    w.send(ALICE, BOB, b"first");
    w.advance(Duration::from_secs(110));
    w.path = Box::new(|_| false);
    w.send(ALICE, BOB, b"late");
    w.send(ALICE, BOB, b"too late");
    w.path = Box::new(|_| true);
    let held: Vec<_> = w.log.iter().rev().take(2).map(|d| d.bytes.clone()).collect();
    w.advance(Duration::from_secs(15));
    let tag = |w: &mut Wire| {
        let now = w.now;
        w.host(BOB).node.status(now).peers[0].session.as_ref().map(|s| s.tag)
    };
    assert_eq!(tag(&mut w), Some(CommunityTag([2; 16])), "rekeyed");
    assert_eq!(w.received(BOB).len(), 1);
    assert_eq!(w.inject(outside(ALICE), BOB, &held[1]), Outcome::Delivered);
    w.advance(Duration::from_secs(30));
    assert_eq!(tag(&mut w), Some(CommunityTag([2; 16])), "goes on");
    assert_eq!(
        w.inject(outside(ALICE), BOB, &held[0]),
        Outcome::Dropped(DropReason::UnknownIndex)
    );
}

#[test]
fn a_session_ends_with_the_statements_also_for_who_only_listens() {
    let enclave = Enclave::new();
    let mut w = Wire::new(vec![
        (ALICE, config(&enclave, (ALICE, BOB), &[1], HOUR)),
        (BOB, config(&enclave, (BOB, ALICE), &[1], 60)),
    ]);
    // Bob keeps house when there is nothing to keep, and again when something comes.
    w.advance(Duration::from_secs(5));
    w.send(ALICE, BOB, b"first");
    assert!(w.has_session(BOB, ALICE));
    w.path = Box::new(|_| false);
    w.advance(Duration::from_secs(54));
    assert!(w.has_session(BOB, ALICE));
    w.advance(Duration::from_secs(3));
    assert!(!w.has_session(BOB, ALICE), "its own statement has ended");
}

#[test]
fn a_newer_statement_is_said_again_where_it_was_lost() {
    let enclave = Enclave::new();
    let mut w = Wire::new(vec![
        (ALICE, config(&enclave, (ALICE, BOB), &[1], 60)),
        (BOB, config(&enclave, (BOB, ALICE), &[1], 60)),
    ]);
    w.send(ALICE, BOB, b"first");
    w.advance(Duration::from_secs(30));
    w.path = Box::new(|_| false);
    for n in [ALICE, BOB] {
        let newer = Update {
            statements: vec![enclave.statement(n, 1, 2, HOUR)],
            ..Update::default()
        };
        let now = w.now;
        w.host(n).node.handle_update(newer, now);
    }
    w.settle();
    w.path = Box::new(|_| true);
    w.advance(Duration::from_secs(60));
    assert!(w.has_session(ALICE, BOB) && w.has_session(BOB, ALICE));
    let calls = w.log.iter().filter(|d| d.bytes[0] == 1).count();
    assert_eq!(calls, 1, "it is the first session still");
    let told = w.log.len();
    w.advance(Duration::from_secs(10));
    assert_eq!(w.log.len(), told, "and said no more than a few times");
}

#[test]
fn an_old_head_that_a_peer_gives_sets_nobodys_clock_back() {
    let enclave = Enclave::new();
    let make = |n, other| {
        let mut config = enclave.config(n, &[1], &[other]);
        config.freshness = Freshness::Heads;
        (n, config)
    };
    let mut w = Wire::new(vec![make(ALICE, BOB), make(BOB, ALICE)]);
    let told = |w: &mut Wire, n, list: &Signed<Revocations>, time| {
        let now = w.now;
        w.host(n).node.handle_update(enclave.update(list, time), now);
    };
    let time = |w: &mut Wire, n| {
        let now = w.now;
        w.host(n).node.time(now).0
    };
    let (first, second) = (enclave.revocations(1, &[], 0), enclave.revocations(2, &[], 0));
    told(&mut w, ALICE, &first, 100);
    told(&mut w, BOB, &second, 101);
    // The server is gone. What Bob heard of it last is half an hour old when Alice hears of it.
    w.advance(Duration::from_secs(1800));
    w.send(ALICE, BOB, b"x");
    w.advance(Duration::from_secs(5));
    let now = w.now;
    assert_eq!(w.host(ALICE).node.status(now).revision, 2);
    assert_eq!(time(&mut w, ALICE), 1905);
    // From the server itself it is the time.
    told(&mut w, ALICE, &second, 1900);
    assert_eq!(time(&mut w, ALICE), 1900);
}
