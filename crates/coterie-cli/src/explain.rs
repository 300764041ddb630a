//! `coterie explain`: why a member is reached as it is, from a running node, from an enclave file, or from the server.

use std::path::PathBuf;

use clap::Args;
use coterie_api::{Answer, Request, node::Explanation};
use coterie_model::Name;

use crate::{
    directory::Directory,
    enclave,
    exit::{Exit, Stop},
    node::{self, Socket},
    output::{self, Format, Paint},
    server::{self, EnclaveArgument},
    table::{Cell, Table},
};

#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// From this member to that one; on a node the destination alone: a name or an inside address, a port may follow
    #[arg(value_names = ["FROM", "TO"], num_args = 1..=2, required = true)]
    members: Vec<String>,
    /// Ask the server that `coterie login` knows, about two members; it asks both. So is done for two members unless a file or
    /// a directory is named, once there is a login
    #[arg(long, conflicts_with_all = ["file", "directory"])]
    server: bool,
    #[command(flatten)]
    enclave: EnclaveArgument,
    /// Ask an enclave file rather than the node of this machine
    #[arg(long, short, value_name = "FILE", conflicts_with = "directory")]
    file: Option<PathBuf>,
    /// Ask an enclave directory rather than the node of this machine
    #[arg(long, short, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    socket: Socket,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(arguments: &ExplainArguments) -> anyhow::Result<()> {
    let enclave_file = match (&arguments.file, &arguments.directory) {
        (Some(file), _) => Some(enclave::read(file)?.1),
        (None, Some(directory)) => Some(Directory::open(directory)?.1.file().clone()),
        (None, None) => None,
    };
    match (arguments.members.as_slice(), enclave_file) {
        ([from, to], None) if arguments.server || server::profile::Profile::is_there() => {
            let (from, to) = (name(from)?, name(destination(to))?);
            if from == to {
                let message = format!("{from} is asked to reach itself; name two different members");
                return Err(Stop::because(Exit::Usage, message));
            }
            server::explain::run(&from, &to, &arguments.enclave, arguments.output)
        }
        ([_], None) if arguments.server => {
            let message = "the server explains a pair: `coterie explain --server FROM TO`";
            Err(Stop::because(Exit::Usage, message))
        }
        ([to], None) => on_node(arguments, destination(to)),
        ([from, to], Some(file)) => {
            let (from, to) = (name(from)?, name(destination(to))?);
            let explanation = file.explain(&from, &to)?;
            match arguments.output {
                Format::Json => output::print_json(&explanation)?,
                Format::Text => output::print(&explanation.to_string())?,
            }
            if explanation.chosen.is_some() {
                Ok(())
            } else {
                Err(Stop::said(Exit::Prohibited))
            }
        }
        ([from, to, ..], None) => {
            let message = format!(
                "a node explains what it reaches itself: `coterie explain {to}`; to ask for {from}, log in to a server, or name \
                 the policy: `coterie explain --file enclave.toml {from} {to}`"
            );
            Err(Stop::because(Exit::Usage, message))
        }
        ([] | [_] | [_, _, ..], Some(_)) | ([], None) => {
            let message = "an enclave file explains a pair: `coterie explain --file enclave.toml FROM TO`";
            Err(Stop::because(Exit::Usage, message))
        }
    }
}

/// The destination without its port: between members reach is a community in common, whatever the port.
fn destination(text: &str) -> &str {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return text;
    }
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host.trim_start_matches('[').trim_end_matches(']'),
        Some(_) | None => text,
    }
}

fn name(text: &str) -> anyhow::Result<Name> {
    Name::new(text).map_err(|error| Stop::because(Exit::Usage, format!("`{text}` is no member's name: {error}")))
}

fn on_node(arguments: &ExplainArguments, destination: &str) -> anyhow::Result<()> {
    let answer = arguments.socket.call(&Request::Explain {
        destination: destination.to_owned(),
    })?;
    let Answer::Explanation(explanation) = answer else {
        return Err(node::unexpected(&answer));
    };
    match arguments.output {
        Format::Json => output::print_json(&explanation)?,
        Format::Text => output::print(&drawn(&explanation))?,
    }
    if explanation.refused.is_none() {
        Ok(())
    } else {
        Err(Stop::said(Exit::Prohibited))
    }
}

/// Policy and installed state, side by side.
fn drawn(explanation: &Explanation) -> String {
    let paint = Paint::stdout();
    let whom = explanation.member.as_ref().map_or_else(
        || {
            format!(
                "{}, which no member that this node may reach has",
                explanation.destination
            )
        },
        |member| format!("{member} ({})", explanation.destination),
    );
    let mut text = match (&explanation.chosen, &explanation.refused) {
        (Some(chosen), None) => format!("{} {whom}: reached by community {chosen}\n", paint.green("yes")),
        (_, Some(reason)) => format!("{} {whom}: refused, {reason}\n", paint.red("no")),
        (None, None) => format!("{} {whom}: no community is chosen\n", paint.red("no")),
    };
    let mut table = Table::new(&["COMMUNITY", "PRIORITY", "HOLDERS", "POLICY", "INSTALLED"]);
    for candidate in &explanation.candidates {
        let is_installed = explanation.installed.as_ref() == Some(&candidate.community);
        let is_chosen = explanation.chosen.as_ref() == Some(&candidate.community);
        let verdict = candidate.verdict.clone();
        table.row([
            candidate.community.as_str().into(),
            candidate.priority.to_string().into(),
            candidate.holders.to_string().into(),
            if is_chosen {
                Cell::painted(verdict, Paint::green)
            } else {
                verdict.into()
            },
            (if is_installed { "live session" } else { "" }).into(),
        ]);
    }
    if !table.is_empty() {
        text.push_str(&table.render(paint));
    }
    match (&explanation.installed, &explanation.chosen) {
        (Some(installed), chosen) if Some(installed) != chosen.as_ref() => {
            text.push_str(&format!(
                "the live session in {installed} lasts until its next rekey; then the choice is made anew\n"
            ));
        }
        (None, Some(_)) => text.push_str("no session yet; the first packet makes one\n"),
        (Some(_) | None, _) => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_follow() {
        for (text, host) in [
            ("db-1", "db-1"),
            ("db-1:5432", "db-1"),
            ("10.77.3.1:80", "10.77.3.1"),
            ("fd77::3:1", "fd77::3:1"),
            ("[fd77::3:1]:80", "fd77::3:1"),
        ] {
            assert_eq!(destination(text), host);
        }
    }
}
