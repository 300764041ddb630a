//! The checkers themselves under test: each is shown a world with a deliberate defect, and must find just that one.

use std::time::Duration;

use coterie_sim::{
    arb::plain_layout,
    check::Promise,
    transition::{Notice, Transition},
    world::{Sabotage, World},
};

const SECOND: Duration = Duration::from_secs(1);

/// A world with a defect, put in after its first session stands.
fn world(defect: Sabotage) -> World {
    let mut w = World::new(1, &plain_layout(&[&[0], &[0], &[1]]));
    w.run(SECOND);
    w.send(0, 1);
    w.run(SECOND);
    w.must_hold();
    w.sabotage(defect);
    w
}

fn noticed(w: &World) -> Option<Promise> {
    w.violation().map(|v| v.breach.promise)
}

#[test]
fn entropy_that_forks_share_repeats_a_nonce() {
    let mut w = world(Sabotage::SameEntropy);
    w.apply(&Transition::Fork {
        host: 0,
        notice: Notice::None,
    });
    w.send(0, 1);
    w.send(3, 1);
    assert_eq!(noticed(&w), Some(Promise::Nonce));
}

#[test]
fn a_packet_in_clear() {
    let mut w = world(Sabotage::LeakPlaintext);
    w.send(0, 1);
    assert_eq!(noticed(&w), Some(Promise::Plaintext));
}

#[test]
fn a_packet_delivered_twice() {
    let mut w = world(Sabotage::DeliverTwice);
    w.send(0, 1);
    w.run(SECOND);
    assert_eq!(noticed(&w), Some(Promise::Delivery));
}

#[test]
fn a_packet_delivered_to_others() {
    let mut w = world(Sabotage::DeliverToAll);
    w.send(0, 1);
    w.run(SECOND);
    assert_eq!(noticed(&w), Some(Promise::Delivery));
}

#[test]
fn a_packet_that_vanishes() {
    let mut w = world(Sabotage::SwallowPackets);
    w.send(0, 1);
    assert_eq!(noticed(&w), Some(Promise::Accounting));
}

#[test]
fn records_that_were_not_stored() {
    let mut w = world(Sabotage::StoreNothing);
    // A session that is made now is accepted at host 1, and nothing of it is on its disk.
    w.apply(&Transition::Restart { host: 0 });
    w.run(SECOND);
    w.send(0, 1);
    w.run(SECOND);
    w.apply(&Transition::Restart { host: 1 });
    w.apply(&Transition::ReplayOldDatagrams {
        count: 300,
        elsewhere: false,
    });
    w.run(SECOND);
    assert_eq!(noticed(&w), Some(Promise::Handshake));
}

#[test]
fn a_fork_that_was_noticed_and_not_heeded() {
    let mut w = world(Sabotage::IgnoreFork);
    w.apply(&Transition::Fork {
        host: 0,
        notice: Notice::Both,
    });
    w.send(0, 1);
    assert_eq!(noticed(&w), Some(Promise::Fork));
}

#[test]
fn faults_that_do_not_stop() {
    let mut w = world(Sabotage::NeverHeal);
    w.apply(&Transition::Partition {
        a: 0,
        b: 1,
        one_way: true,
    });
    w.settle();
    assert_eq!(noticed(&w), Some(Promise::Liveness));
}

#[test]
fn an_answer_to_a_stranger() {
    let mut w = world(Sabotage::AnswerStrangers);
    w.apply(&Transition::InjectGarbage { host: 1, count: 50 });
    w.run(2 * SECOND);
    assert!(
        matches!(noticed(&w), Some(Promise::Silence | Promise::Size)),
        "{:?}",
        w.violation()
    );
}

#[test]
fn a_pair_that_the_model_forbids_and_that_talks() {
    // The enclave's truth is changed behind the nodes' backs: what they may do no longer fits what they do.
    let mut w = world(Sabotage::NeverHeal);
    for community in &mut w.enclave.communities {
        community.spans.retain(|s| s.machine != 1);
    }
    w.send(0, 1);
    w.run(SECOND);
    assert_eq!(noticed(&w), Some(Promise::Delivery));
}

#[test]
fn a_session_under_a_community_that_two_never_shared() {
    let mut w = world(Sabotage::NeverHeal);
    for community in &mut w.enclave.communities {
        community.spans.retain(|s| s.machine != 1);
    }
    w.apply(&Transition::Restart { host: 1 });
    w.run(SECOND);
    assert_eq!(noticed(&w), Some(Promise::Session));
}

#[test]
fn a_pair_that_exclusions_keep_apart_and_that_talks() {
    // The hosts exclude each other, as far as the model knows; their nodes were not told.
    let mut w = World::new(1, &plain_layout(&[&[0], &[0]]));
    w.run(SECOND);
    for (host, other) in [(0, 1), (1, 0)] {
        w.hosts[host].exclude = vec![other];
        w.hosts[host].excluded_at = w.now();
    }
    w.settle();
    assert_eq!(noticed(&w), Some(Promise::Isolation));
}

#[test]
fn a_node_that_is_not_a_function_of_its_inputs() {
    let mut w = world(Sabotage::NeverHeal);
    // Something goes into the node behind its host's back.
    w.hosts[0].running.as_mut().expect("it is there").node.begin_batch();
    w.send(0, 1);
    w.apply(&Transition::Fork {
        host: 0,
        notice: Notice::None,
    });
    assert_eq!(noticed(&w), Some(Promise::Determinism));
}

#[test]
fn a_node_that_does_not_rest() {
    let mut w = world(Sabotage::IgnoreTimers);
    w.send(0, 1);
    w.run(10 * SECOND);
    assert_eq!(noticed(&w), Some(Promise::Progress));
}
