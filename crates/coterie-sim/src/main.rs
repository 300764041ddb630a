//! `coterie-sim`: runs seeds, prints what was broken and how to see it again.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coterie_sim::{
    run::{self, Report, STEPS},
    served, transition,
};

const USAGE: &str = "coterie-sim [--world nodes|served] [--seed N | --seeds A..B] [--steps N] [--threads N] [--trace]";

/// Which worlds are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    /// Nodes, and an issuer that tells them everything.
    Nodes,
    /// An enclave with a server.
    Served,
}

struct Options {
    world: World,
    seeds: core::ops::Range<u64>,
    steps: usize,
    threads: u64,
    trace: bool,
}

fn options(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        world: World::Nodes,
        seeds: 0..200,
        steps: STEPS,
        threads: 2,
        trace: false,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next();
        match argument.as_str() {
            "--seed" => {
                let seed: u64 = value()?.parse().ok()?;
                options.seeds = seed..seed + 1;
            }
            "--seeds" => {
                let range = value()?;
                let (first, end) = range.split_once("..")?;
                options.seeds = first.parse().ok()?..end.parse().ok()?;
            }
            "--world" => {
                options.world = match value()?.as_str() {
                    "nodes" => World::Nodes,
                    "served" => World::Served,
                    _ => return None,
                }
            }
            "--steps" => options.steps = value()?.parse().ok()?,
            "--threads" => options.threads = value()?.parse().ok().filter(|n| *n > 0)?,
            "--trace" => options.trace = true,
            _ => return None,
        }
    }
    (!options.seeds.is_empty()).then_some(options)
}

thread_local! {
    /// What a thread works on, for the case that it panics: a release build ends there.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Names the seed of a panic, whatever becomes of the process.
fn name_seed_of_panics(world: World) {
    let usual = std::panic::take_hook();
    let world = match world {
        World::Nodes => "nodes",
        World::Served => "served",
    };
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        let seed = SEED.get();
        eprintln!("seed {seed}: a panic\nreplay: cargo run -p coterie-sim -- --world {world} --seed {seed}");
    }));
}

/// What came of one seed.
struct Outcome {
    transitions: BTreeMap<&'static str, u64>,
    numbers: BTreeMap<&'static str, u64>,
    slowest: Duration,
    /// What was broken, for people.
    failure: Option<String>,
    diagram: String,
}

impl Outcome {
    fn of(options: &Options, seed: u64) -> Self {
        match options.world {
            World::Nodes => Self::of_nodes(&run::run(seed, options.steps, options.trace)),
            World::Served => {
                let report = served::run::run(seed, options.steps, options.trace);
                Self {
                    failure: report.violation.is_some().then(|| report.failure()),
                    transitions: report.totals.transitions,
                    numbers: report.totals.numbers,
                    slowest: report.totals.slowest,
                    diagram: report.diagram,
                }
            }
        }
    }

    fn of_nodes(report: &Report) -> Self {
        let t = &report.totals;
        let numbers = [
            ("datagrams", t.datagrams),
            ("packets", t.packets),
            ("delivered", t.delivered),
            ("sessions", t.sessions),
            ("twins noticed", t.twins),
            ("pairs that talk", t.talking),
            ("pairs that are silent", t.silent),
            ("pairs unclear", t.unclear),
        ];
        Self {
            transitions: t.transitions.clone(),
            numbers: numbers.into(),
            slowest: t.slowest,
            failure: report.violation.is_some().then(|| report.failure()),
            diagram: report.diagram.clone(),
        }
    }
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    transitions: BTreeMap<&'static str, u64>,
    numbers: BTreeMap<&'static str, u64>,
    slowest: Duration,
    violations: u64,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        for (kind, n) in &outcome.transitions {
            *self.transitions.entry(kind).or_insert(0) += n;
        }
        for (what, n) in &outcome.numbers {
            *self.numbers.entry(what).or_insert(0) += n;
        }
        self.slowest = self.slowest.max(outcome.slowest);
        self.violations += u64::from(outcome.failure.is_some());
    }

    fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        other
            .transitions
            .into_iter()
            .for_each(|(k, n)| *self.transitions.entry(k).or_insert(0) += n);
        other
            .numbers
            .into_iter()
            .for_each(|(k, n)| *self.numbers.entry(k).or_insert(0) += n);
        self.slowest = self.slowest.max(other.slowest);
        self.violations += other.violations;
    }

    fn lines(&self, kinds: usize) -> String {
        let join = |counts: &BTreeMap<&'static str, u64>| {
            counts
                .iter()
                .map(|(k, n)| format!("{k} {n}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let total: u64 = self.transitions.values().sum();
        format!(
            "{}; slowest convergence {:?}\n{} seeds, {total} transitions ({} of {} kinds: {}), {} violations",
            join(&self.numbers),
            self.slowest,
            self.seeds,
            self.transitions.len(),
            kinds,
            join(&self.transitions),
            self.violations
        )
    }
}

#[expect(clippy::print_stdout, reason = "what this program prints is what it is for")]
fn work(options: &Options, next: &AtomicU64) -> Sum {
    let mut sum = Sum::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= options.seeds.end {
            return sum;
        }
        SEED.set(seed);
        match std::panic::catch_unwind(|| Outcome::of(options, seed)) {
            Ok(outcome) => {
                if let Some(failure) = &outcome.failure {
                    println!("{failure}");
                } else if options.trace {
                    println!("{}", outcome.diagram);
                }
                sum.add(&outcome);
            }
            Err(_panicked) => {
                sum.seeds += 1;
                sum.violations += 1;
            }
        }
        let done = seed + 1 - options.seeds.start;
        if done.is_multiple_of(1000) {
            println!("{done} seeds begun");
        }
    }
}

#[expect(clippy::print_stdout, reason = "what this program prints is what it is for")]
#[expect(
    clippy::disallowed_methods,
    reason = "the worlds are pure; what runs them has arguments and threads"
)]
fn main() -> ExitCode {
    let Some(options) = options(std::env::args().skip(1)) else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    name_seed_of_panics(options.world);
    let next = AtomicU64::new(options.seeds.start);
    let mut sum = Sum::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads)
            .map(|_| scope.spawn(|| work(&options, &next)))
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(part) => sum.merge(part),
                Err(_panicked) => sum.violations += 1,
            }
        }
    });
    let kinds = match options.world {
        World::Nodes => transition::Transition::KINDS.len(),
        World::Served => served::action::Transition::KINDS.len(),
    };
    println!("{}", sum.lines(kinds));
    if sum.violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
