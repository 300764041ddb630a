//! What the demo prints: progress on standard error, a line a check on standard output, or all of it as JSON at the end.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use coterie_lab::LabError;
use serde::Serialize;
use serde_json::json;

use super::world::Programs;
use crate::output::{self, Paint};

/// The checks so far.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    paint: Paint,
    /// Standard error is a terminal, on which a line of progress can be written over.
    live: bool,
    start: Instant,
    section: &'static str,
    results: Vec<Line>,
    programs: Option<Programs>,
    /// Standard output takes no more.
    deaf: bool,
}

/// One check.
#[derive(Debug, Serialize)]
struct Line {
    section: &'static str,
    name: String,
    outcome: Outcome,
    /// What was measured, or what was wrong.
    measured: String,
    took_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            paint: Paint::stdout(),
            live: std::io::stderr().is_terminal(),
            start: Instant::now(),
            section: "",
            results: Vec::new(),
            programs: None,
            deaf: false,
        }
    }

    /// Says what runs here.
    pub(super) fn opening(&mut self, programs: &Programs) {
        self.programs = Some(programs.clone());
        let who = if programs.mapped {
            "as an ordinary user, in a user namespace"
        } else {
            "as root"
        };
        self.say(&format!("Coterie {} at work, {who}", env!("CARGO_PKG_VERSION")));
        for (name, program) in [
            ("coterie", &programs.coterie),
            ("coteried", &programs.coteried),
            ("coterie-server", &programs.server),
        ] {
            self.say(&format!(
                "  {name:<14}  sha256 {}  {}",
                program.sha256,
                program.path.display()
            ));
        }
        for (program, package) in coterie_lab::programs::missing() {
            self.say(&format!(
                "  {program} is not installed (package {package}): what needs it is skipped"
            ));
        }
    }

    /// Tells what is being done, on standard error.
    pub(super) fn progress(&self, what: &str) {
        if self.live {
            eprint!("\r\x1b[2K{what} …");
            // Nobody depends on it.
            let _: std::io::Result<()> = std::io::stderr().flush();
        } else {
            eprintln!("{what} …");
        }
    }

    fn end_progress(&self) {
        if self.live {
            eprint!("\r\x1b[2K");
            let _: std::io::Result<()> = std::io::stderr().flush();
        }
    }

    /// Says something between checks.
    pub(super) fn say(&mut self, text: &str) {
        self.end_progress();
        // A reader that went away does not end the checks: their count is the exit code.
        if !self.json && !self.deaf && output::print(text).is_err() {
            self.deaf = true;
        }
    }

    /// Begins a group of checks.
    pub(super) fn section(&mut self, title: &'static str) {
        self.section = title;
        let title = format!("\n{}", self.paint.bold(title));
        self.say(&title);
    }

    /// Makes a check: what it measured, or why it failed. A program that is not installed is a reason to skip it.
    pub(super) fn check(&mut self, name: impl Into<String>, check: impl FnOnce() -> anyhow::Result<String>) {
        let name = name.into();
        if self.live {
            self.progress(&name);
        }
        let start = Instant::now();
        let (outcome, measured) = match check() {
            Ok(measured) => (Outcome::Passed, measured),
            Err(error) => {
                let is_skip = error
                    .chain()
                    .filter_map(|e| e.downcast_ref::<LabError>())
                    .any(LabError::is_skip);
                (
                    if is_skip { Outcome::Skipped } else { Outcome::Failed },
                    format!("{error:#}"),
                )
            }
        };
        let word = match outcome {
            Outcome::Passed => self.paint.green("pass"),
            Outcome::Failed => self.paint.red("FAIL"),
            Outcome::Skipped => self.paint.yellow("skip"),
        };
        self.say(&format!("{word}  {name}: {measured}"));
        let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.results.push(Line {
            section: self.section,
            name,
            outcome,
            measured,
            took_ms,
        });
    }

    /// Says what it came to; `true` when nothing failed.
    pub(super) fn close(&mut self) -> anyhow::Result<bool> {
        let count = |outcome| self.results.iter().filter(|line| line.outcome == outcome).count();
        let (passed, failed, skipped) = (count(Outcome::Passed), count(Outcome::Failed), count(Outcome::Skipped));
        let seconds = self.start.elapsed().as_secs_f64();
        if self.json {
            self.end_progress();
            output::print_json(&json!({
                "version": env!("CARGO_PKG_VERSION"),
                "programs": self.programs,
                "checks": self.results,
                "passed": passed,
                "failed": failed,
                "skipped": skipped,
                "seconds": seconds,
            }))?;
        } else {
            let skips = if skipped > 0 {
                format!(", {skipped} skipped for want of a program")
            } else {
                String::new()
            };
            self.say(&format!("\n{seconds:.1} s{skips}"));
            self.say(&format!("{passed} passed, {failed} failed"));
        }
        Ok(failed == 0)
    }
}
