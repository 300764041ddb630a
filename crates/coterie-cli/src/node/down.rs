//! `coterie down`.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use coterie_api::{Answer, Client, Request};
use coterie_io::local::Process;

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
    // One that cannot start is tried again and again, and would load its lockdown each time.
    let tries = status.is_err() && arguments.socket.is_default() && systemd::is_trying();
    if !arguments.unlock {
        const STAYS: &str = "; the lockdown stays, until `coterie unlock` or the next boot";
        if tries {
            stop(&arguments.socket)?;
            return output::print(&format!("coteried, which did not come up, is tried no more{STAYS}"));
        }
        let status = status?;
        stop(&arguments.socket)?;
        let lockdown = match status.lockdown.as_str() {
            "off" => "",
            _ => STAYS,
        };
        return output::print(&format!("{} is down{lockdown}", status.name));
    }
    // A lockdown outlives its coteried, so there may be none to stop.
    let whose = match status {
        Ok(status) => {
            stop(&arguments.socket)?;
            format!("{} is down", status.name)
        }
        Err(_) if tries => {
            stop(&arguments.socket)?;
            "coteried, which did not come up, is tried no more".to_owned()
        }
        Err(_) => "no coteried runs".to_owned(),
    };
    unlock::lift()?;
    output::print(&format!("{whose}; clear text can leave this machine again"))
}

/// Stops coteried, by systemd where it was started so, and waits until its process has ended: not before is its port free.
pub(super) fn stop(socket: &Socket) -> anyhow::Result<()> {
    if socket.is_default() && systemd::is_trying() {
        return systemd::act(&["disable", "--quiet", "--now"]);
    }
    let mut client = Client::connect(&socket.path)?;
    let process = Process::at_other_end(&client)
        .context("cannot see the process of coteried; stop it where it runs, with SIGTERM")?;
    let answer = client.call(&Request::Down)?;
    if answer != Answer::Done {
        return Err(super::unexpected(&answer));
    }
    if !process.ends(DEADLINE).context("cannot wait for coteried")? {
        let message = "coteried was told to stop and still runs; look at its log, then end it with SIGKILL";
        return Err(Stop::because(Exit::Timeout, message));
    }
    Ok(())
}
