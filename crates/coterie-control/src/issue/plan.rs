//! What a file would do to an enclave, before it is taken.

use std::collections::{BTreeMap, BTreeSet};

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
        if file.enclave.name != self.authority.name {
            return Err(IssueError::OtherEnclave {
                expected: self.authority.name.clone(),
                found: file.enclave.name.clone(),
            });
        }
        if let Some(clash) = self.clash(file) {
            return Err(clash);
        }
        let seats = Roster::of(file, &self.members);
        let (revoked, rolled) = self.losses(&seats, &file.communities, now);
        Ok(Plan {
            changes: Changes {
                added_communities: added(&self.file.communities, &file.communities),
                removed_communities: added(&file.communities, &self.file.communities),
                added_members: added(&self.file.members, &file.members),
                revoked,
                rolled,
            },
            before: self.topology(),
            after: topology(file, &seats),
        })
    }

    /// Who holds which community and excludes whom: members of the file, and members that tokens made.
    #[must_use]
    pub fn topology(&self) -> Topology {
        topology(&self.file, &self.roster)
    }

    /// Enrolled members without a seat, and communities of which an enrolled member would hold a key that it should not.
    fn losses<T>(
        &self,
        seats: &Roster,
        communities: &BTreeMap<Name, T>,
        now: UnixTime,
    ) -> (BTreeSet<Name>, BTreeSet<Name>) {
        let (mut revoked, mut lost) = (BTreeSet::new(), BTreeSet::new());
        for (name, _) in self.enrolled() {
            let held = self.roster.get(name).map(|m| &m.communities);
            let seat = seats.get(name);
            if seat.is_none() {
                revoked.insert(name.clone());
            }
            let is_lost = |community: &&Name| {
                let holds = seat.is_some_and(|m| m.communities.contains(*community));
                !holds && communities.contains_key(*community)
            };
            lost.extend(held.into_iter().flatten().filter(is_lost).cloned());
        }
        let end = now.max(self.latest).plus(REMOVAL_GRACE);
        let is_known = |name: &Name| self.community(name).is_ok_and(|c| c.is_known_to_anybody(end));
        lost.retain(is_known);
        (revoked, lost)
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
