//! `coterie ping`: sealed round trips.

use std::io::Write as _;
use std::time::{Duration, Instant};

use clap::Args;
use coterie_api::{Answer, CallError, Failure, Request, node::Pong};
use serde::Serialize;

use super::Socket;
use crate::{
    clock,
    exit::{self, Exit, Stop},
    output::{self, Format},
};

#[derive(Debug, Args)]
pub(crate) struct PingArguments {
    /// A member's name, or an inside address
    member: String,
    /// How many times
    #[arg(long, short, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// From one to the next
    #[arg(long, short, value_name = "SPAN", default_value = "1s", value_parser = clock::parse_span)]
    interval: Duration,
    /// How long each may take
    #[arg(long, short, value_name = "SPAN", default_value = "5s", value_parser = clock::parse_span)]
    timeout: Duration,
    #[command(flatten)]
    socket: Socket,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Measured {
    Pong(Pong),
    Failure(Failure),
}

pub(crate) fn run(arguments: &PingArguments) -> anyhow::Result<()> {
    let mut measured = Vec::new();
    for number in 0..arguments.count {
        let start = Instant::now();
        let one = once(arguments)?;
        if arguments.output == Format::Text {
            output::print(&line(arguments, &one))?;
        }
        let is_final = matches!(&one, Measured::Failure(failure) if exit::of_failure(failure) != Exit::Timeout);
        measured.push(one);
        if is_final {
            break;
        }
        if number + 1 < arguments.count {
            std::thread::sleep(arguments.interval.saturating_sub(start.elapsed()));
        }
    }
    match arguments.output {
        Format::Json => output::print_json(&measured)?,
        Format::Text => summary(&measured)?,
    }
    let last_failure = measured.iter().rev().find_map(|one| match one {
        Measured::Failure(failure) => Some(failure),
        Measured::Pong(_) => None,
    });
    let answered = measured.iter().any(|one| matches!(one, Measured::Pong(_)));
    match last_failure {
        Some(failure) if !answered => Err(Stop::said(exit::of_failure(failure))),
        Some(_) | None => Ok(()),
    }
}

fn once(arguments: &PingArguments) -> anyhow::Result<Measured> {
    let timeout_ms = u64::try_from(arguments.timeout.as_millis()).unwrap_or(u64::MAX);
    match arguments.socket.call(&Request::Ping {
        destination: arguments.member.clone(),
        timeout_ms,
    }) {
        Ok(Answer::Pong(pong)) => Ok(Measured::Pong(pong)),
        Ok(other) => Err(super::unexpected(&other)),
        Err(CallError::Refused(failure)) => Ok(Measured::Failure(failure)),
        Err(error @ (CallError::NotReachable { .. } | CallError::Broken { .. })) => Err(error.into()),
    }
}

fn line(arguments: &PingArguments, one: &Measured) -> String {
    match one {
        Measured::Pong(pong) => {
            let handshake = pong.handshake_ms.map_or_else(String::new, |ms| {
                format!(", session made in {}", clock::milliseconds(ms))
            });
            format!(
                "{} by {}: {}{handshake}",
                pong.member,
                pong.community,
                clock::milliseconds(pong.rtt_ms)
            )
        }
        Measured::Failure(failure) => format!("{}: {}; {}", arguments.member, failure.message, failure.remedy),
    }
}

fn summary(measured: &[Measured]) -> anyhow::Result<()> {
    let times: Vec<f64> = measured
        .iter()
        .filter_map(|one| match one {
            Measured::Pong(pong) => Some(pong.rtt_ms),
            Measured::Failure(_) => None,
        })
        .collect();
    if measured.len() < 2 {
        return Ok(std::io::stdout().flush()?);
    }
    let mut text = format!("{} of {} answered", times.len(), measured.len());
    if let (Some(least), Some(most)) = (
        times.iter().copied().reduce(f64::min),
        times.iter().copied().reduce(f64::max),
    ) {
        text.push_str(&format!(
            ", {} to {}",
            clock::milliseconds(least),
            clock::milliseconds(most)
        ));
    }
    output::print(&text)
}
