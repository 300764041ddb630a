//! Two members call each other in the same instant on a bad wire: one session comes of it, on both sides the same.

use std::time::Duration;

use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

#[test]
fn one_session_comes_of_two_calls() {
    for seed in 0..100 {
        let mut w = World::new(seed, &plain_layout(&[&[0], &[0]]));
        w.run(Duration::from_secs(1));
        for bad in [
            Transition::Loss { permille: 300 },
            Transition::Duplicate { permille: 200 },
            Transition::Reorder { permille: 300 },
        ] {
            w.apply(&bad);
        }
        w.apply(&Transition::OpenBothWays { a: 0, b: 1 });
        w.run(Duration::from_secs(seed % 12));
        w.apply(&Transition::Heal);
        let settled = w.settle();
        w.must_hold();
        assert_eq!(settled.first.len(), 2);
        let (a, b) = (
            w.session(0, 1).expect("it is there"),
            w.session(1, 0).expect("it is there"),
        );
        assert_ne!(a.initiator, b.initiator, "seed {seed}");
        assert!(a.age.abs_diff(b.age) < Duration::from_secs(3), "seed {seed}");
    }
}
