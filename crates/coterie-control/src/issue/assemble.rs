//! Putting a bundle together.

use coterie_crypto::Entropy;
use coterie_model::{DirectoryEntry, EpochKey, Name, Prefix, UnixTime};

use super::{Enclave, IssueError, Part};
use crate::{
    bundle::{
        LABEL, MAX_BYTES, MAX_ENTRIES, Request, TemplateSettings,
        certificate::{self, Subject},
        delivery::{self, Address, Label},
        encode_armour,
        format::{self, Content, Front},
        headers, view,
    },
    file::{self, Member, Template},
};

/// Bytes of views that a bundle carries at most, so that the file stays below [`MAX_BYTES`] with room for the rest:
/// views of the largest communities are left empty first, and their members are found by asking.
const MAX_VIEWS: usize = 600 * 1024;

impl Enclave {
    /// Makes a new bundle for a member that is enrolled: its statements run for a whole lease from now, or, where a server renews
    /// them soon enough, as long as they did.
    ///
    /// # Errors
    /// [`IssueError`] when the member is not enrolled, or its sealing key is none.
    pub fn issue(&mut self, name: &Name, now: UnixTime, entropy: &mut dyn Entropy) -> Result<String, IssueError> {
        let now = self.advance(now)?;
        if self.enrolment(name)?.isolated {
            return Err(IssueError::Isolated(name.clone()));
        }
        self.renew_statements(name, now, self.long_enough(now))?;
        self.make(name, now, true, entropy)
    }

    /// Makes a new bundle for a member that asks for one with the keys that it is enrolled with, and a sealing key of its own for
    /// this delivery. Without views: whoever follows the server knows the others. Statements that have most of a lease to run
    /// stay as they are, so that after a new key not everybody has to be told of everybody.
    ///
    /// # Errors
    /// [`IssueError::NotEnrolled`], [`IssueError::OtherIdentity`] and [`IssueError::KeyRevoked`] when these are not the keys of the
    /// member, [`IssueError::Isolated`], [`IssueError::UnknownMember`], [`IssueError::SealingKey`] and
    /// [`IssueError::SealingKeyUsed`]: then nothing has changed.
    /// Or as [`Enclave::issue`].
    pub fn renew(&mut self, request: &Request, now: UnixTime, entropy: &mut dyn Entropy) -> Result<String, IssueError> {
        let (now, name) = (self.advance(now)?, request.name());
        let keys = |e: &&super::member::Enrolment| e.request.static_key() == request.static_key();
        let Some(known) = self.enrolment(name).ok().filter(keys) else {
            self.check_revoked(request.static_key(), now)?;
            return Err(IssueError::NotEnrolled(name.clone()));
        };
        if known.isolated {
            return Err(IssueError::Isolated(name.clone()));
        }
        if known.request.identity_key() != request.identity_key() {
            return Err(IssueError::OtherIdentity(name.clone()));
        }
        if known.request.sealing_key() == request.sealing_key() {
            return Err(IssueError::SealingKeyUsed(name.clone()));
        }
        self.member(name)?;
        Self::check_sealing_key(request)?;
        self.enrolment_mut(name)?.request = request.clone();
        let most = self.file().enclave.lease * 3 / 4;
        self.renew_statements(name, now, now.plus(most))?;
        self.make(name, now, false, entropy)
    }

    /// The bundle, from statements that are there.
    fn make(
        &mut self,
        name: &Name,
        now: UnixTime,
        with_views: bool,
        entropy: &mut dyn Entropy,
    ) -> Result<String, IssueError> {
        let communities: Vec<Name> = self.communities.keys().cloned().collect();
        communities.iter().try_for_each(|c| self.prune(c, now))?;
        let serial = self.members.get(name).map_or(0, |record| record.serial) + 1;
        let front = Front {
            root: self.root_key.verifying_key(),
            authority: coterie_model::Unverified::parse(self.authority.bytes()).map_err(|malformed| {
                IssueError::Damaged {
                    path: super::files::STATE,
                    reason: malformed.to_string(),
                }
            })?,
            successions: self.successions(),
            name: name.clone(),
            serial,
            issued: now,
            not_after: {
                let ends = self.enrolment(name)?.statements.values().map(|s| s.not_after);
                ends.min().unwrap_or_else(|| self.lease_end(now))
            },
        };
        let content = self.content(&front, with_views, entropy)?;
        let bytes = format::encode(&front, &content, &self.statement_key);
        let text = encode_armour(LABEL, &headers(&front), &bytes);
        if text.len() > MAX_BYTES {
            return Err(IssueError::TooLarge {
                member: name.clone(),
                bytes: text.len(),
            });
        }
        self.hand_out(name, serial, now);
        Ok(text.to_string())
    }

