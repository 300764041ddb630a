//! `coterie wait`.

use std::time::{Duration, Instant};

use clap::Args;
use coterie_api::{Answer, CallError, Request};

use super::Socket;
use crate::{
    clock,
    exit::{self, Exit, Stop},
    output,
};

/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(crate) struct WaitArguments {
    /// Until this member answers: a name, or an inside address
    #[arg(group = "what")]
    member: Option<String>,
    /// Until coteried is ready
    #[arg(long, group = "what")]
    ready: bool,
    /// How long at most
    #[arg(long, short, value_name = "SPAN", default_value = "30s", value_parser = clock::parse_span)]
    timeout: Duration,
    #[command(flatten)]
    socket: Socket,
}

pub(crate) fn run(arguments: &WaitArguments) -> anyhow::Result<()> {
    let until = Instant::now() + arguments.timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let missing = match &arguments.member {
            Some(member) => look_for(arguments, member, left)?,
            None => ready(&arguments.socket)?,
        };
        let Some(missing) = missing else { return Ok(()) };
        if left.is_zero() {
            let message = format!("not within {}: {missing}", clock::span(arguments.timeout));
            return Err(Stop::because(Exit::Timeout, message));
        }
        std::thread::sleep(PAUSE.min(left));
    }
}

/// What is missing until the member answers.
fn look_for(arguments: &WaitArguments, member: &str, left: Duration) -> anyhow::Result<Option<String>> {
    let timeout = left.clamp(PAUSE, Duration::from_secs(2));
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    match arguments.socket.call(&Request::Ping {
        destination: member.to_owned(),
        timeout_ms,
    }) {
        Ok(Answer::Pong(pong)) => {
            output::print(&format!("{} answers by {}", pong.member, pong.community))?;
            Ok(None)
        }
        Ok(other) => Err(super::unexpected(&other)),
        // A policy that says no does not change by waiting.
        Err(error @ CallError::Refused(_)) if is_final(&error) => Err(error.into()),
        Err(error) => Ok(Some(error.to_string())),
    }
}

fn is_final(error: &CallError) -> bool {
    match error {
        CallError::Refused(failure) => exit::of_failure(failure) == Exit::Prohibited,
        CallError::NotReachable { .. } | CallError::Broken { .. } => false,
    }
}

/// What is missing until coteried is ready.
fn ready(socket: &Socket) -> anyhow::Result<Option<String>> {
    match socket.call(&Request::Status) {
        Ok(Answer::Status(status)) => Ok(match status.lockdown.as_str() {
            "off" | "in-force" => None,
            missing => Some(format!("the lockdown is not in force: {missing}")),
        }),
        Ok(other) => Err(super::unexpected(&other)),
        Err(error) => Ok(Some(error.to_string())),
    }
}
