//! The issuer of an enclave, with a server or without: its keys and state, and the bundles that it makes (docs/BUNDLE.md).
//!
//! [`Enclave`] is the state of one *enclave directory*. [`Enclave::init`] makes it from an enclave file,
//! [`Enclave::to_files`] and [`Enclave::from_files`] carry it to and from the files of the directory. Machines are enrolled
//! with [`Enclave::admit`], get bundles from [`Enclave::issue`], lose their membership by [`Enclave::revoke`];
//! communities get new keys by [`Enclave::roll`].
//!
//! Pure: time and randomness are arguments, files are bytes. The directory must never go back to an older state: serials
//! and epochs would be used twice. So it is written before a bundle that was issued leaves it. After an operation that failed, the value is to be dropped and not written.

mod assemble;
mod epoch;
mod error;
mod files;
mod look;
mod member;
mod plan;
mod records;
mod recover;
mod revocations;
mod roster;
mod rotate;
mod served;
mod sound;

use core::{net::SocketAddr, time::Duration};
use std::collections::{BTreeMap, BTreeSet};

use coterie_crypto::{Entropy, sign::SigningKey};
use coterie_model::{
    Authority, CommunityTag, EnclaveId, EpochKind, Manifest, MemberId, Name, Revocations, Serial, Signed, UnixTime,
};

pub use epoch::{REMOVAL_GRACE, Roll, Rolled};
pub use error::IssueError;
pub use files::{StoredFile, WRITTEN};
pub use member::Admission;
pub use plan::Plan;
pub use records::{Part, Record};
pub use recover::TakenBack;

use crate::{
    bundle::{Freshness, certificate, root_hash},
    file::{self, EnclaveFile, Member},
};
use epoch::CommunityRecord;
use member::MemberRecord;
use records::Resting;
use recover::Gap;
use revocations::Replaced;
use roster::Roster;
use rotate::Earlier;

/// How long root and authority of a new enclave are valid.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a certificate of the enclave's server is valid.
pub const SERVER_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// A clock that is this much behind the latest use is taken for that time; one that is more behind is refused.
const CLOCK_SLACK: Duration = Duration::from_secs(600);

/// The issuer of one enclave.
#[derive(Debug)]
pub struct Enclave {
    file: EnclaveFile,
    text: String,
    root_key: SigningKey,
    root_certificate: Vec<u8>,
    statement_key: SigningKey,
    /// Roots before this one, the oldest first.
    earlier: Vec<Earlier>,
    authority: Signed<Authority>,
    communities: BTreeMap<Name, CommunityRecord>,
    members: BTreeMap<Name, MemberRecord>,
    roster: Roster,
    /// What tells members that membership goes on.
    freshness: Freshness,
    /// Where the server is, for who gets a bundle.
    servers: Vec<SocketAddr>,
    /// Above the serials of all members that were forgotten.
    floor: Serial,
    /// Addresses that nobody else is given before a time: a statement that has not ended names them.
    resting: Resting,
    revocations: Option<Signed<Revocations>>,
    /// Which of them give way.
    replaced: Replaced,
    /// Revisions of lists that were given out and are not known here, above the first and below the second: an older state was
    /// restored.
    gap: Option<Gap>,
    latest: UnixTime,
    /// What changed since [`Self::take_records`].
    touched: BTreeMap<Part, BTreeSet<Name>>,
}

/// What a new enclave file changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Communities that are new.
    pub added_communities: BTreeSet<Name>,
    /// Communities that are no more.
    pub removed_communities: BTreeSet<Name>,
    /// Members that are new in the file, not enrolled yet.
    pub added_members: BTreeSet<Name>,
    /// Members that are no more; their keys are revoked.
    pub revoked: BTreeSet<Name>,
    /// Communities with a new key, because a member that held the old one holds it no more.
    pub rolled: BTreeSet<Name>,
}

