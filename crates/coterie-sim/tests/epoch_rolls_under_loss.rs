//! A planned epoch loses no packet; under loss no more than the wire loses; and new sessions use it.

use std::time::Duration;

use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

const TENTH: Duration = Duration::from_millis(100);

/// Ten packets a second for 400 seconds, the epoch rolls after 50: how many of 4,000 arrive.
fn arrivals(loss: u64) -> usize {
    let mut w = World::new(5, &plain_layout(&[&[0], &[0]]));
    w.run(Duration::from_secs(1));
    w.send(0, 1);
    w.run(Duration::from_secs(1));
    w.apply(&Transition::Loss { permille: loss });
    let mut sent = Vec::new();
    for n in 0..4000 {
        if n == 500 {
            w.apply(&Transition::RollEpoch {
                community: 0,
                ahead: Duration::from_secs(20),
            });
        }
        sent.extend(w.send(0, 1));
        w.run(TENTH);
    }
    w.run(Duration::from_secs(5));
    assert_eq!(w.session(0, 1).expect("it is there").epoch, 2);
    assert_eq!(w.session(1, 0).expect("it is there").epoch, 2);
    w.must_hold();
    sent.iter().filter(|n| w.delivered(**n).is_some()).count()
}

#[test]
fn no_packet_is_lost_to_it() {
    assert_eq!(arrivals(0), 4000);
}

#[test]
fn under_a_third_of_loss_two_thirds_arrive() {
    let arrived = arrivals(300);
    assert!((2650..2950).contains(&arrived), "{arrived}");
}
