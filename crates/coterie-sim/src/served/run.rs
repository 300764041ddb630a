//! One seed of the world with a server, from beginning to end.

use super::{Totals, World, arb, quiet::Epilogue};
use crate::run::Report;

/// Runs the scenario of `seed`: `steps` transitions, then calm. With `trace`, all that happened is kept.
#[must_use]
pub fn run(seed: u64, steps: usize, trace: bool) -> Report<Totals> {
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
        world: "served",
        steps,
    }
}
