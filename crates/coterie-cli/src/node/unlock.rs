//! `coterie unlock`.

use anyhow::Context as _;
use coterie_api::{Answer, CallError, LOCKDOWN_PRIORITY, LOCKDOWN_TABLE, Request};
use coterie_io::lockdown::{Lockdown, Routing};

use super::{NodeArguments, down, systemd};
use crate::output;

pub(crate) fn run(arguments: &NodeArguments) -> anyhow::Result<()> {
    // A node that runs is told, or it would report the lockdown as broken; there may be none, for a lockdown outlives it.
    match arguments.socket.call(&Request::Unlock) {
        Ok(Answer::Done) => {}
        Ok(other) => return Err(super::unexpected(&other)),
        // One that cannot start is tried again and again, and would load its lockdown each time.
        Err(CallError::NotReachable { .. }) if arguments.socket.is_default() && systemd::is_trying() => {
            down::stop(&arguments.socket)?;
        }
        Err(CallError::NotReachable { .. }) => {}
        Err(error @ (CallError::Broken { .. } | CallError::Refused(_))) => return Err(error.into()),
    }
    lift()?;
    output::print("no lockdown: clear text can leave this machine again")
}

/// Takes the lockdown of this machine away, whoever has loaded it. That there is none is no error.
pub(super) fn lift() -> anyhow::Result<()> {
    let lockdown = Lockdown {
        table_name: LOCKDOWN_TABLE.to_owned(),
        // What follows does not matter for taking rules away, which are found by name and priority.
        outside: vec!["any".to_owned()],
        port: 1,
        mark: 1,
        allow: Vec::new(),
        dhcp: false,
        routing: Routing {
            priority: LOCKDOWN_PRIORITY,
            ..Routing::default()
        },
    };
    lockdown
        .remove()
        .context("cannot take the lockdown away; run this as root")
}
