//! A daemon is killed and started again: the same identity, and traffic goes on within a second, in both directions, although
//! the peer was told nothing.

use std::time::Duration;

use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn traffic_goes_on_within_a_second() {
    for torn in [false, true] {
        let mut w = World::new(1, &plain_layout(&[&[0], &[0]]));
        w.run(SECOND);
        let first = w.send(0, 1).expect("it is there");
        w.run(SECOND);
        assert!(w.delivered(first).is_some());
        let key = w.enclave.enrolment(1).public;
        w.apply(&Transition::Crash { host: 1, torn });
        w.send(0, 1);
        w.run(SECOND);
        w.apply(&Transition::Restart { host: 1 });
        let (mut there, mut back) = (Vec::new(), Vec::new());
        for _ in 0..9 {
            w.run(SECOND / 10);
            there.extend(w.send(0, 1));
            back.extend(w.send(1, 0));
        }
        w.run(SECOND / 10);
        for sent in [there, back] {
            assert!(sent.iter().any(|n| w.delivered(*n).is_some()), "{}", w.ladder.diagram());
        }
        assert_eq!(w.enclave.enrolment(1).public, key);
        w.must_hold();
    }
}

#[test]
fn a_member_that_lost_its_disk_comes_back_as_somebody_new() {
    let mut w = World::new(1, &plain_layout(&[&[0], &[0]]));
    w.run(SECOND);
    w.send(0, 1);
    w.run(SECOND);
    let key = w.enclave.enrolment(1).public;
    w.apply(&Transition::ReEnrol { machine: 1 });
    w.run(SECOND);
    assert_ne!(w.enclave.enrolment(1).public, key);
    assert!(!w.has_session(0, 1), "the revocation ended it");
    let (there, back) = (w.send(0, 1).expect("it is there"), w.send(1, 0).expect("it is there"));
    w.run(SECOND);
    assert!(w.delivered(there).is_some() && w.delivered(back).is_some());
    w.must_hold();
}
