//! The checkers of the world with a server under test: each is shown a world with a deliberate defect, and must find just that
//! one.

use std::time::Duration;

use coterie_sim::{
    check::Promise,
    served::{Epilogue, Sabotage, World, action::Transition, arb::plain_layout},
};

const SECOND: Duration = Duration::from_secs(1);

fn at(w: &World, label: &str) -> usize {
    w.machine(label).expect("a machine of the plain layout")
}

fn join(w: &mut World, label: &str) {
    let machine = at(w, label);
    let token = Transition::CreateToken {
        machine,
        uses: 1,
        lasts: 300 * SECOND,
        direct: true,
    };
    assert!(w.apply(&token) && w.apply(&Transition::Enrol { machine }), "{label}");
    w.run(3 * SECOND);
}

/// A world in which `vm-0` to `vm-2` have joined, with a defect from here on.
fn world(defect: Sabotage) -> World {
    let mut w = World::new(1, &plain_layout());
    w.run(3 * SECOND);
    ["vm-0", "vm-1", "vm-2"].iter().for_each(|label| join(&mut w, label));
    w.must_hold();
    w.sabotage(defect);
    w
}

fn noticed(w: &World) -> Option<Promise> {
    w.violation().map(|violation| violation.breach.promise)
}

#[test]
fn who_is_refused_and_nobody_was_told() {
    let mut w = world(Sabotage::HideRefusals);
    let machine = at(&w, "file-1");
    assert!(w.apply(&Transition::Isolate { machine }));
    w.run(4 * SECOND);
    w.must_hold();
    w.run(3 * SECOND);
    assert_eq!(noticed(&w), Some(Promise::Refusal));
}

#[test]
fn who_joined_and_nobody_was_told() {
    let mut w = world(Sabotage::HideViews);
    join(&mut w, "vm-3");
    w.settle(Epilogue::None);
    assert_eq!(noticed(&w), Some(Promise::Views));
}

#[test]
fn a_token_that_makes_two_members() {
    let mut w = world(Sabotage::SpendTwice);
    join(&mut w, "vm-3");
    let (first, second) = (at(&w, "vm-3"), at(&w, "vm-4"));
    w.machines[second].disk.token = w.machines[first].disk.token.clone();
    w.machines[second].template = w.machines[first].template.clone();
    assert!(w.apply(&Transition::Enrol { machine: second }));
    w.run(3 * SECOND);
    assert_eq!(noticed(&w), Some(Promise::Token));
}

#[test]
fn a_machine_that_is_a_member_and_waits_at_a_door() {
    let mut w = world(Sabotage::ForgetSpent);
    let machine = at(&w, "vm-3");
    let token = Transition::CreateToken {
        machine,
        uses: 1,
        lasts: 300 * SECOND,
        direct: false,
    };
    assert!(w.apply(&token) && w.apply(&Transition::Enrol { machine }));
    // The answer is lost, and then the visit: the doors do not know the token any more.
    let before = w.server.store.revision;
    while w.server.store.revision == before {
        w.run(SECOND / 100);
    }
    for door in ["door-1", "door-2"] {
        let a = at(&w, door);
        assert!(w.apply(&Transition::Partition {
            a,
            b: machine,
            one_way: true,
        }));
    }
    w.run(30 * SECOND);
    w.settle(Epilogue::None);
    assert_eq!(noticed(&w), Some(Promise::Liveness));
}

#[test]
fn a_server_that_forgets_what_it_committed() {
    let mut w = world(Sabotage::ForgetCommit);
    assert!(w.apply(&Transition::Backup));
    let machine = at(&w, "file-1");
    assert!(w.apply(&Transition::Isolate { machine }));
    w.run(SECOND);
    assert!(w.apply(&Transition::ServerDown));
    w.run(SECOND);
    assert!(w.apply(&Transition::ServerUp));
    w.run(20 * SECOND);
    assert!(
        matches!(noticed(&w), Some(Promise::Order | Promise::Alarm)),
        "{:?}",
        w.violation()
    );
}

#[test]
fn a_server_that_tells_nobody_that_bundles_are_old() {
    let mut w = world(Sabotage::ForgetRenewals);
    let (machine, community) = (at(&w, "vm-2"), "red".to_owned());
    assert!(w.apply(&Transition::CutServer { machine }));
    w.run(8 * SECOND);
    assert!(w.apply(&Transition::RollRemoval { community }));
    // What changed meanwhile is not told one by one any more.
    assert!(w.apply(&Transition::PruneLog) && w.apply(&Transition::Renew { machine: 0 }));
    w.run(3 * SECOND);
    assert!(w.apply(&Transition::PruneLog));
    w.settle(Epilogue::None);
    assert_eq!(noticed(&w), Some(Promise::Views));
}

#[test]
fn revocations_that_a_restart_forgets() {
    let mut w = world(Sabotage::ForgetRevocations);
    let (isolated, machine) = (at(&w, "file-1"), at(&w, "vm-0"));
    assert!(w.apply(&Transition::Isolate { machine: isolated }));
    w.run(2 * SECOND);
    assert!(w.apply(&Transition::ServerDown) && w.apply(&Transition::KillNode { machine }));
    w.run(3 * SECOND);
    assert_eq!(noticed(&w), Some(Promise::Order));
}

#[test]
fn a_restart_that_forgets_how_late_it_is() {
    let mut w = world(Sabotage::ForgetTime);
    let (from, to) = (at(&w, "vm-0"), at(&w, "vm-2"));
    assert!(w.apply(&Transition::ServerDown));
    for _ in 0..20 {
        w.run(20 * SECOND);
        for machine in [from, to] {
            w.apply(&Transition::KillNode { machine });
        }
        w.run(SECOND);
        w.apply(&Transition::Traffic { from, to, count: 1 });
    }
    assert_eq!(noticed(&w), Some(Promise::Lease));
}
