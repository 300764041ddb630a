//! `coterie coi`: keys of communities.

use clap::Subcommand;
use coterie_api::v1::{RollKind, RollRequest, RolledKey};
use coterie_model::{Name, UnixTime};

use super::{EnclaveArgument, Remote, remote::enclave_path};
use crate::{clock, output};

#[derive(Debug, Subcommand)]
pub(crate) enum CommunityCommand {
    /// Give a community a new key; members get it by themselves and no packet is lost
    RotateKey {
        /// The community
        #[arg(value_parser = Name::new)]
        community: Name,
        /// At once, to a key that nobody was given before: when somebody holds the old one who should not
        #[arg(long)]
        removal: bool,
        #[command(flatten)]
        enclave: EnclaveArgument,
    },
}

pub(crate) fn run(command: &CommunityCommand) -> anyhow::Result<()> {
    match command {
        CommunityCommand::RotateKey {
            community,
            removal,
            enclave,
        } => rotate(community, *removal, enclave),
    }
}

fn rotate(community: &Name, removal: bool, enclave: &EnclaveArgument) -> anyhow::Result<()> {
    let remote = Remote::connect()?;
    let enclave = enclave.resolve(&remote)?;
    let kind = if removal {
        RollKind::Removal
    } else {
        RollKind::Scheduled
    };
    let path = enclave_path(&enclave, &format!("/communities/{community}/rotate-key"));
    let rolled: RolledKey = remote.post(&path, &RollRequest { kind })?;
    output::print(&told(&rolled, clock::now()))
}

fn told(rolled: &RolledKey, now: UnixTime) -> String {
    let RolledKey { community, epoch, .. } = rolled;
    if !rolled.changed {
        return format!("{community}: nobody was given the key of epoch {epoch} yet, so it stays");
    }
    let activates = UnixTime(rolled.activates);
    format!(
        "{community}: epoch {epoch} activates {} ({})",
        clock::date(activates),
        clock::relative(activates, now)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_nobody_has_stays() {
        let mut rolled = RolledKey {
            community: Name::new("data").unwrap(),
            epoch: 4,
            activates: 60,
            changed: true,
        };
        assert_eq!(
            told(&rolled, UnixTime(0)),
            "data: epoch 4 activates 1970-01-01T00:01:00Z (in 60 s)"
        );
        rolled.changed = false;
        assert!(told(&rolled, UnixTime(0)).contains("stays"));
    }
}
