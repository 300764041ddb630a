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
    /// Tell the server first that this machine goes for good: its membership ends, and its name and addresses are free again
    #[arg(long)]
    leave: bool,
    /// Tell the server, and stop nothing, where a join token made this machine a member and the machine is being switched off
    #[arg(long, hide = true, conflicts_with_all = ["unlock", "leave"])]
    at_power_off: bool,
    #[command(flatten)]
    socket: Socket,
}

pub(crate) fn run(arguments: &DownArguments) -> anyhow::Result<()> {
    if arguments.at_power_off {
        let goes = systemd::powers_off() && arguments.socket.status()?.by_token;
        return if goes { leave(&arguments.socket) } else { Ok(()) };
    }
    if arguments.leave {
        leave(&arguments.socket)?;
    }
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

/// Has the server told that this machine goes for good.
fn leave(socket: &Socket) -> anyhow::Result<()> {
    let answer = socket.call(&Request::Leave)?;
    if answer != Answer::Done {
        return Err(super::unexpected(&answer));
    }
    output::print("the server knows that this machine goes for good; its membership is over")
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
