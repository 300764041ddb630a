//! `coterie root`: the key that an enclave's trust starts from.

use clap::Subcommand;
use coterie_api::v1::RootRotated;

use super::{EnclaveArgument, Remote, ask, remote::enclave_path};
use crate::output::{self, count};

#[derive(Debug, Subcommand)]
pub(crate) enum RootCommand {
    /// Give an enclave a new root; members go over to it with their next bundles, without interruption
    Rotate {
        #[command(flatten)]
        enclave: EnclaveArgument,
        /// Do not ask before
        #[arg(long, short)]
        yes: bool,
    },
}

pub(crate) fn run(command: &RootCommand) -> anyhow::Result<()> {
    let RootCommand::Rotate { enclave, yes } = command;
    let remote = Remote::connect()?;
    let enclave = enclave.resolve(&remote)?;
    if !yes {
        let question = format!(
            "Every member of {enclave} gets a new bundle under a new root, and the old root's key is erased. Go on?"
        );
        ask(&question, "say --yes if that is meant")?;
    }
    let root = enclave_path(&enclave, "/root");
    let rotated: RootRotated = remote.post_empty(&format!("{root}/rotate"))?;
    output::print(&told(&rotated))
}

fn told(rotated: &RootRotated) -> String {
    let members = count(usize::try_from(rotated.members).unwrap_or(usize::MAX), "member");
    let verb = if rotated.members == 1 { "goes" } else { "go" };
    format!(
        "root {} instead of {}, authority of era {}; {members} {verb} over to it",
        rotated.root_hash, rotated.previous_root_hash, rotated.era
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_roots_are_named() {
        let rotated = RootRotated {
            root_hash: "new".to_owned(),
            previous_root_hash: "old".to_owned(),
            era: 2,
            members: 3,
        };
        assert_eq!(
            told(&rotated),
            "root new instead of old, authority of era 2; 3 members go over to it"
        );
    }
}
