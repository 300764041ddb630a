//! Nonsense and damaged copies of what passed on the wire, thousands of them: nothing is answered, and members find each other
//! within a second meanwhile.

use std::time::Duration;

use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

#[test]
fn strangers_hear_nothing_and_members_are_served() {
    let mut w = World::new(6, &plain_layout(&[&[0], &[0], &[0]]));
    w.run(Duration::from_secs(1));
    w.send(2, 1);
    for _ in 0..20 {
        w.apply(&Transition::InjectGarbage { host: 1, count: 1000 });
        w.run(Duration::from_millis(300));
        w.apply(&Transition::Restart { host: 0 });
        let sent = w.send(0, 1).expect("it is there");
        w.run(Duration::from_secs(1));
        assert!(w.delivered(sent).is_some());
        w.must_hold();
    }
    assert!(w.hosts[1].running.as_ref().expect("it is there").node.held().indices < 10);
}
