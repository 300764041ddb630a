//! Both daemons are killed at once, with packets under way, and call each other when they come back.

use std::time::Duration;

use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

#[test]
fn they_find_each_other_and_neither_takes_the_others_old_packets() {
    for seed in 0..20 {
        let mut w = World::new(seed, &plain_layout(&[&[0], &[0]]));
        w.run(Duration::from_secs(1));
        w.apply(&Transition::OpenBothWays { a: 0, b: 1 });
        w.run(Duration::from_millis(seed));
        w.apply(&Transition::Burst {
            from: 0,
            to: 1,
            count: 10,
        });
        w.apply(&Transition::Restart { host: 0 });
        w.apply(&Transition::Restart { host: 1 });
        w.apply(&Transition::ReplayOldDatagrams {
            count: 100,
            elsewhere: false,
        });
        w.run(Duration::from_secs(3));
        let (there, back) = (w.send(0, 1).expect("it is there"), w.send(1, 0).expect("it is there"));
        w.run(Duration::from_secs(1));
        assert!(
            w.delivered(there).is_some() && w.delivered(back).is_some(),
            "{}",
            w.ladder.diagram()
        );
        w.must_hold();
    }
}