/// A member as an administrator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enrolled {
    /// The enrolment.
    pub member: MemberId,
    /// Of the newest bundle, 0 for none.
    pub serial: Serial,
    /// When its newest statements end.
    pub not_after: UnixTime,
}

impl Enclave {
    /// Makes a new enclave from its file: root, authority, and a first key for each community.
    ///
    /// # Errors
    /// [`IssueError::File`] when the file is not accepted.
    pub fn init(text: &str, now: UnixTime, entropy: &mut dyn Entropy) -> Result<Self, IssueError> {
        let file = parse(text)?;
        let (root_key, statement_key) = (SigningKey::generate(entropy), SigningKey::generate(entropy));
        let (id, mut serial) = (EnclaveId::draw(entropy), [0; 16]);
        entropy.fill(&mut serial);
        let not_after = now.plus(AUTHORITY_LIFE);
        let name = file.enclave.name.clone();
        let root_certificate = certificate::root(&root_key, &name, id, now, not_after, serial)?;
        let authority = Authority {
            era: 1,
            enclave: id,
            name,
            statement_key: statement_key.verifying_key(),
            not_after,
        };
        let mut this = Self {
            authority: Signed::sign(authority, &root_key),
            file,
            text: text.to_owned(),
            root_key,
            root_certificate,
            statement_key,
            earlier: Vec::new(),
            communities: BTreeMap::new(),
            members: BTreeMap::new(),
            roster: Roster::default(),
            freshness: Freshness::Offline,
            servers: Vec::new(),
            floor: 0,
            resting: BTreeMap::new(),
            revocations: None,
            replaced: BTreeMap::new(),
            gap: None,
            latest: now,
            touched: BTreeMap::new(),
        };
        this.call_roll();
        this.begin_communities(now, entropy)?;
        this.touch_all();
        Ok(this)
    }

    /// Takes a changed enclave file. Members that are gone are revoked, and whatever key somebody holds who should not is
    /// replaced at once; the others need new bundles then. Taking the same file again changes nothing.
    ///
    /// # Errors
    /// [`IssueError`] when the file is not accepted or is of another enclave.
    pub fn update(&mut self, text: &str, now: UnixTime, entropy: &mut dyn Entropy) -> Result<Changes, IssueError> {
        let file = parse(text)?;
        self.check_file(&file)?;
        let now = self.advance(now)?;
        let seats = Roster::of(&file, &self.members);
        let mut changes = self.changes(&file, &seats);
        let held = |roster: &Roster, name: &Name| roster.get(name).map(|m| m.communities.clone()).unwrap_or_default();
        let moved: BTreeSet<Name> = self
            .enrolled()
            .map(|(name, _)| name)
            .filter(|name| held(&self.roster, name) != held(&seats, name))
            .cloned()
            .collect();
        // Those whom they were with are to be told as well as those whom they are with.
        moved.iter().for_each(|name| self.touch_member(name));
        for name in &changes.revoked {
            self.revoke(name, now)?;
        }
        for gone in &changes.removed_communities {
            self.communities.remove(gone);
            self.touch_community(gone);
        }
        self.touch(Part::File);
        self.file = file;
        self.give_to_file();
        self.call_roll();
        moved.iter().for_each(|name| self.touch_member(name));
        text.clone_into(&mut self.text);
        self.begin_communities(now, entropy)?;
        for name in core::mem::take(&mut changes.rolled) {
            if self.roll(&name, Roll::Removal, now, entropy)?.changed {
                changes.rolled.insert(name);
            }
        }
        let names: Vec<Name> = self.communities.keys().cloned().collect();
        names.iter().try_for_each(|name| self.refresh_manifests(name))?;
        for name in &moved {
            match self.enrolment(name).map(|e| e.isolated) {
                Ok(false) => self.renew_statements(name, now, self.lease_end(now))?,
                Ok(true) => self.forget_lost_statements(name)?,
                Err(_not_enrolled) => {}
            }
        }
        Ok(changes)
    }

