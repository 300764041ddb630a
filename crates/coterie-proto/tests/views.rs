//! What a server tells of communities' views, piece by piece and change by change.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "each test of nodes uses a part of it")]
mod world;

use std::time::Duration;

use coterie_model::{CommunityTag, Prefix};
use coterie_proto::{DropReason, Event, Node, Outcome, Update, ViewPiece, node::Alarm};
use world::{Enclave, HOUR, Recording, Wire, inside, packet};

const ALICE: u8 = 1;
const BOB: u8 = 2;
const CAROL: u8 = 3;

fn piece(enclave: &Enclave, community: u8, members: &[u8], gone: &[u8]) -> ViewPiece {
    ViewPiece {
        tag: CommunityTag([community; 16]),
        begins: false,
        ends: false,
        entries: members.iter().map(|n| enclave.entry(*n, &[community])).collect(),
        gone: gone.iter().map(|n| enclave.name(*n)).collect(),
    }
}

fn tell(w: &mut Wire, n: u8, pieces: Vec<ViewPiece>) {
    let update = Update {
        views: pieces,
        ..Update::default()
    };
    let now = w.now;
    w.host(n).node.handle_update(update, now);
    w.settle();
}

/// Members of communities 1 and 2 who know nobody yet.
fn strangers(enclave: &Enclave) -> Wire {
    let config = |n| (n, enclave.config(n, &[1, 2], &[]));
    Wire::new([ALICE, BOB, CAROL].map(config).into())
}

fn peers(w: &mut Wire, n: u8) -> Vec<String> {
    let now = w.now;
    let status = w.host(n).node.status(now);
    status.peers.iter().map(|p| p.name.to_string()).collect()
}

#[test]
fn who_joins_is_reached_and_who_leaves_is_not() {
    let enclave = Enclave::new();
    let mut w = strangers(&enclave);
    assert_eq!(w.send(ALICE, BOB, b"x"), Outcome::Dropped(DropReason::NoMember));
    tell(&mut w, ALICE, vec![piece(&enclave, 1, &[ALICE, BOB], &[])]);
    w.send(ALICE, BOB, b"one");
    assert_eq!(w.received(BOB).len(), 1);
    tell(&mut w, ALICE, vec![piece(&enclave, 2, &[BOB], &[])]);
    assert!(w.has_session(ALICE, BOB));
    // The session is of community 1; it ends with it, and the next one is of community 2.
    tell(&mut w, ALICE, vec![piece(&enclave, 1, &[], &[BOB])]);
    assert!(!w.has_session(ALICE, BOB) && !w.has_session(BOB, ALICE));
    w.send(ALICE, BOB, b"two");
    assert_eq!(w.received(BOB).len(), 1);
    tell(&mut w, ALICE, vec![piece(&enclave, 2, &[], &[BOB])]);
    assert!(!w.has_session(ALICE, BOB) && !w.has_session(BOB, ALICE));
    assert_eq!(peers(&mut w, ALICE), [""; 0]);
    assert_eq!(w.send(ALICE, BOB, b"x"), Outcome::Dropped(DropReason::NoMember));
}

#[test]
fn a_whole_view_forgets_whoever_is_in_none_of_its_pieces() {
    let enclave = Enclave::new();
    let mut w = strangers(&enclave);
    tell(&mut w, ALICE, vec![piece(&enclave, 1, &[BOB, CAROL], &[])]);
    let (mut first, mut last) = (piece(&enclave, 1, &[BOB], &[]), piece(&enclave, 1, &[4], &[]));
    first.begins = true;
    last.ends = true;
    tell(&mut w, ALICE, vec![first]);
    assert_eq!(peers(&mut w, ALICE).len(), 2, "not before the last piece");
    // A change comes in between: it counts.
    tell(&mut w, ALICE, vec![piece(&enclave, 1, &[5], &[]), last]);
    assert_eq!(peers(&mut w, ALICE), ["m2", "m4", "m5"]);
    let (mut both, mut other) = (piece(&enclave, 1, &[], &[]), piece(&enclave, 2, &[BOB], &[]));
    (both.begins, both.ends) = (true, true);
    (other.begins, other.ends) = (true, true);
    tell(&mut w, ALICE, vec![other, both]);
    assert_eq!(peers(&mut w, ALICE), ["m2"], "he is in another one");
}

