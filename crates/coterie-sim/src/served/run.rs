//! One seed of the world with a server, from beginning to end.

use super::{Totals, World, arb, quiet::Epilogue};
use crate::check::Violation;

/// Transitions of a scenario unless somebody wants another number.
pub const STEPS: usize = 60;

/// What came of a seed.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Counts.
    pub totals: Totals,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// What happened last, as a sequence diagram.
    pub diagram: String,
    steps: usize,
}

impl Report {
    /// For people: what was broken, how to see it again, and what happened last. Empty when nothing was broken.
    #[must_use]
    pub fn failure(&self) -> String {
        let Some(violation) = &self.violation else {
            return String::new();
        };
        let (seed, steps) = (self.seed, self.steps);
        format!(
            "seed {seed}: {violation}\nreplay: cargo run -p coterie-sim -- --world served --seed {seed} --steps {steps}\n{}",
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
        let epilogue = match seed % 4 {
            0 | 1 => Epilogue::None,
            2 => Epilogue::Away,
            _ => Epilogue::Closed,
        };
        world.settle(epilogue);
    }
    Report {
        seed,
        totals: world.totals.clone(),
        violation: world.violation().cloned(),
        diagram: world.ladder.diagram(),
        steps,
    }
}
