//! Commands that speak to a configuration server (`docs/API.md`).
//!
//! [`profile`] keeps where the server is and whose key is used, [`remote`] makes the calls, one file a noun does the rest.

pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod community;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod login;
pub(crate) mod principal;
pub(crate) mod profile;
mod remote;
pub(crate) mod root;
pub(crate) mod tenant;
pub(crate) mod token;
pub(crate) mod vm;

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use coterie_api::v1::EnclaveSummary;
use coterie_model::{Name, UnixTime};

use crate::{
    clock,
    exit::{Exit, Stop},
    output,
};

pub(crate) use remote::Remote;

/// Which enclave.
#[derive(Debug, Clone, Args)]
pub(crate) struct EnclaveArgument {
    /// The enclave, where the tenant has several
    #[arg(long, short, env = "COTERIE_ENCLAVE", value_name = "ENCLAVE", value_parser = Name::new)]
    enclave: Option<Name>,
}

impl EnclaveArgument {
    /// The enclave that is meant: the one that is named, else the only one that there is.
    pub(crate) fn resolve(&self, remote: &Remote) -> anyhow::Result<Name> {
        if let Some(name) = &self.enclave {
            return Ok(name.clone());
        }
        let mut names: Vec<Name> = remote.enclaves()?.into_iter().map(|enclave| enclave.name).collect();
        let Some(only) = names.pop() else {
            let message = "there is no enclave yet; make one with `coterie apply -f FILE`";
            return Err(Stop::because(Exit::Failed, message));
        };
        if names.is_empty() {
            return Ok(only);
        }
        names.push(only);
        let message = format!(
            "there are several enclaves; name one with --enclave: {}",
            joined(&names)
        );
        Err(Stop::because(Exit::Usage, message))
    }
}

/// Removes an enclave from the server.
pub(crate) fn remove_enclave(name: &Name, yes: bool) -> anyhow::Result<()> {
    let remote = Remote::connect()?;
    let path = remote::enclave_path(name, "");
    let enclave: EnclaveSummary = remote.get(&path)?;
    if !yes {
        let members = output::count(
            usize::try_from(enclave.enrolled).unwrap_or(usize::MAX),
            "enrolled member",
        );
        let question = format!("Remove enclave {name} with {members}, its keys and its root?");
        ask(&question, "say --yes if that is meant")?;
    }
    remote.delete(&path)?;
    output::print(&format!("enclave {name} is removed"))
}

/// Asks whether to go on; where nobody can answer, `instead` says which option answers.
fn ask(question: &str, instead: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        let message = format!("nobody can be asked here whether to go on; {instead}");
        return Err(Stop::because(Exit::Usage, message));
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    match line.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Stop::because(Exit::Failed, "not confirmed; nothing was changed")),
    }
}

/// `a, b, c`.
fn joined<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

/// A time that may be none, from now.
fn relative(time: Option<u64>, now: UnixTime) -> String {
    time.map_or_else(String::new, |time| clock::relative(UnixTime(time), now))
}