#[test]
fn whoever_left_does_not_come_back_with_the_statement_that_it_had() {
    let enclave = Enclave::new();
    let mut w = strangers(&enclave);
    tell(
        &mut w,
        ALICE,
        vec![piece(&enclave, 1, &[BOB], &[]), piece(&enclave, 2, &[BOB], &[])],
    );
    tell(
        &mut w,
        BOB,
        vec![piece(&enclave, 1, &[ALICE], &[]), piece(&enclave, 2, &[ALICE], &[])],
    );
    tell(&mut w, ALICE, vec![piece(&enclave, 1, &[], &[BOB])]);
    // Bob was not told, and prefers what he is in no more.
    w.send(BOB, ALICE, b"not yet");
    assert_eq!(
        (w.received(ALICE).len(), w.drops(ALICE, DropReason::BadStatement) > 0),
        (0, true)
    );
    w.send(ALICE, BOB, b"by the other one");
    assert_eq!(w.received(BOB).len(), 1);
    // Who is let in again has a newer one.
    let mut again = piece(&enclave, 1, &[BOB], &[]);
    again.entries[0].statements = vec![enclave.statement(BOB, 1, 2, HOUR)];
    tell(&mut w, ALICE, vec![again, piece(&enclave, 2, &[], &[BOB])]);
    let (statement, now) = (enclave.statement(BOB, 1, 2, HOUR), w.now);
    let own = Update {
        statements: vec![statement],
        ..Update::default()
    };
    w.host(BOB).node.handle_update(own, now);
    w.send(ALICE, BOB, b"again");
    assert_eq!(w.received(BOB).len(), 1);
}

/// A piece of community 1 that tells of a newer statement of Bob's than the one that he has.
fn renewed(of: &Enclave) -> ViewPiece {
    let mut piece = piece(of, 1, &[BOB], &[]);
    piece.entries[0].statements = vec![of.statement(BOB, 1, 2, 2 * HOUR)];
    piece
}

#[test]
fn whoever_was_renewed_and_does_not_know_it_yet_is_a_member_still() {
    let enclave = Enclave::new();
    let mut w = strangers(&enclave);
    tell(&mut w, BOB, vec![piece(&enclave, 1, &[ALICE], &[])]);
    tell(&mut w, ALICE, vec![renewed(&enclave)]);
    w.send(ALICE, BOB, b"the one from before says the same");
    assert_eq!(w.received(BOB).len(), 1);
    // Also to whom it calls, and who has restarted since.
    tell(&mut w, CAROL, vec![renewed(&enclave)]);
    tell(&mut w, BOB, vec![piece(&enclave, 1, &[CAROL], &[])]);
    w.send(BOB, CAROL, b"and so here");
    assert_eq!(w.received(CAROL).len(), 1);
}

#[test]
fn a_rekey_whose_response_is_refused_is_not_tried_again_at_once() {
    let enclave = Enclave::new();
    let mut w = strangers(&enclave);
    tell(&mut w, BOB, vec![piece(&enclave, 1, &[ALICE], &[])]);
    tell(&mut w, ALICE, vec![piece(&enclave, 1, &[BOB], &[])]);
    w.send(ALICE, BOB, b"one");
    // Bob has other addresses now, of which he does not know.
    let other = Enclave {
        long: true,
        ..Enclave::new()
    };
    tell(&mut w, ALICE, vec![renewed(&other)]);
    let go_on = |w: &mut Wire, seconds| {
        for _ in 0..seconds {
            w.send(ALICE, BOB, b"on it goes");
            w.advance(Duration::from_secs(1));
        }
        w.drops(ALICE, DropReason::BadStatement)
    };
    // He says it again for some seconds. From 120 s on she asks for another session; from 135 s on he would.
    let before = go_on(&mut w, 10);
    assert_eq!(go_on(&mut w, 118) - before, 1);
}

#[test]
fn who_was_ended_and_was_not_known_is_forgotten_when_its_statement_has_ended() {
    let enclave = Enclave::new();
    let mut w = strangers(&enclave);
    tell(&mut w, ALICE, vec![piece(&enclave, 1, &[CAROL], &[])]);
    tell(&mut w, BOB, vec![piece(&enclave, 1, &[ALICE], &[])]);
    w.send(BOB, ALICE, b"nobody told me");
    assert_eq!(w.received(ALICE).len(), 1, "its statement has not ended");
    assert_eq!(peers(&mut w, ALICE), ["m2", "m3"]);
    w.advance(Duration::from_secs(HOUR));
    tell(&mut w, ALICE, vec![]);
    w.advance(Duration::from_secs(5));
    assert_eq!(peers(&mut w, ALICE), ["m3"], "who is in a view stays");
}

