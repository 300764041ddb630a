//! An outside address counts only when a token came back from there: whoever relays an authentic packet from his own address
//! gets one probe and no traffic; a member that moves is followed.

use std::time::Duration;

use coterie_proto::{Event, wire::datagram};
use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

const SECOND: Duration = Duration::from_secs(1);

/// Two members that talk, and a packet of the first that never arrived.
fn with_a_lost_packet(roaming: bool) -> (World, Vec<u8>) {
    let mut layout = plain_layout(&[&[0], &[0]]);
    layout.machines[1].traits.roaming = roaming;
    let mut w = World::new(1, &layout);
    w.run(SECOND);
    w.send(0, 1);
    w.run(SECOND);
    w.apply(&Transition::Partition {
        a: 0,
        b: 1,
        one_way: false,
    });
    w.send(0, 1);
    let lost = w.last_datagram(0, 1, datagram::SEALED).expect("it is there");
    w.apply(&Transition::Heal);
    (w, lost)
}

#[test]
fn a_relayed_packet_moves_nobody() {
    for roaming in [false, true] {
        let (mut w, lost) = with_a_lost_packet(roaming);
        let home = w.peer(1, 0).expect("it is there").endpoint;
        let before = w.totals.delivered;
        w.relay(1, lost);
        w.run(SECOND);
        assert_eq!(w.totals.delivered, before + 1, "it is authentic");
        assert_eq!(w.peer(1, 0).expect("it is there").endpoint, home);
        let back = w.send(1, 0).expect("it is there");
        w.run(SECOND);
        assert!(w.delivered(back).is_some());
        w.must_hold();
    }
}

#[test]
fn a_relayed_proof_of_a_new_session_moves_nobody() {
    // The last two datagrams of a handshake arrive from elsewhere.
    let mut w = World::new(1, &plain_layout(&[&[0], &[0]]));
    w.run(SECOND);
    w.send(0, 1);
    while w.last_datagram(0, 1, datagram::SEALED).is_none() {
        w.run(Duration::from_micros(10));
    }
    let home = w.hosts[0].address;
    let (confirm, probe) = (
        w.last_datagram(0, 1, datagram::PROVISIONAL).expect("it is there"),
        w.last_datagram(0, 1, datagram::SEALED).expect("it is there"),
    );
    w.relay(1, confirm);
    w.run(Duration::from_micros(1));
    w.relay(1, probe);
    w.run(Duration::from_micros(1));
    assert_eq!(w.peer(1, 0).expect("it is there").endpoint, Some(home));
    w.run(SECOND);
    let back = w.send(1, 0).expect("it is there");
    w.run(SECOND);
    assert!(w.delivered(back).is_some());
    w.must_hold();
}

#[test]
fn a_member_that_moves_is_followed() {
    let (mut w, _) = with_a_lost_packet(true);
    w.apply(&Transition::Roam { host: 0, told: false });
    w.send(0, 1);
    w.run(SECOND);
    let moved = w
        .events()
        .iter()
        .any(|(_, host, e)| *host == 1 && matches!(e, Event::Moved(..)));
    assert!(moved);
    assert_eq!(w.peer(1, 0).expect("it is there").endpoint, Some(w.hosts[0].address));
    let back = w.send(1, 0).expect("it is there");
    w.run(SECOND);
    assert!(w.delivered(back).is_some());
    w.must_hold();
}

#[test]
fn where_roaming_is_off_the_directory_says_where_a_member_is() {
    let (mut w, _) = with_a_lost_packet(false);
    w.apply(&Transition::Roam { host: 0, told: true });
    for _ in 0..3 {
        w.send(0, 1);
        w.run(SECOND);
    }
    let back = w.send(1, 0).expect("it is there");
    w.run(SECOND);
    assert!(w.delivered(back).is_some());
    w.must_hold();
}
