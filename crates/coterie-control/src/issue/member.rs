//! Members: who is enrolled with which keys, and who is refused.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use coterie_crypto::{Entropy, dh::PublicKey};
use coterie_model::{
    CommunityTag, MemberId, Name, Prefix, Revision, Revocation, Revocations, Serial, Signed, Statement, UnixTime,
    signed::MAX_REVOCATIONS,
};

use super::{
    Enclave, IssueError, Part,
    roster::{Provisioned, revocation},
};
use crate::bundle::{Freshness, Request};

/// A member as its issuer has it; stays when the member goes, so that no serial is used twice.
#[derive(Debug)]
pub(super) struct MemberRecord {
    /// Of the newest bundle.
    pub(super) serial: Serial,
    /// Of the newest statement.
    pub(super) statement_serial: Serial,
    pub(super) enrolment: Option<Enrolment>,
    /// Where a token made it, and no file names it.
    pub(super) provisioned: Option<Provisioned>,
}

/// One machine with one set of keys.
#[derive(Debug)]
pub(super) struct Enrolment {
    pub(super) member: MemberId,
    pub(super) request: Request,
    pub(super) statements: BTreeMap<CommunityTag, Signed<Statement>>,
    /// Refused until it is released.
    pub(super) isolated: bool,
    /// When the last of its statements ends, those included that were replaced.
    pub(super) ends: UnixTime,
    /// Where its machine was when it applied with a token: its endpoints, where the file names it and says none.
    pub(super) applied_from: Vec<SocketAddr>,
}

/// What a request did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The member had no keys.
    New,
    /// The member has these keys already.
    Known,
    /// The member had others, which are revoked now; the communities that it holds should be rolled if the old machine
    /// is not trusted any more.
    Replaced,
}

impl Enclave {
    /// Enrols the machine that made `request`: from now on others are told of its key.
    ///
    /// # Errors
    /// [`IssueError`] when the enclave file has no such member, or the keys are another member's or revoked.
    pub fn admit(
        &mut self,
        request: &Request,
        now: UnixTime,
        entropy: &mut dyn Entropy,
    ) -> Result<Admission, IssueError> {
        let mut member = MemberId::default();
        entropy.fill(&mut member.0);
        self.admit_as(member, request, now)
    }

    /// The same, where the enrolment, if it is a new one, has an identifier already.
    pub(super) fn admit_as(
        &mut self,
        member: MemberId,
        request: &Request,
        now: UnixTime,
    ) -> Result<Admission, IssueError> {
        let now = self.advance(now)?;
        let name = request.name();
        self.member(name)?;
        self.check_static_key(request, now)?;
        if self.enrolment(name).is_ok_and(|e| e.isolated) {
            return Err(IssueError::Isolated(name.clone()));
        }
        let admission = match self.enrolment(name) {
            Ok(known) if known.request.static_key() == request.static_key() => {
                if known.request.identity_key() != request.identity_key() {
                    return Err(IssueError::OtherIdentity(name.clone()));
                }
                Admission::Known
            }
            Ok(_) => Admission::Replaced,
            Err(_) => Admission::New,
        };
        if admission == Admission::Known {
            self.enrolment_mut(name)?.request = request.clone();
            self.touch(Part::Member(name.clone()));
        } else {
            if admission == Admission::Replaced {
                self.refuse(name, now)?;
                self.rest_addresses(name);
            }
            let enrolment = Enrolment {
                member,
                request: request.clone(),
                statements: BTreeMap::new(),
                isolated: false,
                ends: now,
                applied_from: Vec::new(),
            };
            self.record(name).enrolment = Some(enrolment);
            self.place(name);
            self.touch_member(name);
        }
        self.renew_statements(name, now, self.long_enough(now))?;
        Ok(admission)
    }

    /// Statements that end no earlier are not made anew for a bundle that is made again. Where there is a server they are left
    /// for a renewal, which who is a member asks for: others, told of newer statements, would refuse a member that has older ones
    /// because somebody showed its application again.
    pub(super) fn long_enough(&self, now: UnixTime) -> UnixTime {
        match self.freshness {
            Freshness::Offline => self.lease_end(now),
            Freshness::Heads => now.plus(self.file().enclave.lease / 2),
        }
    }

    /// Refuses a member's keys everywhere, as soon as others have a newer bundle, until its last statement would have
    /// ended; gives the communities that it held, which are to be rolled ([`super::Roll::Removal`]). It may enrol again
    /// with new keys.
    ///
    /// # Errors
    /// [`IssueError`] when it is not enrolled or the list is full.
    pub fn revoke(&mut self, name: &Name, now: UnixTime) -> Result<Vec<Name>, IssueError> {
        let now = self.advance(now)?;
        let enrolment = self.enrolment(name)?;
        let held = self
            .communities
            .iter()
            .filter(|(_, c)| enrolment.statements.contains_key(&c.tag))
            .map(|(name, _)| name.clone())
            .collect();
        self.refuse(name, now)?;
        self.forget_enrolment(name)?;
        Ok(held)
    }

    /// The keys of a member are refused until its last statement has ended.
    fn refuse(&mut self, name: &Name, now: UnixTime) -> Result<(), IssueError> {
        let enrolment = self.enrolment(name)?;
        let entry = revocation(enrolment, enrolment.ends);
        self.add_revocation(entry, now)
    }