    /// The enclave's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.authority.name
    }

    /// The enclave.
    #[must_use]
    pub fn id(&self) -> EnclaveId {
        self.authority.enclave
    }

    /// What machines pin of the enclave.
    #[must_use]
    pub fn root_hash(&self) -> [u8; 32] {
        root_hash(&self.root_key.verifying_key())
    }

    /// The root's certificate (DER), for mutual TLS with machines that are no members.
    #[must_use]
    pub fn root_certificate(&self) -> &[u8] {
        &self.root_certificate
    }

    /// The enclave file, as it was taken last.
    #[must_use]
    pub fn file(&self) -> &EnclaveFile {
        &self.file
    }

    /// Who is enrolled.
    pub fn enrolled(&self) -> impl Iterator<Item = (&Name, Enrolled)> {
        self.members.iter().filter_map(|(name, record)| {
            let enrolment = record.enrolment.as_ref()?;
            Some((
                name,
                Enrolled {
                    member: enrolment.member,
                    serial: record.serial,
                    not_after: enrolment.ends,
                },
            ))
        })
    }

    /// The epochs of a community that have not been dropped, the lowest first.
    pub fn manifests(&self, community: &Name) -> impl Iterator<Item = &Signed<Manifest>> {
        self.communities
            .get(community)
            .into_iter()
            .flat_map(|c| &c.epochs)
            .map(|e| &e.manifest)
    }

    /// Who is refused.
    #[must_use]
    pub fn revocations(&self) -> Option<&Signed<Revocations>> {
        self.revocations.as_ref()
    }

    /// Communities of the file that have no key yet get their first one.
    fn begin_communities(&mut self, now: UnixTime, entropy: &mut dyn Entropy) -> Result<(), IssueError> {
        let names: Vec<Name> = self
            .file
            .communities
            .keys()
            .filter(|name| !self.communities.contains_key(*name))
            .cloned()
            .collect();
        for name in names {
            let tag = CommunityTag::draw(entropy);
            self.communities.insert(
                name.clone(),
                CommunityRecord {
                    tag,
                    epochs: Vec::new(),
                },
            );
            self.begin_epoch(&name, 1, now, EpochKind::Scheduled, entropy)?;
        }
        Ok(())
    }

    /// Time that never runs backwards and has not outlived the authority.
    fn advance(&mut self, now: UnixTime) -> Result<UnixTime, IssueError> {
        if now.plus(CLOCK_SLACK) < self.latest {
            return Err(IssueError::ClockBehind {
                now,
                latest: self.latest,
            });
        }
        if now >= self.authority.not_after {
            return Err(IssueError::AuthorityEnded(self.authority.not_after));
        }
        if now > self.latest {
            self.latest = now;
            self.touch(Part::Enclave);
        }
        Ok(self.latest)
    }

    /// When a lease that begins now ends.
    fn lease_end(&self, now: UnixTime) -> UnixTime {
        now.plus(self.file.enclave.lease).min(self.authority.not_after)
    }

    fn community(&self, name: &Name) -> Result<&CommunityRecord, IssueError> {
        self.communities
            .get(name)
            .ok_or_else(|| IssueError::UnknownCommunity(name.clone()))
    }

    fn community_mut(&mut self, name: &Name) -> Result<&mut CommunityRecord, IssueError> {
        self.communities
            .get_mut(name)
            .ok_or_else(|| IssueError::UnknownCommunity(name.clone()))
    }

    fn member(&self, name: &Name) -> Result<&Member, IssueError> {
        self.roster
            .get(name)
            .ok_or_else(|| IssueError::UnknownMember(name.clone()))
    }
}

fn parse(text: &str) -> Result<EnclaveFile, IssueError> {
    file::parse(text).map_err(|diagnostics| IssueError::File(Box::new(diagnostics)))
}

fn added<T>(before: &BTreeMap<Name, T>, after: &BTreeMap<Name, T>) -> BTreeSet<Name> {
    after
        .keys()
        .filter(|name| !before.contains_key(*name))
        .cloned()
        .collect()
}
