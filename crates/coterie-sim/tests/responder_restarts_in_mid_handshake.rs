//! The responder is killed after it has answered: it knows nothing of the handshake any more, and may not call itself. The
//! initiator waits five seconds and, with its next try, calls anew.

use std::time::Duration;

use coterie_proto::wire::datagram;
use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

#[test]
fn the_initiator_calls_anew() {
    for step in [0, 2] {
        let mut layout = plain_layout(&[&[0], &[0]]);
        // It may start nothing: every community holds somebody whom it excludes.
        layout.machines[1].exclude = vec![0];
        let mut w = World::new(1, &layout);
        w.run(Duration::from_secs(1));
        let first = w.send(0, 1).unwrap();
        let sent = |w: &World| {
            w.last_datagram(0, 1, datagram::PROVISIONAL)
                .is_some_and(|d| d[1] == step)
        };
        while !sent(&w) {
            w.run(Duration::from_micros(10));
        }
        w.apply(&Transition::Restart { host: 1 });
        w.run(Duration::from_secs(8));
        assert!(w.delivered(first).is_some(), "{}", w.ladder.diagram());
        w.must_hold();
    }
}
