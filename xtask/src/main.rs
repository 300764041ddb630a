//! The machine's rules: what no reviewer should have to look for.
//!
//! | command | what it checks |
//! |---|---|
//! | `edges` | no crate depends on one that it must not know |
//! | `purity` | ban lists, `unsafe`, sizes, names, markers of unfinished work, traces of a machine |
//! | `schema` | the published JSON Schema is the one that the code has (`--write` makes it so) |
//! | `docs` | links, paths, functions and make targets that the documents name exist |
//! | `ci` | all of these |
//!
//! Each prints what it found, one line a problem with its place, and ends with 1 if there was any.

mod docs;
mod edges;
mod names;
mod purity;
mod rust;
mod schema;
mod text;
mod tree;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use tree::Tree;

/// What a check found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What must be put right.
    pub(crate) problems: Vec<String>,
    /// What is worth knowing.
    pub(crate) notes: Vec<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> anyhow::Result<usize> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let tree = Tree::open()?;
    let checks: Vec<(&str, Findings)> = match words.as_slice() {
        ["edges"] => vec![("edges", edges::check(&tree)?)],
        ["purity"] => vec![("purity", purity::check(&tree)?)],
        ["schema"] => vec![("schema", schema::check(&tree)?)],
        ["schema", "--write"] => vec![("schema", schema::write(&tree)?)],
        ["docs"] => vec![("docs", docs::check(&tree)?)],
        ["ci"] => vec![
            ("edges", edges::check(&tree)?),
            ("purity", purity::check(&tree)?),
            ("schema", schema::check(&tree)?),
            ("docs", docs::check(&tree)?),
        ],
        _ => bail!("usage: cargo run -p xtask -- edges | purity | schema [--write] | docs | ci"),
    };
    report(&checks)
}

/// Prints what was found and counts the problems.
fn report(checks: &[(&str, Findings)]) -> anyhow::Result<usize> {
    let mut out = std::io::stdout().lock();
    let mut count = 0;
    for (name, findings) in checks {
        for note in &findings.notes {
            writeln!(out, "{name}: note: {note}")?;
        }
        for problem in &findings.problems {
            writeln!(out, "{name}: {problem}")?;
        }
        let verdict = match findings.problems.len() {
            0 => "good".to_owned(),
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        };
        writeln!(out, "{name}: {verdict}")?;
        count += findings.problems.len();
    }
    out.flush().context("cannot print")?;
    Ok(count)
}
