//! `coterie demo`: an enclave at work on this machine, with programs that others wrote and a hostile neighbour on the wire.
//!
//! 1. [`policy`]: the example's enclave file, and the same with other priorities, members and exclusions;
//! 2. [`site`]: the configuration server, and what its administrator does, by the commands that people type;
//! 3. [`world`]: two servers, seven machines that become members by a token, the neighbour;
//! 4. [`reach`], [`choice`], [`control`], [`newcomer`], [`recovery`], [`neighbour`]: the checks, each a line with what was
//!    measured, [`stream`] and [`sight`] what they measure with;
//! 5. [`report`]: what is printed, and what it comes to.
//!
//! All of it lives in namespaces of this program and ends with it, however that ends.

mod choice;
mod control;
mod keep;
mod neighbour;
mod newcomer;
mod policy;
mod reach;
mod recovery;
mod report;
mod sight;
mod site;
mod stream;
mod world;

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

use crate::exit::{Exit, Stop};
use report::Report;
use world::{Programs, World};

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArguments {
    /// Leave everything up afterwards, and print commands to try; Ctrl-C takes it down
    #[arg(long)]
    keep: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Even as root, work as an ordinary user would: in a user namespace
    #[arg(long)]
    user: bool,
}

pub(crate) fn run(arguments: &DemoArguments) -> anyhow::Result<()> {
    if arguments.user && rustix::process::geteuid().is_root() && std::env::var_os("COTERIE_LAB_INSIDE").is_none() {
        return as_ordinary_user();
    }
    // Outside the namespaces this does not return: it waits for the program inside and ends as that ends.
    coterie_lab::ensure_privileges()?.check_tun()?;
    let programs = Programs::find()?;
    let mut report = Report::new(arguments.json);
    report.opening(&programs);
    let mut world = World::raise(&programs, &mut report)?;
    reach::check(&world, &mut report);
    choice::check(&world, &mut report);
    control::check(&world, &mut report);
    newcomer::check(&mut world, &mut report);
    recovery::check(&world, &mut report);
    neighbour::check(&world, &mut report);
    let passed = report.close()?;
    if arguments.keep {
        keep::stay(&world, &programs, arguments.json)?;
    }
    if passed { Ok(()) } else { Err(Stop::said(Exit::Failed)) }
}

/// Starts the program anew as the user that may do least.
fn as_ordinary_user() -> anyhow::Result<()> {
    const NOBODY: &str = "65534";
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let error = Command::new("setpriv")
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(error)
        .context("cannot become an ordinary user; is util-linux's setpriv installed, and may others run this program?")
}
