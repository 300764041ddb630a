//! `coterie-server`: the configuration server.
//!
//! A request's way: [`listener`] shakes hands and finds out who calls; [`people`] or [`nodes`] reads what is asked; the
//! enclave's [`keeper`] does it, together with what others ask at the same time, in one transaction; who follows is told, then
//! who asked.

mod check;
mod clock;
mod entropy;
mod hex;
mod keeper;
mod listener;
mod make;
mod metrics;
mod nodes;
mod people;
mod refusal;
mod registry;
mod start;
mod tasks;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The configuration server of Coterie: enrols machines, tells them of each other, rotates keys, revokes.
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
    /// Make a new server: root key, database, authority, and the operator's first key, which is printed once
    Init {
        #[command(flatten)]
        place: Place,
    },
    /// Serve
    Serve {
        #[command(flatten)]
        place: Place,
        /// Where to listen, for nodes and people
        #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:4750")]
        listen: SocketAddr,
        /// Where nodes reach this server; may be given several times; where none is, they reach it by doors alone
        #[arg(long, value_name = "ADDR:PORT")]
        advertise: Vec<SocketAddr>,
        /// A name or address by which people call this server, for its certificate; may be given several times
        #[arg(long = "name", value_name = "NAME", default_values_t = [String::from("localhost"), String::from("127.0.0.1")])]
        names: Vec<String>,
        /// A certificate for people (PEM, with its chain), in the place of one of the server's own authority
        #[arg(long, value_name = "FILE", requires = "key")]
        certificate: Option<PathBuf>,
        /// Its key (PEM)
        #[arg(long, value_name = "FILE", requires = "certificate")]
        key: Option<PathBuf>,
        /// Tell health and metrics here, in clear; for loopback
        #[arg(long, value_name = "ADDR:PORT")]
        health: Option<SocketAddr>,
        /// What to log, as in `info` or `coterie_server=debug`
        #[arg(long, value_name = "FILTER", env = "COTERIE_LOG", default_value = "info")]
        log: String,
    },
    /// Make a key for the operator, where the first one was lost; prints it once
    OperatorKey {
        #[command(flatten)]
        place: Place,
        /// The key's name
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// Make a backup, also while the server works
    Backup {
        #[command(flatten)]
        place: Place,
        /// The file to make
        #[arg(value_name = "FILE")]
        to: PathBuf,
    },
    /// Make the database from a backup, in a directory that has its root key and no database
    Restore {
        #[command(flatten)]
        place: Place,
        /// The backup
        #[arg(value_name = "FILE")]
        from: PathBuf,
    },
    /// Check the database, also while the server works: structure, seals, signatures, audit chain; changes nothing
    ///
    /// Ends with 0 when all is well, 1 when there is something to put right, 2 on wrong usage.
    Check {
        #[command(flatten)]
        place: Place,
    },
    /// Check an enclave directory, as `coterie enclave init` makes it; changes nothing
    ///
    /// Ends with 0 when all is well, 1 when there is something to put right, 2 on wrong usage.
    CheckEnclave {
        /// The enclave directory
        #[arg(long, short, value_name = "DIR")]
        directory: PathBuf,
    },
}

/// Where a server is.
#[derive(Debug, clap::Args)]
struct Place {
    /// The server's directory, private to it
    #[arg(
        long,
        short,
        value_name = "DIR",
        env = "STATE_DIRECTORY",
        default_value = "/var/lib/coterie-server"
    )]
    directory: PathBuf,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell when this cannot be told.
            let _: std::io::Result<()> = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("coterie-server: {error:#}\n").as_bytes(),
            );
            ExitCode::from(1)
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match command {
        Command::Init { place } => runtime()?.block_on(make::init(&place.directory)),
        Command::Serve {
            place,
            listen,
            advertise,
            names,
            certificate,
            key,
            health,
            log,
        } => {
            start_log(&log)?;
            let start = start::Start {
                directory: place.directory,
                listen,
                advertise,
                names,
                certificate: certificate.zip(key),
                health,
            };
            runtime()?.block_on(start::serve(start))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::OperatorKey { place, name } => runtime()?.block_on(make::operator_key(&place.directory, &name)),
        Command::Backup { place, to } => runtime()?.block_on(make::backup(&place.directory, &to)),
        Command::Restore { place, from } => runtime()?.block_on(make::restore(&place.directory, &from)),
        Command::Check { place } => runtime()?.block_on(make::check(&place.directory)),
        Command::CheckEnclave { directory } => Ok(check::report(&directory)),
    }
}

fn start_log(filter: &str) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let parsed = tracing_subscriber::EnvFilter::try_new(filter)
        .with_context(|| format!("--log {filter:?} is no filter; try `info` or `coterie_server=debug`"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr);
    // The journal has its own time stamps, and colours are noise there.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().with_ansi(false).init();
    } else {
        builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init();
    }
    Ok(())
}
