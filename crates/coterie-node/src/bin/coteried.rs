//! `coteried`: the node daemon.

use std::process::ExitCode;

use clap::Parser as _;
use coterie_node::{
    daemon,
    enrol::{self, Refused},
    options::Options,
    service,
};

/// The server refuses this machine (`EX_NOPERM`).
const REFUSED: u8 = 77;

fn main() -> ExitCode {
    let options = Options::parse();
    match daemon::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // Nothing else is left to do with an error of the last line.
            let _gone = writeln!(std::io::stderr(), "coteried: {error:#}");
            if error.is::<Refused>() {
                enrol::rest(&options);
                return ExitCode::from(REFUSED);
            }
            service::breathe();
            ExitCode::FAILURE
        }
    }
}
