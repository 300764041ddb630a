//! `coterie-server`: the configuration server.
//!
//! What it can do today is to check the enclave directory that it will work on; serving comes with a later version.

mod check;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The configuration server of Coterie.
///
/// It does not serve yet: enclaves are run by hand, with `coterie enclave` and `coterie bundle`. What it can do is to check
/// an enclave directory.
#[derive(Debug, Parser)]
#[command(
    name = "coterie-server",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check an enclave directory: signatures, key commitments, permissions, what is due; changes nothing
    ///
    /// Ends with 0 when all is well, 1 when there is something to put right, 2 on wrong usage.
    Check {
        /// The enclave directory, as `coterie enclave init` makes it
        #[arg(long, short, value_name = "DIR")]
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    let Command::Check { directory } = Cli::parse().command;
    let findings = check::check(&directory);
    let problems = findings.iter().filter(|finding| finding.is_problem).count();
    let mut text = String::new();
    for finding in &findings {
        let word = if finding.is_problem { "problem" } else { "good" };
        text.push_str(&format!("{word:<9}{}\n", finding.text));
    }
    text.push_str(&match problems {
        0 => format!("{}: good\n", directory.display()),
        1 => format!("{}: 1 problem\n", directory.display()),
        n => format!("{}: {n} problems\n", directory.display()),
    });
    // A reader that went away has lost nothing but the text: the exit code says the same.
    let _: std::io::Result<()> = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(problems > 0))
}
