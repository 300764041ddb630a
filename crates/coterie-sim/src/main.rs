//! `coterie-sim`: runs seeds, prints what was broken and how to see it again.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coterie_sim::{
    run::{self, Report, STEPS},
    transition::Transition,
};

const USAGE: &str = "coterie-sim [--seed N | --seeds A..B] [--steps N] [--threads N] [--trace]";

struct Options {
    seeds: core::ops::Range<u64>,
    steps: usize,
    threads: u64,
    trace: bool,
}

fn options(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
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
fn name_seed_of_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        let seed = SEED.get();
        eprintln!("seed {seed}: a panic\nreplay: cargo run -p coterie-sim -- --seed {seed}");
    }));
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
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        for (kind, n) in &report.totals.transitions {
            *self.transitions.entry(kind).or_insert(0) += n;
        }
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
        for (what, n) in numbers {
            *self.numbers.entry(what).or_insert(0) += n;
        }
        self.slowest = self.slowest.max(t.slowest);
        self.violations += u64::from(report.violation.is_some());
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

    fn lines(&self) -> String {
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
            Transition::KINDS.len(),
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
        let report = std::panic::catch_unwind(|| run::run(seed, options.steps, options.trace));
        match report {
            Ok(report) => {
                if report.violation.is_some() {
                    println!("{}", report.failure());
                } else if options.trace {
                    println!("{}", report.diagram);
                }
                sum.add(&report);
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
    name_seed_of_panics();
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
    println!("{}", sum.lines());
    if sum.violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
