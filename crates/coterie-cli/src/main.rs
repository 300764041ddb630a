//! `coterie`: the hand of users and administrators.
//!
//! One file a noun: [`enclave`] and [`bundle`] work on files, [`node`] speaks to a running `coteried`, [`server`] to a
//! configuration server, [`demo`] shows all of it on this machine. Commands compute first and write last; what they print goes through [`output`], how they end
//! through [`exit`].

mod arguments;
mod bundle;
mod clock;
mod demo;
mod directory;
mod disk;
mod enclave;
mod entropy;
mod exit;
mod explain;
mod manual;
mod node;
mod output;
mod server;
mod table;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Cli, Command};
use exit::{Exit, Outcome};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error).into(),
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Enclave(command) => enclave::run(command),
        Command::Bundle(command) => bundle::run(command),
        Command::Up(up) => node::up::run(&up),
        Command::Down(down) => node::down::run(&down),
        Command::Unlock(unlock) => node::unlock::run(&unlock),
        Command::Reload(reload) => node::reload(&reload),
        Command::Status(status) => node::status::run(&status),
        Command::Ping(ping) => node::ping::run(&ping),
        Command::Wait(wait) => node::wait::run(&wait),
        Command::Explain(explain) => explain::run(&explain),
        Command::Metrics(metrics) => node::metrics(&metrics),
        Command::Demo(demo) => demo::run(&demo),
        Command::Login(login) => server::login::login(&login),
        Command::Logout => server::login::logout(),
        Command::Apply(apply) => server::apply::apply(&apply),
        Command::Diff(diff) => server::apply::diff(&diff),
        Command::Get(get) => server::get::run(&get),
        Command::Token(command) => server::token::run(&command),
        Command::Coi(command) => server::community::run(&command),
        Command::Vm(command) => server::vm::run(&command),
        Command::Root(command) => server::root::run(&command),
        Command::Audit(command) => server::audit::run(&command),
        Command::Key(command) => server::principal::run(&command),
        Command::Tenant(command) => server::tenant::run(&command),
        Command::Schema => enclave::schema(),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { directory } => manual::pages(&directory),
        Command::Revert(revert) => node::revert::run(&revert),
    }
    .map(|()| Exit::Done)
}
