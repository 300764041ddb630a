//! The way between two members is cut, for long or in one direction only; when it is mended they talk within ten seconds.

use std::time::Duration;

use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn both_directions_are_served_within_ten_seconds() {
    for one_way in [false, true] {
        for cut in [2, 5, 11, 100, 200] {
            let mut w = World::new(cut, &plain_layout(&[&[0], &[0]]));
            w.run(SECOND);
            w.send(0, 1);
            w.run(SECOND);
            w.apply(&Transition::Partition { a: 0, b: 1, one_way });
            for _ in 0..cut {
                w.send(0, 1);
                w.send(1, 0);
                w.run(SECOND);
            }
            let settled = w.settle();
            w.must_hold();
            for way in [(0, 1), (1, 0)] {
                assert!(settled.first[&way] < 10 * SECOND);
            }
        }
    }
}

#[test]
fn a_rekey_that_only_one_side_finished_blocks_nobody() {
    // Five messages of a tenth of a second each. The fifth arrives, the answer to its probe never does: the responder uses the
    // new session, the initiator the old one, and each hears the other.
    let step = SECOND / 10;
    let mut w = World::new(1, &plain_layout(&[&[0], &[0]]));
    w.apply(&Transition::Delay {
        delay: step,
        jitter: Duration::ZERO,
    });
    w.run(SECOND);
    w.send(0, 1);
    w.run(SECOND);
    let (old, new) = if w.session(0, 1).expect("it is there").initiator {
        (0, 1)
    } else {
        (1, 0)
    };
    while w.session(old, new).expect("it is there").age < 120 * SECOND {
        w.run(SECOND / 100);
    }
    w.run(step * 4);
    w.apply(&Transition::Partition {
        a: new,
        b: old,
        one_way: true,
    });
    w.run(step * 2);
    assert!(w.session(new, old).expect("it is there").age < SECOND);
    assert!(w.session(old, new).expect("it is there").age > 120 * SECOND);
    // The initiator gives its rekey up. Nobody sends, so nobody misses an answer.
    w.run(12 * SECOND);
    w.apply(&Transition::Heal);
    let mut served = None;
    for n in 0..20 {
        let sent = w.send(new, old).expect("it is there");
        w.send(old, new);
        w.run(SECOND / 2);
        served = served.or_else(|| w.delivered(sent).map(|_| n));
    }
    w.must_hold();
    assert!(served.is_some_and(|n| n < 12), "served after {served:?} half seconds");
}
