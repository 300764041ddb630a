//! A member is revoked: sessions end when the others are told, its calls are not answered, and a key that it never had is in use.

use std::time::Duration;

use coterie_proto::wire::datagram;
use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn it_meets_silence_and_the_others_go_on() {
    let mut w = World::new(9, &plain_layout(&[&[0], &[0], &[0], &[0]]));
    w.run(SECOND);
    for (from, to) in [(0, 1), (0, 3), (3, 1), (2, 3)] {
        w.send(from, to);
    }
    w.run(SECOND);
    assert!(w.has_session(3, 0) && w.has_session(0, 3));
    w.apply(&Transition::Revoke { machine: 3 });
    w.run(SECOND);
    assert!((0..3).all(|m| !w.has_session(m, 3)), "told, so ended");
    w.count_anew();
    let mut tries = Vec::new();
    for _ in 0..60 {
        tries.extend((0..3).filter_map(|to| w.send(3, to)));
        tries.extend((0..3).filter_map(|from| w.send(from, 3)));
        w.run(SECOND);
    }
    assert!(tries.iter().all(|n| w.delivered(*n).is_none()));
    assert!(
        (0..3).all(|m| w.datagrams_between(m, 3) == 0),
        "not one datagram goes to it"
    );
    assert!(w.last_datagram(3, 0, datagram::INITIATION).is_some(), "it did call");
    let other = w.send(0, 1).expect("it is there");
    w.run(Duration::from_secs(140));
    w.send(0, 1);
    w.run(SECOND);
    assert!(w.delivered(other).is_some());
    assert_eq!(
        w.session(0, 1).expect("it is there").epoch,
        2,
        "the next session is under the new key"
    );
    w.must_hold();
}

#[test]
fn removed_from_one_community_it_still_talks_under_another() {
    let mut w = World::new(9, &plain_layout(&[&[0, 1], &[0, 1], &[0]]));
    w.run(SECOND);
    w.send(0, 1);
    w.run(SECOND);
    let before = w.session(0, 1).expect("it is there").tag;
    let community = w.enclave.community(before).expect("it is there");
    w.apply(&Transition::RemovalRoll { community, machine: 1 });
    for _ in 0..200 {
        w.send(0, 1);
        w.run(SECOND);
    }
    let last = w.send(0, 1).expect("it is there");
    w.run(SECOND);
    assert!(w.delivered(last).is_some());
    assert_ne!(w.session(0, 1).expect("it is there").tag, before);
    w.must_hold();
}