#[test]
fn machines_that_come_and_go_leave_nothing_behind() {
    let enclave = Enclave::new();
    let mut w = strangers(&enclave);
    tell(&mut w, ALICE, vec![piece(&enclave, 1, &[BOB], &[])]);
    for round in 0..50 {
        let members: Vec<u8> = (10..30).map(|n| n + (round % 5) * 20).collect();
        tell(&mut w, ALICE, vec![piece(&enclave, 1, &members, &[])]);
        for n in &members {
            w.send(ALICE, *n, b"is anybody there?");
        }
        w.advance(Duration::from_secs(1));
        tell(&mut w, ALICE, vec![piece(&enclave, 1, &[], &members)]);
    }
    let held = w.host(ALICE).node.held();
    assert_eq!((held.peers, held.live, held.indices), (1, 0, 0), "{held:?}");
    w.send(ALICE, BOB, b"goes on");
    assert_eq!(w.received(BOB).len(), 1);
}

fn pool() -> Vec<Prefix> {
    Prefix::new("10.0.0.0".parse().unwrap(), 8).into_iter().collect()
}

#[test]
fn who_is_in_no_view_is_sought_once_and_what_waits_goes_through() {
    let enclave = Enclave::new();
    let mut w = strangers(&enclave);
    w.host(ALICE).node.seek_in(pool());
    for _ in 0..3 {
        assert_eq!(w.send(ALICE, BOB, b"x"), Outcome::Queued);
    }
    assert_eq!(w.host(ALICE).node.poll_wanted(), Some(inside(BOB)));
    assert_eq!(w.host(ALICE).node.poll_wanted(), None, "asked once");
    tell(&mut w, ALICE, vec![piece(&enclave, 1, &[BOB], &[])]);
    assert_eq!(w.received(BOB).len(), 3);
    assert_eq!(w.host(ALICE).node.held().sought, 0);
}

#[test]
fn who_does_not_exist_is_refused_and_not_sought_again_for_a_while() {
    let enclave = Enclave::new();
    let mut w = strangers(&enclave);
    w.host(ALICE).node.seek_in(pool());
    assert_eq!(w.send(ALICE, BOB, b"x"), Outcome::Queued);
    assert_eq!(w.host(ALICE).node.poll_wanted(), Some(inside(BOB)));
    let now = w.now;
    let host = w.host(ALICE);
    host.node.handle_absent(inside(BOB), now, &mut host.buffers);
    assert_eq!(w.received(ALICE).len(), 1, "the program is told");
    assert_eq!(w.send(ALICE, BOB, b"x"), Outcome::Dropped(DropReason::NoMember));
    w.advance(Duration::from_secs(7));
    assert_eq!(w.send(ALICE, BOB, b"x"), Outcome::Queued);
    assert_eq!(w.host(ALICE).node.poll_wanted(), Some(inside(BOB)));
    // Nobody answers.
    w.advance(Duration::from_secs(5));
    assert_eq!(w.send(ALICE, BOB, b"x"), Outcome::Dropped(DropReason::NoMember));
    // Nobody is there to be asked.
    w.host(ALICE).node.seek_in(vec![]);
    w.advance(Duration::from_secs(20));
    assert_eq!(w.send(ALICE, BOB, b"x"), Outcome::Dropped(DropReason::NoMember));
    assert_eq!(w.host(ALICE).node.held().sought, 0);
}

#[test]
fn no_more_are_sought_than_there_is_room_for() {
    let enclave = Enclave::new();
    let mut w = strangers(&enclave);
    w.host(ALICE).node.seek_in(pool());
    let (mut queued, mut refused) = (0, 0);
    for (high, low) in (0..4).flat_map(|high| (0..=255).map(move |low| (high, low))) {
        let mut packet = packet(ALICE, 0, b"scan");
        packet[18..20].copy_from_slice(&[high + 1, low]);
        let now = w.now;
        let host = w.host(ALICE);
        let outcome = host.node.handle_inside(&packet, now, &mut host.buffers);
        queued += usize::from(outcome == Outcome::Queued);
        refused += usize::from(outcome == Outcome::Dropped(DropReason::NoMember));
    }
    assert_eq!((queued, refused), (256, 768));
}

