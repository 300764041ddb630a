//! Commands that speak to the `coteried` of this machine.

pub(crate) mod down;
pub(crate) mod ping;
pub(crate) mod revert;
pub(crate) mod status;
pub(crate) mod systemd;
pub(crate) mod unlock;
pub(crate) mod up;
pub(crate) mod wait;

use std::path::PathBuf;

use clap::Args;
use coterie_api::{Answer, CallError, Client, DEFAULT_SOCKET, Request, node::Status};

use crate::{
    exit::{Exit, Stop},
    output::{self, Format},
};

/// Which node.
#[derive(Debug, Clone, Args)]
pub(crate) struct Socket {
    /// coteried's control socket
    #[arg(long = "socket", env = "COTERIE_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub(crate) path: PathBuf,
}

impl Socket {
    /// Sends one request.
    pub(crate) fn call(&self, request: &Request) -> Result<Answer, CallError> {
        Client::connect(&self.path)?.call(request)
    }

    /// The node's state.
    pub(crate) fn status(&self) -> anyhow::Result<Status> {
        let answer = self.call(&Request::Status)?;
        let Answer::Status(status) = answer else {
            return Err(unexpected(&answer));
        };
        Ok(*status)
    }

    /// Whether this is the socket that the system's own coteried has.
    pub(crate) fn is_default(&self) -> bool {
        self.path == std::path::Path::new(DEFAULT_SOCKET)
    }
}

/// Arguments of a command that only needs to know which node.
#[derive(Debug, Args)]
pub(crate) struct NodeArguments {
    #[command(flatten)]
    pub(crate) socket: Socket,
}

/// Arguments of a read.
#[derive(Debug, Args)]
pub(crate) struct ReadArguments {
    #[command(flatten)]
    pub(crate) socket: Socket,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// An answer to something else than what was asked.
pub(crate) fn unexpected(answer: &Answer) -> anyhow::Error {
    let kind = match answer {
        Answer::Status(_) => "a status",
        Answer::Explanation(_) => "an explanation",
        Answer::Pong(_) => "a measurement",
        Answer::Done => "done",
        Answer::Metrics(_) => "metrics",
    };
    let message =
        format!("coteried answered with {kind}, which was not asked for; use coterie and coteried of one release");
    Stop::because(Exit::Failed, message)
}

/// Has the bundle read again, and waits until it is taken over.
pub(crate) fn reload(arguments: &NodeArguments) -> anyhow::Result<()> {
    let answer = arguments.socket.call(&Request::Reload)?;
    if answer != Answer::Done {
        return Err(unexpected(&answer));
    }
    output::print("bundle taken over")
}

/// Prints metrics.
pub(crate) fn metrics(arguments: &NodeArguments) -> anyhow::Result<()> {
    let answer = arguments.socket.call(&Request::Metrics)?;
    let Answer::Metrics(text) = answer else {
        return Err(unexpected(&answer));
    };
    output::print(&text)
}
