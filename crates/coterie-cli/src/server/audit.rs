//! `coterie audit`: who did what to what.

use std::time::Duration;

use clap::{Args, Subcommand};
use coterie_api::remote::RemoteError;
use coterie_api::v1::{AuditEntry, AuditPage, MAX_AUDIT_PAGE};
use coterie_model::UnixTime;
use serde_json::Value;

use super::Remote;
use crate::{
    clock,
    output::{self, Format},
};

/// How long the server is to wait for the next entry, in seconds.
const WAIT: u64 = 30;
/// How long to wait before a server that went away is called again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Print the newest entries of the audit log
    Tail(TailArguments),
}

#[derive(Debug, Args)]
pub(crate) struct TailArguments {
    /// Go on with what comes
    #[arg(long, short)]
    follow: bool,
    /// How many entries
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_AUDIT_PAGE)))]
    lines: u32,
    /// How to print it; JSON is one object a line
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(command: &AuditCommand) -> anyhow::Result<()> {
    let AuditCommand::Tail(arguments) = command;
    let mut remote = Remote::connect()?;
    let page: AuditPage = remote.get(&format!("/v1/audit?limit={}", arguments.lines))?;
    print(&page.entries, arguments.output)?;
    let mut next = page.next;
    if !arguments.follow {
        return Ok(());
    }
    loop {
        match remote.get::<AuditPage>(&format!("/v1/audit?after={next}&wait={WAIT}")) {
            Ok(page) => {
                print(&page.entries, arguments.output)?;
                next = page.next;
            }
            Err(error) if is_away(&error) => {
                eprintln!("{error:#}; trying again");
                remote = again(remote)?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A new connection, as soon as there is one.
fn again(old: Remote) -> anyhow::Result<Remote> {
    loop {
        old.pause(PAUSE);
        match Remote::connect() {
            Err(error) if is_away(&error) => {}
            other => return other,
        }
    }
}

/// Whether the server is not there, rather than unwilling.
fn is_away(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(RemoteError::NotReachable { .. } | RemoteError::Broken { .. } | RemoteError::Timeout { .. })
    )
}

fn print(entries: &[AuditEntry], format: Format) -> anyhow::Result<()> {
    for entry in entries {
        output::print(&match format {
            Format::Json => serde_json::to_string(entry)?,
            Format::Text => line(entry),
        })?;
    }
    Ok(())
}

fn line(entry: &AuditEntry) -> String {
    let mut text = format!(
        "{}  {}  {}  {}",
        clock::date(UnixTime(entry.time)),
        entry.actor,
        entry.action,
        entry.object
    );
    if let Value::Object(fields) = &entry.detail {
        for (key, value) in fields {
            text.push_str(&match value {
                Value::String(value) => format!("  {key}={value}"),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    format!("  {key}={value}")
                }
            });
        }
    }
    // What somebody else chose is not to move the cursor.
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_whatever_is_in_it() {
        let entry = AuditEntry {
            seq: 9,
            time: 60,
            actor: "ada".to_owned(),
            action: "token.create".to_owned(),
            object: "shop/web\n\x1b[2J".to_owned(),
            detail: serde_json::json!({ "uses": 2, "template": "web" }),
            hash: String::new(),
        };
        assert_eq!(
            line(&entry),
            "1970-01-01T00:01:00Z  ada  token.create  shop/web??[2J  template=web  uses=2"
        );
    }
}
