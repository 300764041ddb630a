//! Two hundred random worlds: every kind of transition occurs, and no promise is broken in any.

use std::collections::BTreeMap;
use std::time::Duration;

use coterie_sim::{
    run::{STEPS, run},
    transition::Transition,
};

#[test]
fn two_hundred_worlds_keep_every_promise() {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut talking, mut silent, mut slowest) = (0, 0, Duration::ZERO);
    for seed in 0..200 {
        let report = run(seed, STEPS, false);
        assert!(report.violation.is_none(), "{}", report.failure());
        report
            .totals
            .transitions
            .iter()
            .for_each(|(kind, n)| *kinds.entry(kind).or_insert(0) += n);
        talking += report.totals.talking;
        silent += report.totals.silent;
        slowest = slowest.max(report.totals.slowest);
    }
    assert_eq!(kinds.len(), Transition::KINDS.len(), "{kinds:?}");
    assert!(
        talking > 500 && silent > 500,
        "the model demanded something: {talking} talk, {silent} are silent"
    );
    assert!(slowest < Duration::from_secs(10));
}

#[test]
fn a_seed_lives_the_same_life_twice() {
    for seed in [3, 77, 150] {
        let (a, b) = (run(seed, STEPS, true), run(seed, STEPS, true));
        assert_eq!(a.diagram, b.diagram);
        assert!(a.totals.datagrams > 0);
    }
}