    /// Enrols the machine that made `request` and makes its bundle. Where several machines are enrolled, admit all of them
    /// first ([`Enclave::admit`]) and issue then, so that each bundle knows the keys of the others.
    ///
    /// # Errors
    /// As [`Enclave::admit`] and [`Enclave::issue`].
    pub fn enroll(
        &mut self,
        request: &Request,
        now: UnixTime,
        entropy: &mut dyn Entropy,
    ) -> Result<String, IssueError> {
        self.admit(request, now, entropy)?;
        self.issue(request.name(), now, entropy)
    }

    fn content(&self, front: &Front, with_views: bool, entropy: &mut dyn Entropy) -> Result<Content, IssueError> {
        let (name, now) = (&front.name, front.issued);
        let enrolment = self.enrolment(name)?;
        let member = self.member(name)?;
        let keys = self.keys_of(member, now)?;
        let tags: Vec<_> = enrolment.statements.keys().copied().collect();
        let labels = delivery::labels(&tags, entropy);
        let address = Address {
            enclave: self.authority.enclave,
            member: enrolment.member,
            serial: front.serial,
            static_key: enrolment.request.static_key(),
            identity_key: enrolment.request.identity_key(),
        };
        let wrapped = delivery::seal(&address, enrolment.request.sealing_key(), &labels, &keys, entropy)?;
        let subject = Subject {
            enclave: &self.authority.name,
            member: name,
            addresses: &member.addresses,
            key: enrolment.request.identity_key(),
            issued: now,
            not_after: front.not_after,
        };
        let root_certificate = &self.root_certificate;
        let mut serial = || {
            let mut serial = [0; 16];
            entropy.fill(&mut serial);
            serial
        };
        let bundle_certificate = certificate::bundle(&self.root_key, root_certificate, &subject, &wrapped, serial())?;
        let identity_certificate = certificate::identity(&self.root_key, root_certificate, &subject, serial())?;
        let manifests = member
            .communities
            .iter()
            .filter_map(|community| self.communities.get(community))
            .flat_map(|community| &community.epochs)
            .map(|epoch| epoch.manifest.bytes().to_vec())
            .collect();
        Ok(Content {
            member: enrolment.member,
            static_key: *enrolment.request.static_key(),
            freshness: self.freshness,
            port: self.file().enclave.port,
            mtu: self.file().enclave.mtu,
            gateways: Vec::new(),
            servers: self.servers.clone(),
            pools: self
                .file()
                .enclave
                .pools
                .iter()
                .filter_map(|net| Prefix::new(net.addr(), net.prefix_len()))
                .collect(),
            template: self.template_of(member)?,
            root_certificate: root_certificate.clone(),
            bundle_certificate,
            identity_certificate,
            statements: enrolment.statements.values().map(|s| s.bytes().to_vec()).collect(),
            manifests,
            revocations: self.revocations.as_ref().map(|list| list.bytes().to_vec()),
            head: self.head(now).map(|head| head.bytes().to_vec()),
            views: if with_views {
                self.views(front, &labels, &keys, entropy)?
            } else {
                Vec::new()
            },
        })
    }

    /// Current and next key of each of the member's communities.
    fn keys_of(&self, member: &Member, now: UnixTime) -> Result<Vec<EpochKey>, IssueError> {
        let mut keys = Vec::new();
        for name in &member.communities {
            for epoch in self.community(name)?.given(now) {
                let missing = || IssueError::MissingKey {
                    community: name.clone(),
                    epoch: epoch.manifest.epoch,
                };
                keys.push(epoch.epoch_key().ok_or_else(missing)?);
            }
        }
        Ok(keys)
    }

