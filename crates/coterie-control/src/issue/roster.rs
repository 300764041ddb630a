//! Everybody who is a member: those that the enclave file names, and those that tokens made from its templates, who are members
//! as long as their machines are there.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;

use coterie_model::{MemberId, Name, Revocation, UnixTime};

use super::{
    Admission, Enclave, IssueError, Part,
    member::{Enrolment, MemberRecord},
    revocations::Word,
};
use crate::{
    bundle::Request,
    file::{self, EnclaveFile, Member},
};

/// What a token made of a machine, beside its enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Provisioned {
    pub(super) template: Name,
    /// Inside addresses: kept while it is a member, whatever becomes of the file.
    pub(super) addresses: Vec<IpAddr>,
    /// Where it was when it applied.
    pub(super) endpoints: Vec<SocketAddr>,
}

/// Who is a member, with which addresses, and how many hold a community. A function of file and records.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<Name, Member>,
    owners: BTreeMap<IpAddr, Name>,
    holders: BTreeMap<Name, u32>,
}

impl Roster {
    pub(super) fn of(file: &EnclaveFile, records: &BTreeMap<Name, MemberRecord>) -> Self {
        let mut this = Self::default();
        for (name, member) in &file.members {
            this.add(name, named(member, records.get(name)));
        }
        for (name, record) in records {
            let Some(provisioned) = &record.provisioned else {
                continue;
            };
            // A name that the file has taken over is the file's.
            if let Some(member) = provisioned.member(name, file).filter(|_| this.get(name).is_none()) {
                this.add(name, member);
            }
        }
        this
    }

    pub(super) fn get(&self, name: &Name) -> Option<&Member> {
        self.members.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &Member)> {
        self.members.iter()
    }

    /// How many members have the key of `community`, running or not.
    pub(super) fn holders(&self, community: &Name) -> u32 {
        self.holders.get(community).copied().unwrap_or(0)
    }

    pub(super) fn owner(&self, address: IpAddr) -> Option<&Name> {
        self.owners.get(&address)
    }

    fn add(&mut self, name: &Name, member: Member) {
        for address in &member.addresses {
            self.owners.insert(*address, name.clone());
        }
        for community in &member.communities {
            *self.holders.entry(community.clone()).or_default() += 1;
        }
        self.members.insert(name.clone(), member);
    }

    fn remove(&mut self, name: &Name) {
        let Some(member) = self.members.remove(name) else {
            return;
        };
        for address in &member.addresses {
            if self.owner(*address) == Some(name) {
                self.owners.remove(address);
            }
        }
        for community in &member.communities {
            if let Some(holders) = self.holders.get_mut(community) {
                *holders = holders.saturating_sub(1);
            }
        }
    }
}

/// A member of the file: where that says no endpoints, its machine is where it applied from.
fn named(member: &Member, record: Option<&MemberRecord>) -> Member {
    let mut member = member.clone();
    if member.endpoints.is_empty()
        && let Some(enrolment) = record.and_then(|record| record.enrolment.as_ref())
    {
        member.endpoints.clone_from(&enrolment.applied_from);
    }
    member
}

impl Provisioned {
    /// The member that it makes under `file`; `None` when its template is gone.
    fn member(&self, name: &Name, file: &EnclaveFile) -> Option<Member> {
        let kind = file.templates.get(&self.template)?;
        Some(Member::of_template(
            name,
            (&self.template, kind),
            self.addresses.clone(),
            self.endpoints.clone(),
        ))
    }
}

impl Enclave {
    /// Everybody: members of the file, and members that tokens made.
    pub fn members(&self) -> impl Iterator<Item = (&Name, &Member)> {
        self.roster.iter()
    }

