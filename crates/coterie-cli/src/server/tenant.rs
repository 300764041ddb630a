//! `coterie tenant`: for the operator of a server.

use std::io::IsTerminal as _;

use clap::Subcommand;
use coterie_api::v1::{NewTenant, Tenant, TenantMade};
use coterie_model::Name;

use super::{Remote, ask, get};
use crate::output::{self, Format};

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Make a tenant and print the key of its owner; the key is shown this once
    Create {
        /// The tenant's name
        #[arg(value_parser = Name::new)]
        name: Name,
        /// Name of its first principal, an owner
        #[arg(long, value_name = "NAME", default_value = "owner", value_parser = Name::new)]
        owner: Name,
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// List tenants
    List {
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// Remove a tenant that has no enclave any more, with its principals
    Remove {
        /// The tenant's name
        #[arg(value_parser = Name::new)]
        name: Name,
        /// Do not ask before
        #[arg(long, short)]
        yes: bool,
    },
}

pub(crate) fn run(command: &TenantCommand) -> anyhow::Result<()> {
    let remote = Remote::connect()?;
    match command {
        TenantCommand::Create { name, owner, output } => create(&remote, name, owner, *output),
        TenantCommand::List { output } => get::show::<Tenant>(&remote.list("/v1/tenants")?, None, *output),
        TenantCommand::Remove { name, yes } => remove(&remote, name, *yes),
    }
}

fn create(remote: &Remote, name: &Name, owner: &Name, format: Format) -> anyhow::Result<()> {
    let request = NewTenant {
        name: name.clone(),
        owner: Some(owner.clone()),
    };
    let made: TenantMade = remote.post("/v1/tenants", &request)?;
    if format == Format::Json {
        return output::print_json(&made);
    }
    if std::io::stdout().is_terminal() {
        eprintln!("tenant {} is made", made.tenant.name);
    }
    super::principal::print(&made.owner, format)
}

fn remove(remote: &Remote, name: &Name, yes: bool) -> anyhow::Result<()> {
    let tenant: Tenant = remote.get(&format!("/v1/tenants/{name}"))?;
    if !yes {
        let question = format!(
            "Remove tenant {}? The keys of its principals are good no more then.",
            tenant.name
        );
        ask(&question, "say --yes if that is meant")?;
    }
    remote.delete(&format!("/v1/tenants/{name}"))?;
    output::print(&format!("tenant {name} is removed"))
}
