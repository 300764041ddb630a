//! `coteried`'s command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use coterie_model::Name;

/// The node daemon of Coterie: makes this machine a member of its communities.
#[derive(Debug, Clone, Parser)]
#[command(name = "coteried", version)]
pub struct Options {
    /// The bundle that was issued for this machine
    #[arg(long, value_name = "FILE", default_value = "/etc/coterie/bundle")]
    pub bundle: PathBuf,
    /// This machine's private keys, made by `coterie bundle request`
    #[arg(long, value_name = "FILE", default_value = "/etc/coterie/keys")]
    pub keys: PathBuf,
    /// A join token to become a member with where there is no bundle; default: the credential coterie.token
    #[arg(long, value_name = "FILE")]
    pub token: Option<PathBuf>,
    /// Only become a member with the token: write the bundle and the keys where --bundle and --keys say, and end
    #[arg(long, requires = "token")]
    pub enrol_only: bool,
    /// The name to ask for with a token; default: the machine's
    #[arg(long, value_name = "NAME", value_parser = Name::new)]
    pub name: Option<Name>,
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = coterie_api::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Where counters (and, without systemd, the identity) survive a restart; private to the daemon
    #[arg(
        long,
        value_name = "DIR",
        env = "STATE_DIRECTORY",
        default_value = "/var/lib/coterie"
    )]
    pub state: PathBuf,
    /// The inside interface
    #[arg(long, value_name = "NAME", default_value = "coterie0")]
    pub interface: String,
    /// The outside interfaces that lockdown makes dark; default: every interface that has the default route or an outside address
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub outside: Vec<String>,
    /// The outside address and port to listen at; default: every address, the bundle's port
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Serve Prometheus metrics here (they are on the control socket too)
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Whether nothing may leave in clear text: as the template says, or against it
    #[arg(long, value_enum, default_value_t = LockdownChoice::Auto)]
    pub lockdown: LockdownChoice,
    /// SHA-256 of the enclave's root, in hex, where it is known: a bundle of another root is refused
    #[arg(long, value_name = "HEX")]
    pub root: Option<String>,
    /// What to log, as in `info` or `coterie_node=debug`
    #[arg(long, value_name = "FILTER", env = "COTERIE_LOG", default_value = "info")]
    pub log: String,
    /// How to log
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Whether lockdown is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LockdownChoice {
    /// As the template says.
    Auto,
    /// Always.
    On,
    /// Never: clear text is not stopped.
    Off,
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people and the journal.
    Text,
    /// One JSON object a line.
    Json,
}
