//! A way back for people who might cut off their own connection: coteried is stopped and its lockdown lifted unless somebody says that all
//! is well.
//!
//! The file beside the control socket *is* the pending reversal: whoever removes it confirms. A process of its own session
//! waits for that, so that it outlives the connection.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use coterie_api::CallError;

use super::{Socket, down, unlock};
use crate::{
    clock,
    disk::{self, Access},
};

/// From one look at the file to the next.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct RevertArguments {
    /// How long to wait
    #[arg(long, value_name = "SPAN", value_parser = clock::parse_span)]
    after: Duration,
    #[command(flatten)]
    socket: Socket,
}

/// The process that waits.
pub(crate) fn run(arguments: &RevertArguments) -> anyhow::Result<()> {
    // Fails only for the leader of a process group, which this is not where `arm` started it.
    let _: rustix::io::Result<rustix::process::Pid> = rustix::process::setsid();
    let pending = pending(&arguments.socket);
    let until = Instant::now() + arguments.after;
    while Instant::now() < until {
        if !pending.exists() {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    if fs::remove_file(&pending).is_err() {
        return Ok(());
    }
    // The lockdown is what cuts connections, and it outlives coteried.
    let stopped = down::stop(&arguments.socket);
    unlock::lift().and(stopped)
}

/// Takes back at once what `coterie up` did before it failed: there may be no coteried to stop.
pub(super) fn now(socket: &Socket) -> anyhow::Result<()> {
    let stopped = down::stop(socket);
    unlock::lift()?;
    confirm(socket)?;
    match stopped {
        Err(error) if !is_nobody_there(&error) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn is_nobody_there(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(CallError::NotReachable { .. }))
}

/// Starts the process that waits, before anything is changed.
pub(super) fn arm(socket: &Socket, after: Duration) -> anyhow::Result<()> {
    let pending = pending(socket);
    if let Some(directory) = pending.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    disk::write(&pending, b"coterie up --confirm\n", Access::All, true)?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    Command::new(program)
        .arg("revert")
        .args(["--after", &format!("{}ms", after.as_millis())])
        .arg("--socket")
        .arg(&socket.path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start what would take it back; nothing was changed")?;
    Ok(())
}

/// Says that all is well.
pub(super) fn confirm(socket: &Socket) -> anyhow::Result<()> {
    let pending = pending(socket);
    if fs::remove_file(&pending).is_err() {
        bail!("nothing waits for a confirmation; it was confirmed, or was taken back already (see `coterie status`)");
    }
    Ok(())
}

/// Whether nobody has confirmed yet, and nothing was taken back.
pub(super) fn is_pending(socket: &Socket) -> bool {
    pending(socket).exists()
}

fn pending(socket: &Socket) -> PathBuf {
    socket.path.with_extension("unconfirmed")
}
