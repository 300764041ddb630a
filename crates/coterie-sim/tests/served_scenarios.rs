//! Lives of an enclave with a server, each one told to the end.

use std::time::Duration;

use coterie_sim::served::{
    Epilogue, World,
    action::Transition,
    arb::{LEASE, plain_layout},
    machine::{Hostility, Power},
};

const SECOND: Duration = Duration::from_secs(1);

fn at(w: &World, label: &str) -> usize {
    w.machine(label).expect("a machine of this label")
}

fn apply(w: &mut World, transition: &Transition) {
    assert!(w.apply(transition), "{transition:?} did not take place");
}

fn token(w: &mut World, label: &str, direct: bool) {
    let machine = at(w, label);
    let token = Transition::CreateToken {
        machine,
        uses: 1,
        lasts: 300 * SECOND,
        direct,
    };
    apply(w, &token);
}

fn join(w: &mut World, label: &str) {
    token(w, label, false);
    let machine = at(w, label);
    apply(w, &Transition::Enrol { machine });
    w.run(3 * SECOND);
}

fn world() -> World {
    let mut w = World::new(1, &plain_layout());
    w.run(3 * SECOND);
    w
}

/// Whether a packet from one to the other arrives within some seconds.
fn reaches(w: &mut World, from: &str, to: &str) -> bool {
    let (from, to) = (at(w, from), at(w, to));
    let sent = w.send(from, to);
    w.run(3 * SECOND);
    w.must_hold();
    sent.is_some_and(|number| w.delivered(number).is_some())
}

fn is_member(w: &World, label: &str) -> bool {
    w.machines[at(w, label)].running().is_some()
}

#[test]
fn members_meet_for_the_first_time_while_the_server_is_away() {
    let mut layout = plain_layout();
    layout.site.lease = 3600 * SECOND;
    let mut w = World::new(1, &layout);
    w.run(3 * SECOND);
    for label in ["vm-0", "vm-1", "vm-2"] {
        join(&mut w, label);
    }
    apply(&mut w, &Transition::ServerDown);
    w.run(600 * SECOND);
    // vm-0 is web, vm-1 is db, vm-2 is both.
    for (from, to, may) in [
        ("vm-0", "vm-2", true),
        ("vm-1", "vm-2", true),
        ("vm-0", "vm-1", false),
        ("file-1", "file-2", false),
        ("file-1", "vm-0", true),
    ] {
        assert_eq!(reaches(&mut w, from, to), may, "{from} to {to}");
        assert_eq!(reaches(&mut w, to, from), may, "{to} to {from}");
    }
    // A daemon that is killed knows everybody when it comes back.
    let machine = at(&w, "vm-2");
    apply(&mut w, &Transition::KillNode { machine });
    w.run(SECOND);
    assert!(reaches(&mut w, "vm-2", "door-1"));
    w.run(3600 * SECOND);
    assert!(!reaches(&mut w, "vm-2", "door-1"), "its lease is over");
}

#[test]
fn everything_closes_when_the_server_stays_away_and_opens_when_it_is_back() {
    let mut w = world();
    join(&mut w, "vm-0");
    w.settle(Epilogue::Closed);
    w.must_hold();
    assert!(!reaches(&mut w, "vm-0", "file-1"));
    apply(&mut w, &Transition::ServerUp);
    w.run(20 * SECOND);
    assert!(
        reaches(&mut w, "vm-0", "file-1"),
        "the membership stands, and is renewed"
    );
}

#[test]
fn a_hostile_door_can_refuse_to_carry_and_nothing_else() {
    for does in [Hostility::Drop, Hostility::Replay, Hostility::Forge] {
        let mut w = world();
        join(&mut w, "vm-0");
        let hostile = at(&w, "door-1");
        apply(&mut w, &Transition::HostileDoor { machine: hostile, does });
        token(&mut w, "vm-1", false);
        let machine = at(&w, "vm-1");
        apply(&mut w, &Transition::Enrol { machine });
        // Two minutes at the most, and the other door is called.
        w.run(150 * SECOND);
        assert!(is_member(&w, "vm-1"), "{does:?}");
        apply(&mut w, &Transition::DoorAttacks { machine: hostile });
        w.run(5 * SECOND);
        w.must_hold();
        // An application that is shown again changes nothing for the one who made it.
        assert!(reaches(&mut w, "vm-0", "file-1") && reaches(&mut w, "vm-1", "file-2"));
        w.settle(Epilogue::None);
        w.must_hold();
    }
}

#[test]
fn a_ticket_lets_its_machine_back_in_once() {
    let mut w = world();
    join(&mut w, "vm-2");
    let machine = at(&w, "vm-2");
    let first = w.machines[machine].disk.ticket;
    assert!(first.is_some());
    apply(&mut w, &Transition::Reboot { machine });
    w.run(5 * SECOND);
    assert!(is_member(&w, "vm-2") && w.machines[machine].disk.ticket != first);
    // A copy of its disk from before is a clone, and is told so by nobody.
    w.machines[machine].disk.ticket = first;
    apply(&mut w, &Transition::Clone { machine });
    w.run(5 * SECOND);
    assert!(!is_member(&w, "vm-2'") && is_member(&w, "vm-2"));
    // One that has no ticket does not come back by its token, which is spent.
    join(&mut w, "vm-0");
    let machine = at(&w, "vm-0");
    apply(&mut w, &Transition::Reboot { machine });
    w.run(5 * SECOND);
    assert!(!is_member(&w, "vm-0") && w.machines[machine].power == Power::On);
    apply(&mut w, &Transition::RebootWithToken { machine });
    w.run(5 * SECOND);
    assert!(is_member(&w, "vm-0"));
    w.settle(Epilogue::None);
    w.must_hold();
}

#[test]
fn a_member_whose_key_is_not_known_is_asked_itself() {
    let mut w = world();
    join(&mut w, "vm-2");
    let to = at(&w, "file-2");
    let lasts = LEASE + 30 * SECOND;
    apply(&mut w, &Transition::StopNode { machine: to, lasts });
    w.run(LEASE + 5 * SECOND);
    join(&mut w, "vm-1");
    let from = at(&w, "vm-1");
    apply(&mut w, &Transition::CutServer { machine: from });
    w.run(60 * SECOND);
    apply(&mut w, &Transition::ServerDown);
    apply(&mut w, &Transition::Query { from, to });
    w.run(3 * SECOND);
    assert!(reaches(&mut w, "vm-1", "file-2"));
}

#[test]
fn who_is_revoked_is_refused_also_while_the_server_restarts() {
    let mut w = world();
    for label in ["vm-0", "vm-1", "vm-2", "vm-3"] {
        join(&mut w, label);
    }
    assert!(reaches(&mut w, "vm-0", "vm-2"));
    let machine = at(&w, "vm-0");
    apply(&mut w, &Transition::KillAfterCommit);
    assert!(
        !w.apply(&Transition::Revoke { machine }),
        "nobody was told that it was done"
    );
    w.run(2 * SECOND);
    apply(&mut w, &Transition::ServerUp);
    w.run(12 * SECOND);
    assert!(!reaches(&mut w, "vm-0", "vm-2") && !reaches(&mut w, "vm-2", "vm-0"));
    assert!(reaches(&mut w, "vm-3", "vm-2"), "the others have the new key");
    w.settle(Epilogue::Away);
    w.must_hold();
}