#[test]
fn an_epoch_that_the_server_does_not_name_has_retired_and_a_newer_one_has_not() {
    let enclave = Enclave::new();
    let mut w = Wire::new([ALICE, BOB].map(|n| (n, enclave.config(n, &[1], &[ALICE, BOB]))).into());
    let epoch = |w: &mut Wire| {
        let now = w.now;
        w.host(ALICE).node.status(now).communities[0].epoch
    };
    let tell = |w: &mut Wire, named: &[u8]| {
        let manifests = named.iter().map(|e| enclave.manifest(1, *e, 0, 100 * HOUR)).collect();
        let now = w.now;
        w.host(ALICE).node.handle_epochs(CommunityTag([1; 16]), manifests, now);
    };
    assert_eq!(epoch(&mut w), Some(1));
    let now = w.now;
    let update = Update {
        manifests: vec![enclave.manifest(1, 2, 0, 100 * HOUR)],
        keys: vec![Enclave::key(1, 2)],
        ..Update::default()
    };
    w.host(ALICE).node.handle_update(update, now);
    tell(&mut w, &[1]);
    assert_eq!(epoch(&mut w), Some(2), "it was said before the second epoch began");
    tell(&mut w, &[2]);
    assert_eq!(epoch(&mut w), Some(2));
    // Bob has the old one alone, and is admitted under it no more.
    w.send(BOB, ALICE, b"x");
    assert!(!w.has_session(BOB, ALICE));
    assert_eq!(w.drops(ALICE, DropReason::Stranger), 1);
}

#[test]
fn a_bundle_that_was_overtaken_brings_nothing_back_and_alarms_nobody() {
    let enclave = Enclave::new();
    let mut w = Wire::new([ALICE, BOB].map(|n| (n, enclave.config(n, &[1], &[ALICE, BOB]))).into());
    let now = w.now;
    let alice = &mut w.host(ALICE).node;
    // The server ends the first epoch while a bundle is on its way that was made before.
    let ended = vec![enclave.manifest(1, 1, 0, 10), enclave.manifest(1, 2, 0, 100 * HOUR)];
    alice.handle_epochs(CommunityTag([1; 16]), ended, now);
    let bundle = || Update {
        complete: true,
        ..enclave.config(ALICE, &[1], &[BOB]).update
    };
    alice.handle_update(bundle(), now);
    w.settle();
    assert_eq!(w.host(ALICE).events, []);
    w.advance(Duration::from_secs(11));
    w.send(BOB, ALICE, b"x");
    assert!(!w.has_session(BOB, ALICE), "what was ended stays so");
    // Told by itself it is somebody who rolls the node back.
    let old = Update {
        manifests: bundle().manifests,
        ..Update::default()
    };
    let now = w.now;
    w.host(ALICE).node.handle_update(old, now);
    w.settle();
    assert_eq!(w.host(ALICE).events.last(), Some(&Event::Alarm(Alarm::Rollback)));
}

#[test]
fn who_is_refused_itself_ends_everything_and_meets_the_others_again_when_it_is_not() {
    let enclave = Enclave::new();
    let mut w = Wire::new([ALICE, BOB].map(|n| (n, enclave.config(n, &[1], &[ALICE, BOB]))).into());
    w.send(ALICE, BOB, b"one");
    assert_eq!(w.received(BOB).len(), 1);
    let tell = |w: &mut Wire, revision: u64, refused: &[u8]| {
        let list = enclave.revocations(revision, refused, 0);
        for n in [ALICE, BOB] {
            let (update, now) = (enclave.update(&list, 1), w.now);
            w.host(n).node.handle_update(update, now);
        }
        w.settle();
    };
    tell(&mut w, 1, &[ALICE]);
    assert!(!w.has_session(ALICE, BOB) && !w.has_session(BOB, ALICE));
    assert_eq!(w.send(ALICE, BOB, b"x"), Outcome::Dropped(DropReason::MembershipEnded));
    let now = w.now;
    assert!(w.host(ALICE).node.status(now).refused && !w.host(BOB).node.status(now).refused);
    tell(&mut w, 2, &[]);
    w.send(ALICE, BOB, b"two");
    assert_eq!(w.received(BOB).len(), 1);
}

#[test]
fn a_probe_that_a_person_asked_for_notices_that_the_session_is_dead() {
    let enclave = Enclave::new();
    let mut w = Wire::new([ALICE, BOB].map(|n| (n, enclave.config(n, &[1], &[ALICE, BOB]))).into());
    w.send(ALICE, BOB, b"one");
    // Bob is killed and comes back, without a word.
    let (again, now) = (enclave.config(BOB, &[1], &[ALICE, BOB]), w.now);
    w.host(BOB).node = Node::new(again, Recording::new(77).0, now);
    assert!(w.has_session(ALICE, BOB) && !w.has_session(BOB, ALICE));
    let now = w.now;
    w.host(ALICE).node.handle_ping(inside(BOB), now).unwrap();
    w.settle();
    w.advance(Duration::from_secs(6));
    assert!(w.has_session(BOB, ALICE), "made anew");
}
