//! Everything that ever passed on the wire is sent again to a daemon that was killed and started: not one byte comes back, and
//! no handshake is accepted that was before.

use std::time::Duration;

use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

#[test]
fn nothing_comes_of_it() {
    let mut w = World::new(4, &plain_layout(&[&[0], &[0], &[0]]));
    w.run(Duration::from_secs(1));
    for _ in 0..20 {
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            w.apply(&Transition::OpenBothWays { a, b });
        }
        w.apply(&Transition::Restart { host: 1 });
        w.run(Duration::from_millis(500));
    }
    w.apply(&Transition::Restart { host: 1 });
    // Until everything that waits has found its way.
    w.run(Duration::from_secs(20));
    let (sessions, delivered) = (w.totals.sessions, w.totals.delivered);
    for _ in 0..20 {
        w.apply(&Transition::ReplayOldDatagrams {
            count: 200,
            elsewhere: true,
        });
        w.run(Duration::from_secs(1));
    }
    w.must_hold();
    assert_eq!((w.totals.sessions, w.totals.delivered), (sessions, delivered));
}
