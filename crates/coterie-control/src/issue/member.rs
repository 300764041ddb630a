//! Members: who is enrolled with which keys, and who is refused.

use core::net::SocketAddr;
use std::collections::BTreeMap;

use coterie_crypto::{Entropy, dh::PublicKey, hpke};
use coterie_model::{CommunityTag, MemberId, Name, Prefix, Serial, Signed, Statement, UnixTime};

use super::{Enclave, IssueError, Part, revocations::Word, roster::Provisioned};
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
    /// [`IssueError`] when the enclave file has no such member, the keys are another member's or revoked, or the sealing key is
    /// none. Then nothing has changed.
    pub fn admit(
        &mut self,
        request: &Request,
        now: UnixTime,
        entropy: &mut dyn Entropy,
    ) -> Result<Admission, IssueError> {
        Self::check_sealing_key(request)?;
        self.admit_as(MemberId::draw(entropy), request, Word::Administrator, now)
    }

    /// The same, where the enrolment, if it is a new one, has an identifier already, and `word` lets it take the name over.
    pub(super) fn admit_as(
        &mut self,
        member: MemberId,
        request: &Request,
        word: Word,
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
                self.refuse(name, word, now)?;
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
        self.refuse(name, Word::Administrator, now)?;
        self.forget_enrolment(name)?;
        Ok(held)
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

    /// Whoever is isolated gets no new statements, and has none of where it is no more: others refuse those from then on.
    pub(super) fn forget_lost_statements(&mut self, name: &Name) -> Result<(), IssueError> {
        let held = self.member(name)?.communities.iter();
        let tags: Vec<CommunityTag> = held.filter_map(|community| self.tag(community)).collect();
        let statements = &mut self.enrolment_mut(name)?.statements;
        statements.retain(|tag, _| tags.contains(tag));
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

    /// A sealing key that is none would be noticed when the bundle is made, after the member has changed.
    pub(super) fn check_sealing_key(request: &Request) -> Result<(), IssueError> {
        Ok(hpke::check_sealing_key(request.sealing_key())?)
    }
}

#[cfg(test)]
mod tests {
    use coterie_crypto::{SeededEntropy, hpke::SEALING_KEY_LEN};

    use super::*;
    use crate::bundle::Keys;

    const NOW: UnixTime = UnixTime(1_795_506_345);
    const FILE: &str = r#"
version = 1
[enclave]
name = "shop"
pools = ["10.77.0.0/24"]
[community.web]
[template.web]
communities = ["web"]
[member.web-1]
template = "web"
addresses = ["10.77.0.1"]
"#;

    /// The request of `keys`, with a sealing key that is none, signed by its maker.
    fn malformed(keys: &Keys) -> Request {
        let good = Request::new(keys).unwrap();
        let mut bytes = good.bytes()[..good.bytes().len() - 64].to_vec();
        let sealing_key = good.sealing_key();
        let at = bytes.windows(SEALING_KEY_LEN).position(|w| w == sealing_key).unwrap();
        // Coefficients above the modulus.
        bytes[at..at + 3].fill(0xff);
        let signature = keys.identity_key().sign("coterie/1 request", &bytes);
        bytes.extend_from_slice(&signature);
        Request::from_bytes(&bytes).unwrap()
    }

    #[test]
    fn a_sealing_key_that_is_none_changes_nothing() {
        let mut entropy = SeededEntropy::from_number(1);
        let mut enclave = Enclave::init(FILE, NOW, &mut entropy).unwrap();
        let named = Keys::generate(Name::new("web-1").unwrap(), &mut entropy);
        let made = Keys::generate(Name::new("web-2").unwrap(), &mut entropy);
        let template = Name::new("web").unwrap();
        let provision = |enclave: &mut Enclave, request: &Request, takeover| {
            enclave.provision(&template, Vec::new(), request, takeover, MemberId([7; 16]), NOW)
        };
        for enrolled in [false, true] {
            if enrolled {
                enclave
                    .admit(&Request::new(&named).unwrap(), NOW, &mut entropy)
                    .unwrap();
                provision(&mut enclave, &Request::new(&made).unwrap(), false).unwrap();
            }
            enclave.take_records();
            let wrong = [malformed(&named), malformed(&made)];
            let admitted = enclave.admit(&wrong[0], NOW, &mut entropy);
            assert_eq!(admitted, Err(IssueError::SealingKey));
            for takeover in [false, true] {
                let made = provision(&mut enclave, &wrong[1], takeover);
                assert_eq!(made, Err(IssueError::SealingKey));
            }
            if enrolled {
                for request in &wrong {
                    let renewed = enclave.renew(request, NOW, &mut entropy);
                    assert_eq!(renewed, Err(IssueError::SealingKey));
                }
            }
            assert!(enclave.take_records().is_empty(), "nothing is to be written");
        }
    }
}
