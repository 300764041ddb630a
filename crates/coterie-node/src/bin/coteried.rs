//! `coteried`: the node daemon.

use clap::Parser as _;
use coterie_node::{daemon, options::Options, service};

fn main() -> std::process::ExitCode {
    let options = Options::parse();
    match daemon::run(&options) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // Nothing else is left to do with an error of the last line.
            let _gone = writeln!(std::io::stderr(), "coteried: {error:#}");
            service::breathe();
            std::process::ExitCode::FAILURE
        }
    }
}
