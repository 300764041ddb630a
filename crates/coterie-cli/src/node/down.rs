//! `coterie down`.

use std::time::{Duration, Instant};

use clap::Args;
use coterie_api::{Answer, Request};

use super::{Socket, systemd, unlock};
use crate::{
    exit::{Exit, Stop},
    output,
};

/// How long coteried may take to end its sessions.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct DownArguments {
    /// Take the lockdown away too: clear text can leave this machine again
    #[arg(long)]
    unlock: bool,
    #[command(flatten)]
    socket: Socket,
}

pub(crate) fn run(arguments: &DownArguments) -> anyhow::Result<()> {
    let status = arguments.socket.status();
    if !arguments.unlock {
        let status = status?;
        stop(&arguments.socket)?;
        let lockdown = match status.lockdown.as_str() {
            "off" => "",
            _ => "; the lockdown stays, until `coterie unlock` or the next boot",
        };
        return output::print(&format!("{} is down{lockdown}", status.name));
    }
    // A lockdown outlives its coteried, so there may be none to stop.
    let whose = match status {
        Ok(status) => {
            stop(&arguments.socket)?;
            format!("{} is down", status.name)
        }
        Err(_) => "no coteried runs".to_owned(),
    };
    unlock::lift()?;
    output::print(&format!("{whose}; clear text can leave this machine again"))
}

/// Stops coteried, by systemd where it was started so, and waits until it is gone.
pub(super) fn stop(socket: &Socket) -> anyhow::Result<()> {
    if socket.is_default() && systemd::is_active() {
        return systemd::act("stop");
    }
    let answer = socket.call(&Request::Down)?;
    if answer != Answer::Done {
        return Err(super::unexpected(&answer));
    }
    let until = Instant::now() + DEADLINE;
    while socket.call(&Request::Status).is_ok() {
        if Instant::now() > until {
            let message = "coteried was told to stop and still answers; look at its log, then end it with SIGTERM";
            return Err(Stop::because(Exit::Timeout, message));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