    /// Enrols the machine that made `request` with a token for `template`: as the member of that name in the file, if there is
    /// one of this template, or as one that is made for it, with inside addresses from the pools. Applying again with the same
    /// keys changes nothing, so that an answer that was lost can be given again.
    ///
    /// With `takeover`, a name that another machine has goes to this one, with its addresses: the keys of the other are revoked.
    /// Whoever is isolated keeps its name. `member` names the enrolment, if it is a new one: drawn by who also writes down whose
    /// it is.
    ///
    /// # Errors
    /// [`IssueError`] when the template does not exist, the name is another machine's or another template's, no address is
    /// left, the keys are another member's or revoked, or the sealing key is none; with `takeover`, also when the name was taken
    /// over too often ([`IssueError::TooOften`]) or too many names were ([`IssueError::TooManyReplacements`]). Then nothing has
    /// changed.
    pub fn provision(
        &mut self,
        template: &Name,
        endpoints: Vec<SocketAddr>,
        request: &Request,
        takeover: bool,
        member: MemberId,
        now: UnixTime,
    ) -> Result<Admission, IssueError> {
        let now = self.advance(now)?;
        let name = request.name();
        let kind = self.file.templates.get(template);
        let kind = kind.ok_or_else(|| IssueError::UnknownTemplate(template.clone()))?;
        self.check_static_key(request, now)?;
        Self::check_sealing_key(request)?;
        if let Some(seat) = self.roster.get(name) {
            if seat.template != *template {
                return Err(IssueError::OtherTemplate {
                    member: name.clone(),
                    template: seat.template.clone(),
                });
            }
            let other = |e: &&Enrolment| e.request.static_key() != request.static_key();
            if let Some(other) = self.enrolment(name).ok().filter(other) {
                if !takeover {
                    return Err(IssueError::NameInUse(name.clone()));
                }
                if other.isolated {
                    return Err(IssueError::Isolated(name.clone()));
                }
            }
            let admission = self.admit_as(member, request, Word::Machine, now)?;
            if admission != Admission::Known {
                self.move_to(name, endpoints);
            }
            return Ok(admission);
        }
        // What another machine's statement still names is not given to somebody else.
        let rests = |address| {
            let resting = self.resting.get(&address);
            resting.is_some_and(|(other, until)| other != name && *until > now.0)
        };
        let is_free = |address| self.roster.owner(address).is_none() && !rests(address);
        let addresses = file::assign_one(&self.file.enclave.pools, name, is_free).ok_or(IssueError::PoolsUsedUp)?;
        let provisioned = Provisioned {
            template: template.clone(),
            addresses: addresses.clone(),
            endpoints: endpoints.clone(),
        };
        let seat = Member::of_template(name, (template, kind), addresses, endpoints);
        let communities = seat.communities.clone();
        self.roster.add(name, seat);
        self.record(name).provisioned = Some(provisioned);
        self.touch_member(name);
        let admission = self.admit_as(member, request, Word::Machine, now)?;
        for community in communities {
            self.refresh_manifests(&community)?;
        }
        Ok(admission)
    }

    /// A member whose machine applied with a token is where that was.
    fn move_to(&mut self, name: &Name, endpoints: Vec<SocketAddr>) {
        let Some(record) = self.members.get_mut(name) else {
            return;
        };
        if let Some(provisioned) = &mut record.provisioned {
            provisioned.endpoints.clone_from(&endpoints);
            if let Some(member) = self.roster.members.get_mut(name) {
                member.endpoints = endpoints;
            }
        } else if let Some(enrolment) = &mut record.enrolment {
            enrolment.applied_from = endpoints;
            self.place(name);
        }
    }

    /// A member of the file is where its file and its enrolment say.
    pub(super) fn place(&mut self, name: &Name) {
        if let (Some(member), Some(seat)) = (self.file.members.get(name), self.roster.members.get_mut(name)) {
            seat.endpoints = named(member, self.members.get(name)).endpoints;
        }
    }

    /// The member's machine is gone for good: its membership is over, and where a token made it, its name and addresses are free
    /// again. What it held is not replaced: that is for members that were removed ([`Enclave::revoke`]).
    ///
    /// # Errors
    /// [`IssueError::NotEnrolled`].
    pub fn end(&mut self, name: &Name, now: UnixTime) -> Result<(), IssueError> {
        let now = self.advance(now)?;
        if self.enrolment(name)?.isolated {
            self.revoke(name, now)?;
            return Ok(());
        }
        self.forget_enrolment(name)
    }

    /// Cuts a member off without ending its membership: its static key is refused until [`Enclave::release`].
    ///
    /// # Errors
    /// [`IssueError`] when it is not enrolled or the list of revocations is full.
    pub fn isolate(&mut self, name: &Name, now: UnixTime) -> Result<(), IssueError> {
        let now = self.advance(now)?;
        let until = self.authority.not_after;
        let entry = revocation(self.enrolment(name)?, until);
        self.add_revocation(entry, now)?;
        self.enrolment_mut(name)?.isolated = true;
        self.touch_member(name);
        Ok(())
    }

