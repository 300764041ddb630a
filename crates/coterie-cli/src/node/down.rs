//! `coterie down`.

use std::time::{Duration, Instant};

use coterie_api::{Answer, Request};

use super::{NodeArguments, Socket, systemd};
use crate::{
    exit::{Exit, Stop},
    output,
};

/// How long coteried may take to end its sessions.
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn run(arguments: &NodeArguments) -> anyhow::Result<()> {
    let name = arguments.socket.status()?.name;
    stop(&arguments.socket)?;
    output::print(&format!("{name} is down"))
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
