//! Clocks: running time leaps with a suspended machine, the wall clock is set anywhere. Leases end in the node's own running
//! time and never later; nobody is locked out for longer than the error lasts.

use std::time::Duration;

use coterie_proto::membership::Freshness;
use coterie_sim::{arb::plain_layout, transition::Transition, world::World};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn arrives(w: &mut World, from: usize, to: usize) -> bool {
    let sent = w.send(from, to);
    w.run(6 * SECOND);
    let again = w.send(from, to);
    w.run(SECOND);
    sent.into_iter().chain(again).any(|n| w.delivered(n).is_some())
}

#[test]
fn a_leap_ends_sessions_and_they_come_back() {
    let mut w = World::new(2, &plain_layout(&[&[0], &[0]]));
    w.run(SECOND);
    assert!(arrives(&mut w, 0, 1));
    w.apply(&Transition::ClockLeap {
        host: 0,
        by: Duration::from_secs(200),
    });
    w.run(SECOND);
    assert!(!w.has_session(0, 1), "180 s are over for it");
    assert!(arrives(&mut w, 0, 1) && arrives(&mut w, 1, 0));
    w.must_hold();
}

#[test]
fn a_leap_beyond_the_lease_fails_closed_until_a_new_statement() {
    let mut w = World::new(2, &plain_layout(&[&[0], &[0]]));
    w.run(HOUR / 5);
    assert!(arrives(&mut w, 0, 1));
    w.apply(&Transition::ClockLeap {
        host: 0,
        by: 50 * 60 * SECOND,
    });
    w.run(2 * SECOND);
    assert!(!w.has_session(0, 1));
    assert!(!arrives(&mut w, 0, 1) && !arrives(&mut w, 1, 0));
    w.apply(&Transition::RenewStatements { machine: 0 });
    w.apply(&Transition::RenewStatements { machine: 1 });
    w.run(SECOND);
    assert!(arrives(&mut w, 0, 1) && arrives(&mut w, 1, 0));
    w.must_hold();
}

#[test]
fn a_wall_clock_ten_years_back_or_an_hour_ahead_locks_nobody_out() {
    for (by, reaches) in [(-315_360_000, true), (1800, true), (3600, false)] {
        let mut w = World::new(2, &plain_layout(&[&[0], &[0]]));
        w.run(SECOND);
        w.apply(&Transition::WallClock { host: 0, by });
        assert!(arrives(&mut w, 0, 1), "it is read at start only");
        w.apply(&Transition::Restart { host: 0 });
        w.run(SECOND);
        assert_eq!(arrives(&mut w, 1, 0), reaches, "set by {by}");
        w.apply(&Transition::WallClock { host: 0, by: -by });
        w.apply(&Transition::Restart { host: 0 });
        w.run(SECOND);
        assert!(arrives(&mut w, 1, 0));
        w.must_hold();
    }
}

#[test]
fn with_pulses_time_is_right_again_ten_seconds_after_a_leap() {
    let mut layout = plain_layout(&[&[0], &[0]]);
    layout.freshness = Freshness::Heads;
    let mut w = World::new(2, &layout);
    w.run(SECOND);
    assert!(arrives(&mut w, 0, 1));
    w.apply(&Transition::ClockLeap { host: 0, by: 2 * HOUR });
    w.run(11 * SECOND);
    assert!(w.protocol_time(0).expect("it is there").since(w.now().unix()) <= SECOND);
    assert!(arrives(&mut w, 0, 1) && arrives(&mut w, 1, 0));
    w.must_hold();
}

#[test]
fn without_a_pulse_new_sessions_are_made_while_statements_last() {
    let mut layout = plain_layout(&[&[0], &[0]]);
    layout.freshness = Freshness::Heads;
    let mut w = World::new(2, &layout);
    w.run(SECOND);
    w.apply(&Transition::LoseUpdates { host: 0 });
    w.run(75 * SECOND);
    assert!(arrives(&mut w, 0, 1) && arrives(&mut w, 1, 0));
    w.must_hold();
}
