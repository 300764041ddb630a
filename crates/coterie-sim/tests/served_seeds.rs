//! Two hundred random worlds with a server: every kind of transition occurs, and no promise is broken in any.

use std::collections::BTreeMap;
use std::time::Duration;

use coterie_sim::{
    run::{Report, STEPS},
    served::{Totals, action::Transition, run::run},
};

const SEEDS: u64 = 200;

#[expect(
    clippy::disallowed_methods,
    reason = "the worlds are pure; what runs them has two cores"
)]
fn reports() -> Vec<Report<Totals>> {
    let half = |from: u64| {
        move || {
            (from..SEEDS)
                .step_by(2)
                .map(|seed| run(seed, STEPS, false))
                .collect::<Vec<_>>()
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(half(1));
        let mut reports = half(0)();
        reports.extend(other.join().expect("a world of the other half panicked"));
        reports
    })
}

#[test]
fn two_hundred_worlds_with_a_server_keep_every_promise() {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
    for report in reports() {
        assert!(report.violation.is_none(), "{}", report.failure());
        assert!(report.totals.slowest < Duration::from_secs(10));
        for (kind, n) in &report.totals.transitions {
            *kinds.entry(kind).or_insert(0) += n;
        }
        for (what, n) in &report.totals.numbers {
            *numbers.entry(what).or_insert(0) += n;
        }
    }
    let missing: Vec<_> = Transition::KINDS
        .iter()
        .filter(|kind| !kinds.contains_key(*kind))
        .collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
    for (what, least) in [
        ("pairs that talk", 2000),
        ("pairs that are silent", 600),
        ("views compared", 800),
        ("enrolments", 400),
        ("applications refused", 200),
        ("kills of the server", 150),
        ("nodes closed", 200),
    ] {
        let n = numbers.get(what).copied().unwrap_or(0);
        assert!(
            n >= least,
            "{what}: {n}, and {least} are the least that shows something"
        );
    }
}

#[test]
fn a_seed_lives_the_same_life_twice() {
    for seed in [3, 77, 150] {
        let (a, b) = (run(seed, STEPS, true), run(seed, STEPS, true));
        assert_eq!(a.diagram, b.diagram);
    }
}