    /// Lets a member back in that was isolated; false when it was not.
    ///
    /// # Errors
    /// [`IssueError`] when it is not enrolled.
    pub fn release(&mut self, name: &Name, now: UnixTime) -> Result<bool, IssueError> {
        let now = self.advance(now)?;
        let enrolment = self.enrolment_mut(name)?;
        if !core::mem::take(&mut enrolment.isolated) {
            return Ok(false);
        }
        // An entry that has ended is left out of the list.
        let entry = revocation(enrolment, now);
        self.add_revocation(entry, now)?;
        self.touch_member(name);
        Ok(true)
    }

    /// The addresses of a member rest until the last of its statements has ended.
    pub(super) fn rest_addresses(&mut self, name: &Name) {
        let Ok(enrolment) = self.enrolment(name) else { return };
        let until = enrolment.ends.0;
        let addresses: Vec<IpAddr> = enrolment
            .statements
            .values()
            .flat_map(|s| s.addresses.iter().map(coterie_model::Prefix::addr))
            .collect();
        let latest = self.latest.0;
        self.resting.retain(|_, (_, until)| *until > latest);
        for address in addresses {
            self.resting.insert(address, (name.clone(), until));
        }
        self.touch(Part::Enclave);
    }

    /// Names that the file has now are the file's, with its addresses, and its endpoints where it says some.
    pub(super) fn give_to_file(&mut self) {
        let taken: Vec<Name> = self
            .members
            .iter()
            .filter(|(name, record)| record.provisioned.is_some() && self.file.members.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in taken {
            self.rest_addresses(&name);
            let record = self.record(&name);
            if let (Some(made), Some(enrolment)) = (record.provisioned.take(), &mut record.enrolment) {
                enrolment.applied_from = made.endpoints;
            }
            self.touch_member(&name);
        }
    }

    /// Makes the roster anew from file and records.
    pub(super) fn call_roll(&mut self) {
        self.roster = Roster::of(&self.file, &self.members);
    }

    /// The address of a member of `file` that a member made by a token has already.
    pub(super) fn clash(&self, file: &EnclaveFile) -> Option<IssueError> {
        let named = file.members.iter().flat_map(|(name, member)| {
            let addresses = member.addresses.iter();
            addresses.map(move |address| (name, *address))
        });
        named.into_iter().find_map(|(name, address)| {
            let other = self.roster.owner(address).filter(|other| *other != name)?;
            let made = self.members.get(other).is_some_and(|r| r.provisioned.is_some());
            (made && !file.members.contains_key(other)).then(|| IssueError::AddressInUse {
                address,
                member: name.clone(),
                other: other.clone(),
            })
        })
    }

    /// The member has no keys any more; one that a token made is no member any more.
    pub(super) fn forget_enrolment(&mut self, name: &Name) -> Result<(), IssueError> {
        self.rest_addresses(name);
        let record = self
            .members
            .get_mut(name)
            .ok_or_else(|| IssueError::NotEnrolled(name.clone()))?;
        record.enrolment = None;
        self.place(name);
        self.touch_member(name);
        let Some(record) = self.members.get(name).filter(|record| record.provisioned.is_some()) else {
            return Ok(());
        };
        // Serials under a name never go back: what comes after begins above all that were forgotten.
        self.floor = self.floor.max(record.serial).max(record.statement_serial);
        self.touch(Part::Enclave);
        self.members.remove(name);
        let communities = self.roster.get(name).map(|m| m.communities.clone());
        if !self.file.members.contains_key(name) {
            self.roster.remove(name);
        }
        for community in communities.unwrap_or_default() {
            if self.communities.contains_key(&community) {
                self.refresh_manifests(&community)?;
            }
        }
        Ok(())
    }
}

/// What refuses an enrolment.
pub(super) fn revocation(enrolment: &Enrolment, until: UnixTime) -> Revocation {
    Revocation {
        member: enrolment.member,
        static_key: *enrolment.request.static_key(),
        until,
    }
}
