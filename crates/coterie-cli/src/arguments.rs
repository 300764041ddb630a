//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{
    bundle::BundleCommand, demo::DemoArguments, enclave::EnclaveCommand, exit, explain::ExplainArguments, node, server,
};

/// Isolates virtual machines by cryptography: only machines that share a community can exchange packets
#[derive(Debug, Parser)]
#[command(name = "coterie", version, max_term_width = 100, after_help = exit::HELP)]
#[command(disable_help_subcommand = true, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show Coterie at work on this machine: seven machines, two servers, a hostile neighbour, in namespaces
    Demo(DemoArguments),
    /// Make this machine a member: start coteried with a bundle and wait until it is ready
    Up(node::up::UpArguments),
    /// End all sessions and stop coteried; a lockdown stays unless --unlock
    Down(node::down::DownArguments),
    /// Take the lockdown away: clear text can leave this machine again; sessions go on
    Unlock(node::NodeArguments),
    /// Have coteried read its bundle again; sessions go on
    Reload(node::NodeArguments),
    /// Show this machine's state: communities, peers, sessions, drops
    Status(node::ReadArguments),
    /// Measure sealed round trips to a member, making a session if there is none
    Ping(node::ping::PingArguments),
    /// Wait until a member can be reached, or until coteried is ready
    Wait(node::wait::WaitArguments),
    /// Say why a member is reached as it is, or is not
    Explain(ExplainArguments),
    /// Print coteried's metrics in Prometheus text format
    Metrics(node::NodeArguments),
    /// Log in to a configuration server; COTERIE_SERVER, COTERIE_KEY and COTERIE_CA do it for one command
    Login(server::login::LoginArguments),
    /// Forget the login
    Logout,
    /// Make the server's enclave as its file says, after showing who reaches whom otherwise
    Apply(server::apply::ApplyArguments),
    /// Show what applying an enclave file would change
    Diff(server::apply::DiffArguments),
    /// List what the server has: enclaves, members, communities, tokens, principals
    Get(server::get::GetArguments),
    /// Make, list and end tokens, with which machines join by themselves
    #[command(subcommand)]
    Token(server::token::TokenCommand),
    /// Replace keys of communities of interest
    #[command(subcommand)]
    Coi(server::community::CommunityCommand),
    /// Cut members off, let them back in, end them
    #[command(subcommand)]
    Vm(server::vm::VmCommand),
    /// Replace the root of an enclave
    #[command(subcommand)]
    Root(server::root::RootCommand),
    /// Read the audit log
    #[command(subcommand)]
    Audit(server::audit::AuditCommand),
    /// Make, list and end keys of people and programs that call the server
    #[command(subcommand)]
    Key(server::principal::KeyCommand),
    /// Make, list and remove tenants; for the server's operator
    #[command(subcommand)]
    Tenant(server::tenant::TenantCommand),
    /// Make, check and change an enclave from its file, without a server; remove one from a server
    #[command(subcommand)]
    Enclave(EnclaveCommand),
    /// Make, show and check bundles, which make machines members
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Print the JSON Schema of the enclave file, for editors
    Schema,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages
    #[command(hide = true)]
    Man {
        /// Where to; it must exist
        directory: PathBuf,
    },
    /// Stop coteried and lift its lockdown after a while unless `coterie up --confirm` comes first
    #[command(hide = true)]
    Revert(node::revert::RevertArguments),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
