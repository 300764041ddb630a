//! What a member, a member that was removed, and somebody on the wire can do to others: nothing that lasts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test of nodes uses a part of it")]
mod world;

use coterie_model::{CommunityTag, UnixTime};
use coterie_proto::{DropReason, Outcome, Update};
use world::{Enclave, HOUR, Wire, inside, outside};

const ALICE: u8 = 1;
const BOB: u8 = 2;
const CAROL: u8 = 3;

/// All that a bundle of `n` would say in a second epoch, with `others` in it.
fn second_bundle(enclave: &Enclave, n: u8, others: &[u8]) -> Update {
    Update {
        manifests: vec![enclave.manifest(1, 2, 0, 100 * HOUR)],
        keys: vec![Enclave::key(1, 2)],
        statements: vec![enclave.statement(n, 1, 2, HOUR)],
        directory: others.iter().map(|o| enclave.entry(*o, &[1])).collect(),
        complete: true,
        time: Some(UnixTime(1)),
        ..Update::default()
    }
}

#[test]
fn a_member_that_a_new_bundle_leaves_out_is_out_at_once() {
    let enclave = Enclave::new();
    let mut configs: Vec<_> = [ALICE, BOB, CAROL]
        .map(|n| (n, enclave.config(n, &[1], &world::others(n, 3))))
        .into();
    // Serials grow for each name by itself: hers is far ahead, which proves nothing.
    configs[2].1.update.statements = vec![enclave.statement(CAROL, 1, 9, HOUR)];
    let mut w = Wire::new(configs);
    w.send(CAROL, ALICE, b"still a member");
    w.send(BOB, ALICE, b"still a member");
    assert_eq!(w.received(ALICE).len(), 2);
    for (n, others) in [(ALICE, [BOB]), (BOB, [ALICE])] {
        let now = w.now;
        w.host(n).node.handle_update(second_bundle(&enclave, n, &others), now);
    }
    w.settle();
    assert!(
        !w.has_session(ALICE, CAROL),
        "the session of the one who is out has ended"
    );
    w.send(CAROL, ALICE, b"let me in");
    w.advance(std::time::Duration::from_secs(15));
    assert!(w.received(ALICE).is_empty());
    assert!(matches!(
        w.send(ALICE, CAROL, b"no"),
        Outcome::Dropped(DropReason::NoCommonCommunity)
    ));
    assert_eq!(w.received(ALICE).len(), 1, "her own program is told");
    w.send(BOB, ALICE, b"goes on");
    w.settle();
    assert_eq!(w.received(ALICE).len(), 1);
}

#[test]
fn a_community_that_a_new_bundle_leaves_out_is_chosen_no_more() {
    let enclave = Enclave::new();
    let configs = vec![
        (ALICE, enclave.config(ALICE, &[1, 2], &[BOB])),
        (BOB, enclave.config(BOB, &[1, 2], &[ALICE])),
    ];
    let mut w = Wire::new(configs);
    let now = w.now;
    w.host(ALICE)
        .node
        .handle_update(second_bundle(&enclave, ALICE, &[BOB]), now);
    let explanation = w.host(ALICE).node.explain(inside(BOB), now);
    let tags: Vec<CommunityTag> = explanation.candidates.iter().map(|(c, _)| c.tag).collect();
    assert_eq!(tags, [CommunityTag([1; 16])]);
}

#[test]
fn copies_of_an_initiation_from_anywhere_do_not_keep_its_maker_out() {
    let mut w = Wire::of(&Enclave::new(), 2);
    w.send(ALICE, BOB, b"first");
    let initiation = w.log[0].bytes.clone();
    for n in 10..200 {
        w.inject(outside(n), BOB, &initiation);
    }
    assert!(w.has_session(BOB, ALICE));
    assert_eq!(w.drops(BOB, DropReason::RateLimited), 0);
    assert_eq!(w.drops(BOB, DropReason::Replayed), 190);
}

#[test]
fn an_offer_is_answered_to_nobody_but_its_maker() {
    let mut w = Wire::of(&Enclave::new(), 2);
    w.path = Box::new(|d| !(d.bytes[0] == 4 && d.bytes[1] == 2));
    w.send(ALICE, BOB, b"first");
    let offer = w
        .log
        .iter()
        .find(|d| d.bytes[0] == 4 && d.bytes[1] == 0)
        .unwrap()
        .bytes
        .clone();
    let before = w.log.len();
    assert_eq!(
        w.inject(outside(77), BOB, &offer),
        Outcome::Dropped(DropReason::Unexpected)
    );
    assert_eq!(w.log.len(), before, "nothing came back");
    assert_eq!(
        w.inject(outside(ALICE), BOB, &offer),
        Outcome::Handled,
        "the maker is answered again"
    );
}
