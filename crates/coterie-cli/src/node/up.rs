//! `coterie up`: from a bundle to a member.
//!
//! 1. bundle and keys are checked whole, before anything changes;
//! 2. where the lockdown would cut the caller's own SSH connection, it is asked for first, and taken back unless confirmed;
//! 3. coteried is started: by systemd where that knows it, with the files in `/etc/coterie`; else as a process of its own;
//! 4. done when the control socket answers.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use coterie_api::{Request, node::Status};
use coterie_control::bundle::Opened;

use super::{Socket, revert, systemd};
use crate::{
    bundle,
    disk::{self, Access},
    exit::{Exit, Stop},
    output,
};

/// How long coteried may take until it answers.
const READY: Duration = Duration::from_secs(10);
/// How long a person has to confirm.
const CONFIRMATION: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// The bundle that the issuer made
    #[arg(long, value_name = "FILE", required_unless_present = "confirm")]
    bundle: Option<PathBuf>,
    /// The keys that `coterie bundle request` made here
    #[arg(long, value_name = "FILE", required_unless_present = "confirm")]
    keys: Option<PathBuf>,
    /// Keep what an earlier `coterie up` over SSH has started
    #[arg(long, conflicts_with_all = ["bundle", "keys"])]
    confirm: bool,
    /// Do not ask before a lockdown that would cut this SSH connection; it still has to be confirmed afterwards
    #[arg(long, short)]
    yes: bool,
    /// Name of the inside interface
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Outside interfaces, which the lockdown makes dark
    #[arg(long, value_name = "IFACE,…", value_delimiter = ',')]
    outside: Vec<String>,
    /// Outside address and UDP port
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Where metrics are served, such as 127.0.0.1:9747
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Whether clear text is kept off the outside interfaces; auto: as the template says
    #[arg(long, value_enum, default_value_t)]
    lockdown: Lockdown,
    /// Where coteried keeps its state
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Lockdown {
    #[default]
    Auto,
    On,
    Off,
}

impl Lockdown {
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

pub(crate) fn run(arguments: &UpArguments) -> anyhow::Result<()> {
    let (Some(bundle_path), Some(keys_path)) = (&arguments.bundle, &arguments.keys) else {
        revert::confirm(&arguments.socket)?;
        return output::print("confirmed: coteried stays up");
    };
    let keys = bundle::read_keys(keys_path)?;
    let opened = bundle::open(bundle_path, &keys, None)?;
    let by_systemd = arguments.socket.is_default() && arguments.state.is_none() && systemd::has_unit();
    if let Ok(status) = arguments.socket.status() {
        return renew(arguments, &status, &opened, by_systemd && systemd::is_active());
    }
    let cuts = cut_connection(arguments, &opened);
    if let Some(address) = cuts {
        ask(arguments, address)?;
        revert::arm(&arguments.socket, CONFIRMATION)?;
    }
    let started = if by_systemd {
        start_unit(arguments)
    } else {
        start_process(arguments)
    };
    let status = match started {
        Ok(status) => status,
        Err(error) => {
            // It may have loaded its lockdown before it failed, and the caller is outside.
            if cuts.is_some()
                && let Err(other) = revert::now(&arguments.socket)
            {
                let advice = "what was begun could not be taken back; run `coterie down --unlock`";
                return Err(error.context(format!("{advice} ({other:#})")));
            }
            return Err(error);
        }
    };
    output::print(&format!(
        "{} of enclave {} is up: {} on {}, UDP port {}, lockdown {}",
        status.name,
        status.enclave,
        status.addresses.join(", "),
        status.interface,
        status.port,
        status.lockdown
    ))?;
    if cuts.is_some() {
        await_confirmation(arguments)
    } else {
        Ok(())
    }
}

/// A new bundle for a coteried that runs.
fn renew(arguments: &UpArguments, status: &Status, opened: &Opened, by_systemd: bool) -> anyhow::Result<()> {
    if status.name != opened.name || status.enclave != opened.authority.name {
        bail!(
            "coteried runs already as {} of enclave {}; stop it first with `coterie down`",
            status.name,
            status.enclave
        );
    }
    if !by_systemd {
        bail!(
            "coteried runs already as {}, process {}; put the new bundle in the place of the one that it was started with and \
             run `coterie reload`, or stop it first with `coterie down`",
            status.name,
            status.pid
        );
    }
    install(arguments)?;
    arguments.socket.call(&Request::Reload)?;
    output::print(&format!("{} has its new bundle", status.name))
}

/// The address by which the caller is connected, when the lockdown would cut that connection.
fn cut_connection(arguments: &UpArguments, opened: &Opened) -> Option<IpAddr> {
    let locks = match arguments.lockdown {
        Lockdown::Auto => opened.template.lockdown,
        Lockdown::On => true,
        Lockdown::Off => false,
    };
    // "client port server port"
    let connection = std::env::var("SSH_CONNECTION").ok()?;
    let server: IpAddr = connection.split_whitespace().nth(2)?.parse().ok()?;
    let inside = server.is_loopback() || opened.pools.iter().any(|pool| pool.contains(server));
    (locks && !inside).then_some(server)
}

fn ask(arguments: &UpArguments, address: IpAddr) -> anyhow::Result<()> {
    let reason = format!(
        "you are connected by SSH to {address}, outside the enclave; the lockdown keeps clear text off the outside interfaces \
         and will cut this connection"
    );
    if arguments.yes {
        eprintln!("warning: {reason}");
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let message =
            format!("{reason}; say --yes if that is meant, and `coterie up --confirm` within a minute by another way");
        return Err(Stop::because(Exit::Failed, message));
    }
    eprint!(
        "{reason}.\nIt is taken back after {} s unless you confirm. Go on? [y/N] ",
        CONFIRMATION.as_secs()
    );
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Stop::because(Exit::Failed, "nothing was changed"))
    }
}

