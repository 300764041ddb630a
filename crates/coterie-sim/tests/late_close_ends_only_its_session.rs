//! A daemon goes down in good order and comes back before its farewell arrives: the farewell ends the session that it belongs to,
//! not the one that was made since.

use std::time::Duration;

use coterie_proto::wire::datagram;
use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

#[test]
fn the_new_session_stays() {
    let mut w = World::new(1, &plain_layout(&[&[0], &[0]]));
    w.run(Duration::from_secs(1));
    w.send(0, 1);
    w.run(Duration::from_secs(1));
    w.apply(&Transition::Partition {
        a: 0,
        b: 1,
        one_way: false,
    });
    w.apply(&Transition::ShutDown { host: 0 });
    let farewell = w.last_datagram(0, 1, datagram::SEALED).expect("it is there");
    w.apply(&Transition::Heal);
    w.apply(&Transition::Restart { host: 0 });
    w.run(Duration::from_millis(100));
    w.send(0, 1);
    w.run(Duration::from_millis(100));
    assert!(w.has_session(0, 1) && w.has_session(1, 0));
    w.relay(1, farewell);
    w.run(Duration::from_millis(10));
    assert!(w.has_session(1, 0));
    let back = w.send(1, 0).expect("it is there");
    w.run(Duration::from_secs(1));
    assert!(w.delivered(back).is_some());
    w.must_hold();
}
