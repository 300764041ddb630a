//! The issuer's word on a revocation does not reach a member; the next handshake with somebody who heard it tells.

use std::time::Duration;

use coterie_proto::membership::Freshness;
use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_handshake_with_a_peer_brings_it() {
    for freshness in [Freshness::Offline, Freshness::Heads] {
        let mut layout = plain_layout(&[&[0], &[0], &[0], &[0]]);
        layout.freshness = freshness;
        let mut w = World::new(8, &layout);
        w.run(SECOND);
        w.send(3, 0);
        w.run(SECOND);
        assert!(w.has_session(0, 3));
        w.apply(&Transition::LoseUpdates { host: 0 });
        w.apply(&Transition::Revoke { machine: 3 });
        w.run(2 * SECOND);
        assert!(w.has_session(0, 3), "nobody told it");
        w.send(0, 1);
        w.run(3 * SECOND);
        assert!(!w.has_session(0, 3), "a peer did");
        assert!(w.peer(0, 3).expect("it is there").revoked);
        let late = w.send(3, 0).expect("it is there");
        w.run(15 * SECOND);
        assert!(w.delivered(late).is_none());
        w.must_hold();
    }
}
