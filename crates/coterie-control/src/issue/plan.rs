//! What a file would do to an enclave, before it is taken.

use std::collections::BTreeSet;

use coterie_model::{Name, UnixTime};

use super::{Changes, Enclave, IssueError, REMOVAL_GRACE, added, roster::Roster};
use crate::file::{EnclaveFile, reach::Topology};

/// What a file would do to an enclave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What [`Enclave::update`] would change.
    pub changes: Changes,
    /// Who holds what now, members that tokens made included.
    pub before: Topology,
    /// Who would hold what.
    pub after: Topology,
}

impl Enclave {
    /// What [`Enclave::update`] would do with `file` at `now`, which is left undone.
    ///
    /// # Errors
    /// [`IssueError`] when the file is of another enclave, or gives away an address that is in use.
    pub fn plan(&self, file: &EnclaveFile, now: UnixTime) -> Result<Plan, IssueError> {
        self.check_file(file)?;
        let seats = Roster::of(file, &self.members);
        let mut changes = self.changes(file, &seats);
        // A key that nobody has need not be replaced.
        let end = now.max(self.latest).plus(REMOVAL_GRACE);
        let is_known = |name: &Name| self.community(name).is_ok_and(|c| c.is_known_to_anybody(end));
        changes.rolled.retain(is_known);
        Ok(Plan {
            changes,
            before: self.topology(),
            after: topology(file, &seats),
        })
    }

    /// Who holds which community and excludes whom: members of the file, and members that tokens made.
    #[must_use]
    pub fn topology(&self) -> Topology {
        topology(&self.file, &self.roster)
    }

    /// Refuses a file of another enclave, or one that gives away an address that is in use.
    pub(super) fn check_file(&self, file: &EnclaveFile) -> Result<(), IssueError> {
        if file.enclave.name != self.authority.name {
            return Err(IssueError::OtherEnclave {
                expected: self.authority.name.clone(),
                found: file.enclave.name.clone(),
            });
        }
        self.clash(file).map_or(Ok(()), Err)
    }

    /// What changes with `file`, where `seats` are its members and those that tokens made. As rolled stand all communities of
    /// which an enrolled member would hold a key that it should not.
    pub(super) fn changes(&self, file: &EnclaveFile, seats: &Roster) -> Changes {
        let (mut revoked, mut rolled) = (BTreeSet::new(), BTreeSet::new());
        for (name, _) in self.enrolled() {
            let held = self.roster.get(name).map(|m| &m.communities);
            let seat = seats.get(name);
            if seat.is_none() {
                revoked.insert(name.clone());
            }
            let is_lost = |community: &&Name| {
                let holds = seat.is_some_and(|m| m.communities.contains(*community));
                !holds && file.communities.contains_key(*community)
            };
            rolled.extend(held.into_iter().flatten().filter(is_lost).cloned());
        }
        Changes {
            added_communities: added(&self.file.communities, &file.communities),
            removed_communities: added(&file.communities, &self.file.communities),
            added_members: added(&self.file.members, &file.members),
            revoked,
            rolled,
        }
    }
}

fn topology(file: &EnclaveFile, roster: &Roster) -> Topology {
    let mut topology = Topology::new();
    for (name, community) in &file.communities {
        topology.add_community(name.clone(), community.priority);
    }
    for (name, member) in roster.iter() {
        topology.add_member(
            name.clone(),
            member.communities.iter().cloned(),
            member.exclude.iter().cloned(),
        );
    }
    topology
}
