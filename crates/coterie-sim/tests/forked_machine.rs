//! A machine runs twice. Where that is noticed, nothing leaves under the old keys; where it is not, the salts differ and peers
//! raise the alarm over the first colliding packet that is authentic.

use std::time::Duration;

use coterie_proto::{Event, node::Alarm};
use coterie_sim::{
    arb::plain_layout,
    transition::{Notice, Transition},
    world::World,
};

const SECOND: Duration = Duration::from_secs(1);

fn talking() -> World {
    let mut w = World::new(3, &plain_layout(&[&[0], &[0]]));
    w.run(SECOND);
    w.apply(&Transition::Burst {
        from: 0,
        to: 1,
        count: 5,
    });
    w.run(SECOND);
    w
}

#[test]
fn unnoticed_its_peer_raises_the_alarm_within_a_second() {
    let mut w = talking();
    w.apply(&Transition::Fork {
        host: 0,
        notice: Notice::None,
    });
    let twin = 2;
    let forked = w.now();
    for _ in 0..10 {
        w.send(0, 1);
        w.send(twin, 1);
        w.run(SECOND / 10);
    }
    let alarm = w
        .events()
        .iter()
        .find(|(_, host, e)| *host == 1 && matches!(e, Event::Alarm(Alarm::Twin(_))));
    assert!(alarm.expect("it is there").0.since(forked) < SECOND);
    w.must_hold();
}

#[test]
fn noticed_by_both_neither_sends_anything() {
    let mut w = talking();
    w.apply(&Transition::Fork {
        host: 0,
        notice: Notice::Both,
    });
    w.count_anew();
    for _ in 0..30 {
        w.send(0, 1);
        w.send(2, 1);
        w.send(1, 0);
        w.run(SECOND);
    }
    assert_eq!(w.datagrams_between(0, 1), 0);
    w.apply(&Transition::ReEnrol { machine: 0 });
    w.run(SECOND);
    let back = w.send(0, 1).expect("it is there");
    w.run(SECOND);
    assert!(w.delivered(back).is_some(), "a new enrolment brings it back");
    w.must_hold();
}

#[test]
fn in_mid_handshake_no_nonce_repeats_under_final_keys() {
    for micros in (0..2000).step_by(50) {
        let mut w = World::new(micros, &plain_layout(&[&[0], &[0]]));
        w.run(SECOND);
        w.apply(&Transition::Burst {
            from: 0,
            to: 1,
            count: 5,
        });
        w.run(Duration::from_micros(micros));
        w.apply(&Transition::Fork {
            host: 0,
            notice: Notice::None,
        });
        w.apply(&Transition::Burst {
            from: 2,
            to: 1,
            count: 5,
        });
        w.run(Duration::from_secs(20));
        w.must_hold();
    }
}
