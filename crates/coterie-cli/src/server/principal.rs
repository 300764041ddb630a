//! `coterie key`: who may call the server, each with a key of its own.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use coterie_api::v1::{NewPrincipal, Principal, PrincipalMade, Role};
use coterie_model::Name;

use super::{Remote, get};
use crate::{
    clock,
    exit::{Exit, Stop},
    output::{self, Format},
};

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a principal and print its key; the key is shown this once
    Create {
        /// The principal's name
        #[arg(value_parser = Name::new)]
        name: Name,
        /// What it may do
        #[arg(long, value_enum)]
        role: RoleArgument,
        /// How long the key is good; without it for ever
        #[arg(long, value_name = "SPAN", value_parser = clock::parse_lasting_span)]
        ttl: Option<Duration>,
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// List principals
    List {
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// End principals: their keys are good no more
    Revoke {
        /// Names
        #[arg(required = true, value_name = "NAME", value_parser = Name::new)]
        names: Vec<Name>,
    },
}

/// What a principal may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArgument {
    /// Everything, principals included
    Owner,
    /// Everything but principals
    Admin,
    /// Daily work: tokens, isolating, releasing and ending members
    Operator,
    /// Reads, the audit log included
    Auditor,
}

impl From<RoleArgument> for Role {
    fn from(role: RoleArgument) -> Self {
        match role {
            RoleArgument::Owner => Self::Owner,
            RoleArgument::Admin => Self::Admin,
            RoleArgument::Operator => Self::Operator,
            RoleArgument::Auditor => Self::Auditor,
        }
    }
}

pub(crate) fn run(command: &KeyCommand) -> anyhow::Result<()> {
    let remote = Remote::connect()?;
    match command {
        KeyCommand::Create {
            name,
            role,
            ttl,
            output,
        } => {
            let request = NewPrincipal {
                name: name.clone(),
                role: Role::from(*role),
                ttl_seconds: ttl.map(|ttl| ttl.as_secs()),
            };
            print(&remote.post("/v1/principals", &request)?, *output)
        }
        KeyCommand::List { output } => get::show::<Principal>(&remote.list("/v1/principals")?, None, *output),
        KeyCommand::Revoke { names } => revoke(&remote, names),
    }
}

/// Prints a key: it alone on standard output, what it is beside it for people.
pub(super) fn print(made: &PrincipalMade, format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        return output::print_json(made);
    }
    output::print(made.key.expose())?;
    if std::io::stdout().is_terminal() {
        eprintln!(
            "key of {} ({}); it is not shown again",
            made.principal.name,
            made.principal.role.as_str()
        );
    }
    Ok(())
}

fn revoke(remote: &Remote, names: &[Name]) -> anyhow::Result<()> {
    let known: Vec<Principal> = remote.list("/v1/principals")?;
    let found = names.iter().map(|name| {
        let mut of_name = known.iter().filter(|principal| principal.name == *name);
        of_name.next().ok_or_else(|| {
            let message = format!("there is no principal {name}; `coterie key list` names them");
            Stop::because(Exit::Failed, message)
        })
    });
    let found: Vec<&Principal> = found.collect::<anyhow::Result<_>>()?;
    for principal in found {
        remote.delete(&format!("/v1/principals/{}", principal.id))?;
        output::print(&format!("the key of {} is revoked", principal.name))?;
    }
    Ok(())
}