fn await_confirmation(arguments: &UpArguments) -> anyhow::Result<()> {
    let how = format!(
        "coteried is stopped and the lockdown lifted in {} s unless you run `coterie up --confirm`",
        CONFIRMATION.as_secs()
    );
    if !std::io::stdin().is_terminal() {
        return output::print(&how);
    }
    output::print(&format!("{how} or press Enter here"))?;
    // A connection that is cut ends the input without a line, which confirms nothing.
    let mut line = String::new();
    if std::io::stdin()
        .lock()
        .read_line(&mut line)
        .is_ok_and(|length| length > 0)
        && revert::is_pending(&arguments.socket)
    {
        revert::confirm(&arguments.socket)?;
        output::print("confirmed: coteried stays up")?;
    }
    Ok(())
}

/// Options of coteried, but for those that say where its files are.
fn options(arguments: &UpArguments) -> Vec<OsString> {
    let mut options: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: String| options.extend([name.into(), value.into()]);
    if let Some(interface) = &arguments.interface {
        option("--interface", interface.clone());
    }
    if !arguments.outside.is_empty() {
        option("--outside", arguments.outside.join(","));
    }
    if let Some(listen) = arguments.listen {
        option("--listen", listen.to_string());
    }
    if let Some(metrics) = arguments.metrics {
        option("--metrics", metrics.to_string());
    }
    if arguments.lockdown != Lockdown::Auto {
        option("--lockdown", arguments.lockdown.name().to_owned());
    }
    options
}

/// Puts bundle, keys and options where the unit expects them.
fn install(arguments: &UpArguments) -> anyhow::Result<()> {
    let (Some(bundle_path), Some(keys_path)) = (&arguments.bundle, &arguments.keys) else {
        return Ok(());
    };
    fs::create_dir_all("/etc/coterie").context("cannot create /etc/coterie; run this as root")?;
    for (from, to, access) in [
        (keys_path, systemd::KEYS, Access::Owner),
        (bundle_path, systemd::BUNDLE, Access::Owner),
    ] {
        let to = Path::new(to);
        let bytes = zeroize::Zeroizing::new(fs::read(from)?);
        if fs::read(to).is_ok_and(|old| old == *bytes) {
            continue;
        }
        disk::write(to, &bytes, access, true)?;
    }
    let words: Vec<String> = options(arguments)
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let text = format!("# Written by `coterie up`.\nCOTERIED_OPTIONS=\"{}\"\n", words.join(" "));
    disk::write(Path::new(systemd::OPTIONS), text.as_bytes(), Access::All, true)
}

fn start_unit(arguments: &UpArguments) -> anyhow::Result<Status> {
    install(arguments)?;
    systemd::act(&["enable", "--quiet", "--now"])?;
    let until = Instant::now() + READY;
    await_ready(&arguments.socket, until, || Ok(()))
}

fn start_process(arguments: &UpArguments) -> anyhow::Result<Status> {
    let (Some(bundle_path), Some(keys_path)) = (&arguments.bundle, &arguments.keys) else {
        bail!("a bundle and keys are needed");
    };
    let socket = std::path::absolute(&arguments.socket.path)?;
    if let Some(directory) = socket.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}; run this as root", directory.display()))?;
    }
    let log = socket.with_extension("log");
    let open_log = || OpenOptions::new().create(true).append(true).open(&log);
    let (out, err) = open_log()
        .and_then(|out| Ok((out.try_clone()?, out)))
        .with_context(|| format!("cannot open {}", log.display()))?;
    let program = find_coteried()?;
    let mut command = Command::new(&program);
    command
        .arg("--bundle")
        .arg(std::path::absolute(bundle_path)?)
        .arg("--keys")
        .arg(std::path::absolute(keys_path)?)
        .arg("--socket")
        .arg(&socket)
        .args(options(arguments));
    if let Some(state) = &arguments.state {
        command.arg("--state").arg(std::path::absolute(state)?);
    }
    command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .current_dir("/");
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let until = Instant::now() + READY;
    let ready = await_ready(&arguments.socket, until, || still_runs(&mut child, &log));
    if ready.is_err() {
        // Not ready in time, or gone already; either way it must not stay half up.
        let _: std::io::Result<()> = child.kill();
        let _: std::io::Result<std::process::ExitStatus> = child.wait();
    }
    ready
}

fn still_runs(child: &mut Child, log: &Path) -> anyhow::Result<()> {
    let Some(status) = child.try_wait()? else { return Ok(()) };
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(5)..].join("\n  ");
    bail!("coteried ended ({status}); {} says:\n  {last}", log.display())
}

fn await_ready(
    socket: &Socket,
    until: Instant,
    mut still_runs: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Status> {
    loop {
        match socket.status() {
            Ok(status) => return Ok(status),
            Err(error) if Instant::now() > until => {
                let message = format!(
                    "coteried was started and does not answer within {} s: {error}",
                    READY.as_secs()
                );
                return Err(Stop::because(Exit::Timeout, message));
            }
            Err(_) => still_runs()?,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `coteried` beside this program, or on the search path.
pub(crate) fn find_coteried() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's file")?;
    let beside = own.with_file_name("coteried");
    if beside.is_file() {
        return Ok(beside);
    }
    coterie_lab::programs::find("coteried").with_context(|| {
        format!(
            "there is no coteried, neither at {} nor on the search path; install it beside coterie",
            beside.display()
        )
    })
}
