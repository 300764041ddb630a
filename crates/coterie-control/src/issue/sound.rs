//! What a stored state must not say although every signature in it checks.

use std::collections::BTreeMap;

use super::{Enclave, IssueError, files::damaged};
use crate::{
    bundle::MAX_SERVERS,
    file::{MAX_ADDRESSES, MAX_ENDPOINTS},
};

/// Above what is ever counted to: a number that is higher was made up, and counting on from it would end.
const MOST: u64 = u64::MAX / 2;

impl Enclave {
    /// The state as it was read, if it is one that operations make.
    pub(super) fn sound(self) -> Result<Self, IssueError> {
        let of_file = &self.file.enclave.name;
        if *of_file != self.authority.name {
            let reason = format!(
                "the file is of enclave `{of_file}`, the rest of `{}`",
                self.authority.name
            );
            return Err(damaged("enclave", reason));
        }
        if self.servers.len() > MAX_SERVERS {
            let reason = format!(
                "{} servers, more than the {MAX_SERVERS} of a bundle",
                self.servers.len()
            );
            return Err(damaged("enclave", reason));
        }
        self.check_numbers()?;
        self.check_seats()?;
        Ok(self)
    }

    fn check_numbers(&self) -> Result<(), IssueError> {
        let low = |part, what: &str, number: u64| {
            let reason = || format!("{what} is {number}, which nobody counts to");
            if number > MOST {
                Err(damaged(part, reason()))
            } else {
                Ok(())
            }
        };
        low("enclave", "the floor of serials", self.floor)?;
        low("enclave", "the era", self.authority.era)?;
        let revision = self.revocations.as_ref().map_or(0, |list| list.revision);
        low("revocations", "the revision", revision)?;
        for epoch in self.communities.values().flat_map(|community| &community.epochs) {
            low("community", "the number of an epoch", epoch.manifest.epoch)?;
        }
        for (name, record) in &self.members {
            low("member", &format!("the serial of `{name}`"), record.serial)?;
            let statements = record.enrolment.iter().flat_map(|e| e.statements.values());
            let newest = statements.map(|s| s.serial).max().unwrap_or(0);
            if newest > record.statement_serial {
                let reason = format!("`{name}` has a statement that is newer than its newest");
                return Err(damaged("member", reason));
            }
            low(
                "member",
                &format!("the serial of statements of `{name}`"),
                record.statement_serial,
            )?;
        }
        Ok(())
    }

    /// Members that tokens made have few addresses, and none that is another's.
    fn check_seats(&self) -> Result<(), IssueError> {
        let named = self.file.members.iter().flat_map(|(name, member)| {
            let addresses = member.addresses.iter();
            addresses.map(move |address| (*address, name))
        });
        let mut owners: BTreeMap<_, _> = named.collect();
        let made = self.members.iter().filter_map(|(name, record)| {
            let provisioned = record.provisioned.as_ref()?;
            Some((name, provisioned))
        });
        for (name, record) in &self.members {
            let enrolment = record.enrolment.as_ref();
            if enrolment.is_some_and(|enrolment| enrolment.applied_from.len() > MAX_ENDPOINTS) {
                let reason = format!("`{name}` has more endpoints than a member has");
                return Err(damaged("member", reason));
            }
        }
        for (name, made) in made {
            if made.addresses.len() > MAX_ADDRESSES || made.endpoints.len() > MAX_ENDPOINTS {
                let reason = format!("`{name}` has more addresses or endpoints than a member has");
                return Err(damaged("member", reason));
            }
            // What the file names is the file's, with the addresses that stand there.
            if self.file.members.contains_key(name) {
                continue;
            }
            for address in &made.addresses {
                if let Some(other) = owners.insert(*address, name) {
                    let reason = format!("`{name}` and `{other}` have the same address {address}");
                    return Err(damaged("member", reason));
                }
            }
        }
        Ok(())
    }
}
