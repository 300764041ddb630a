//! One seed from beginning to end.

use crate::{
    arb,
    check::Violation,
    world::{Totals, World},
};

/// Transitions of a scenario unless somebody wants another number.
pub const STEPS: usize = 60;

/// What came of a seed, with the counts of its world.
#[derive(Debug)]
pub struct Report<T = Totals> {
    /// The seed.
    pub seed: u64,
    /// Counts.
    pub totals: T,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// What happened last, as a sequence diagram.
    pub diagram: String,
    /// What the program calls the world.
    pub(crate) world: &'static str,
    pub(crate) steps: usize,
}

impl<T> Report<T> {
    /// For people: what was broken, how to see it again, and what happened last. Empty when nothing was broken.
    #[must_use]
    pub fn failure(&self) -> String {
        let Some(violation) = &self.violation else {
            return String::new();
        };
        let (world, seed, steps) = (self.world, self.seed, self.steps);
        format!(
            "seed {seed}: {violation}\nreplay: cargo run -p coterie-sim -- --world {world} --seed {seed} --steps {steps}\n{}",
            self.diagram
        )
    }
}

/// Runs the scenario of `seed`: `steps` transitions, then calm. With `trace`, all that happened is kept.
#[must_use]
pub fn run(seed: u64, steps: usize, trace: bool) -> Report {
    let scenario = arb::scenario(seed, steps);
    let mut world = World::new(seed, &scenario.layout);
    if trace {
        world.ladder.capacity = usize::MAX;
    }
    for (wait, transition) in &scenario.steps {
        world.run(*wait);
        if world.violation().is_some() {
            break;
        }
        world.apply(transition);
    }
    if world.violation().is_none() {
        world.settle();
    }
    Report {
        seed,
        totals: world.totals.clone(),
        violation: world.violation().cloned(),
        diagram: world.ladder.diagram(),
        world: "nodes",
        steps,
    }
}