    /// Makes the member's statements anew where they would end earlier than they can, or say something else than the
    /// enclave file. Of those that end no earlier than `enough`, the first alone is no reason.
    pub(super) fn renew_statements(&mut self, name: &Name, now: UnixTime, enough: UnixTime) -> Result<(), IssueError> {
        let file = self.member(name)?;
        let addresses: Vec<Prefix> = file.addresses.iter().filter_map(|ip| Prefix::host(*ip)).collect();
        let tags: Vec<CommunityTag> = file
            .communities
            .iter()
            .map(|c| self.community(c).map(|c| c.tag))
            .collect::<Result<_, _>>()?;
        let not_after = self.lease_end(now);
        let (era, enclave) = (self.authority.era, self.authority.enclave);
        let record = self
            .members
            .get_mut(name)
            .ok_or_else(|| IssueError::NotEnrolled(name.clone()))?;
        let enrolment = record
            .enrolment
            .as_mut()
            .ok_or_else(|| IssueError::NotEnrolled(name.clone()))?;
        let serial = record.statement_serial + 1;
        let (mut statements, mut changed) = (BTreeMap::new(), false);
        for tag in tags {
            let statement = Statement {
                era,
                enclave,
                tag,
                member: enrolment.member,
                name: name.clone(),
                static_key: *enrolment.request.static_key(),
                addresses: addresses.clone(),
                serial,
                not_after,
            };
            let known = enrolment.statements.remove(&tag);
            let same = |old: &Signed<Statement>| {
                let not_after = if old.not_after >= enough {
                    old.not_after
                } else {
                    not_after
                };
                Statement {
                    serial: old.serial,
                    not_after,
                    ..statement.clone()
                } == **old
            };
            let statement = match known.filter(same) {
                Some(known) => known,
                None => {
                    record.statement_serial = serial;
                    changed = true;
                    Signed::sign(statement, &self.statement_key)
                }
            };
            statements.insert(tag, statement);
        }
        changed |= !enrolment.statements.is_empty();
        enrolment.statements = statements;
        enrolment.ends = enrolment.ends.max(not_after);
        if changed {
            self.touch_member(name);
        } else {
            self.touch(Part::Member(name.clone()));
        }
        Ok(())
    }

    /// The record of a member. A new one begins above every serial that was ever used under a name that was forgotten.
    pub(super) fn record(&mut self, name: &Name) -> &mut MemberRecord {
        let floor = self.floor;
        self.members.entry(name.clone()).or_insert(MemberRecord {
            serial: floor,
            statement_serial: floor,
            enrolment: None,
            provisioned: None,
        })
    }

    pub(super) fn enrolment(&self, name: &Name) -> Result<&Enrolment, IssueError> {
        let record = self.members.get(name).and_then(|record| record.enrolment.as_ref());
        record.ok_or_else(|| IssueError::NotEnrolled(name.clone()))
    }

    pub(super) fn enrolment_mut(&mut self, name: &Name) -> Result<&mut Enrolment, IssueError> {
        let record = self.members.get_mut(name).and_then(|record| record.enrolment.as_mut());
        record.ok_or_else(|| IssueError::NotEnrolled(name.clone()))
    }

    /// A static key belongs to one member and, once revoked, to none: otherwise one member's traffic could be attributed
    /// to another one that filed its public key.
    pub(super) fn check_static_key(&self, request: &Request, now: UnixTime) -> Result<(), IssueError> {
        let key: &PublicKey = request.static_key();
        let owner = self.members.iter().find(|(name, record)| {
            *name != request.name() && record.enrolment.as_ref().is_some_and(|e| e.request.static_key() == key)
        });
        if let Some((owner, _)) = owner {
            return Err(IssueError::KeyInUse(owner.clone()));
        }
        self.check_revoked(key, now)
    }

    /// A static key that is refused gets nothing.
    pub(super) fn check_revoked(&self, key: &PublicKey, now: UnixTime) -> Result<(), IssueError> {
        let revoked = self
            .revocations
            .iter()
            .flat_map(|list| &list.entries)
            .find(|e| e.static_key == *key);
        match revoked.filter(|entry| entry.until > now) {
            Some(entry) => Err(IssueError::KeyRevoked(entry.until)),
            None => Ok(()),
        }
    }

    /// Adds an entry, in the place of another one for the same key.
    pub(super) fn add_revocation(&mut self, entry: Revocation, now: UnixTime) -> Result<(), IssueError> {
        let known = self.revocations.iter().flat_map(|list| &list.entries);
        let others = known.filter(|e| e.static_key != entry.static_key).cloned();
        let entries = others.chain([entry.clone()]).collect();
        self.set_revocations(entries, now)
    }

    /// A new list, with the next revision.
    pub(super) fn set_revocations(&mut self, entries: Vec<Revocation>, now: UnixTime) -> Result<(), IssueError> {
        let revision = self.revocations.as_ref().map_or(0, |list| list.revision) + 1;
        self.set_revocations_at(revision, entries, now)
    }

    /// The same, with this revision.
    pub(super) fn set_revocations_at(
        &mut self,
        revision: Revision,
        mut entries: Vec<Revocation>,
        now: UnixTime,
    ) -> Result<(), IssueError> {
        entries.retain(|e| e.until > now);
        if entries.len() > MAX_REVOCATIONS {
            return Err(IssueError::TooManyRevocations(MAX_REVOCATIONS));
        }
        entries.sort_by_key(|e| e.static_key);
        let list = Revocations {
            era: self.authority.era,
            enclave: self.authority.enclave,
            revision,
            entries,
        };
        self.revocations = Some(Signed::sign(list, &self.statement_key));
        self.touch(Part::Revocations);
        Ok(())
    }
}