    /// Remembers which keys left the house.
    fn hand_out(&mut self, name: &Name, serial: u64, now: UnixTime) {
        if let Some(record) = self.members.get_mut(name) {
            record.serial = serial;
            self.touch(Part::Member(name.clone()));
        }
        let Some(member) = self.roster.get(name) else {
            return;
        };
        for community in &member.communities {
            if let Some(record) = self.communities.get_mut(community) {
                let fresh: Vec<_> = record.given_mut(now).filter(|epoch| !epoch.handed_out).collect();
                let changed = !fresh.is_empty();
                fresh.into_iter().for_each(|epoch| epoch.handed_out = true);
                if changed {
                    self.touched.entry(Part::Community(community.clone())).or_default();
                }
            }
        }
    }

    fn views(
        &self,
        front: &Front,
        labels: &[(Label, coterie_model::CommunityTag)],
        keys: &[EpochKey],
        entropy: &mut dyn Entropy,
    ) -> Result<Vec<view::SealedView>, IssueError> {
        let place = view::Place {
            member: self.enrolment(&front.name)?.member,
            serial: front.serial,
        };
        let mut by_size = Vec::new();
        for (label, tag) in labels {
            // The first key given is the current one.
            let Some(key) = keys.iter().find(|key| key.tag == *tag) else {
                continue;
            };
            by_size.push((label, key, self.entries(front, *tag)));
        }
        by_size.sort_by_key(|(_, _, entries)| entries.len());
        let (mut total, mut views) = (0, Vec::new());
        for (label, key, entries) in by_size {
            let sealed = view::seal(place, *label, key, &entries, entropy);
            let fits = total + sealed.sealed.len() <= MAX_VIEWS;
            let sealed = if fits {
                sealed
            } else {
                view::seal(place, *label, key, &[], entropy)
            };
            total += sealed.sealed.len();
            views.push(sealed);
        }
        Ok(views)
    }

    /// What a member is told of the others of one community.
    fn entries(&self, front: &Front, tag: coterie_model::CommunityTag) -> Vec<DirectoryEntry> {
        let Some((community, _)) = self.communities.iter().find(|(_, record)| record.tag == tag) else {
            return Vec::new();
        };
        let others = || {
            self.roster
                .iter()
                .filter(|(name, m)| **name != front.name && m.communities.contains(community))
        };
        if others().count() > MAX_ENTRIES {
            return Vec::new();
        }
        others()
            .map(|(name, member)| {
                let enrolment = self.enrolment(name).ok();
                let statement = enrolment
                    .and_then(|e| e.statements.get(&tag))
                    .filter(|s| s.not_after > front.issued);
                super::served::entry_of((name, member), tag, statement)
            })
            .collect()
    }

    fn template_of(&self, member: &Member) -> Result<TemplateSettings, IssueError> {
        let template: &Template = self
            .file()
            .templates
            .get(&member.template)
            .ok_or_else(|| IssueError::UnknownMember(member.template.clone()))?;
        let suites: Vec<_> = template.suites.iter().copied().map(suite).collect();
        let siv = coterie_crypto::aead::Suite::Aes256GcmSiv;
        Ok(TemplateSettings {
            name: member.template.clone(),
            lockdown: template.lockdown,
            forkable: template.forkable,
            roaming: template.roaming,
            returning: template.returning,
            preferred: Some(siv).filter(|siv| template.forkable && suites.contains(siv)),
            suites,
            exclude: member.exclude.iter().cloned().collect(),
        })
    }
}

fn suite(suite: file::Suite) -> coterie_crypto::aead::Suite {
    match suite {
        file::Suite::Aes256Gcm => coterie_crypto::aead::Suite::Aes256Gcm,
        file::Suite::ChaCha20Poly1305 => coterie_crypto::aead::Suite::ChaCha20Poly1305,
        file::Suite::Aes256GcmSiv => coterie_crypto::aead::Suite::Aes256GcmSiv,
    }
}
