//! Keys of a community, epoch after epoch.

use core::time::Duration;

use coterie_crypto::{Entropy, Secret};
use coterie_model::{CommunityTag, Epoch, EpochKey, EpochKind, Manifest, Name, Signed, UnixTime, commitment};

use super::{Enclave, IssueError, Part};

/// How long an epoch that a removal ended goes on admitting.
pub const REMOVAL_GRACE: Duration = Duration::from_secs(10);

/// Most epochs of a community that admit at one time.
const MAX_LIVE: usize = 4;

/// A community as its issuer has it.
#[derive(Debug)]
pub(super) struct CommunityRecord {
    pub(super) tag: CommunityTag,
    /// Epochs that have not retired, the lowest first.
    pub(super) epochs: Vec<EpochRecord>,
}

/// One epoch.
#[derive(Debug)]
pub(super) struct EpochRecord {
    pub(super) manifest: Signed<Manifest>,
    /// Missing where it is not needed any more, or was lost.
    pub(super) key: Option<Secret<32>>,
    /// Whether a bundle carries the key.
    pub(super) handed_out: bool,
}

/// How a community gets a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roll {
    /// By schedule: the next key is handed out ahead, the previous epoch admits for one membership lease more.
    Scheduled {
        /// From now until the next epoch activates: time to bring new bundles to all members. A member that has none by
        /// then can reach the others no more.
        activates_in: Duration,
    },
    /// After a member was removed: a key that was never handed out, at once; whatever was handed out admits for
    /// [`REMOVAL_GRACE`] more.
    Removal,
}

/// What a roll did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rolled {
    /// The newest epoch.
    pub epoch: Epoch,
    /// When it activates.
    pub activates: UnixTime,
    /// False when a removal found a key that nobody was given yet, so that none had to be replaced.
    pub changed: bool,
}

impl CommunityRecord {
    /// Epochs whose keys a member is given: current and next, never a previous one.
    pub(super) fn given(&self, now: UnixTime) -> impl Iterator<Item = &EpochRecord> {
        let from = self.first_given(now);
        self.epochs.iter().filter(move |e| e.is_given(from, now))
    }

    /// The same, to be marked.
    pub(super) fn given_mut(&mut self, now: UnixTime) -> impl Iterator<Item = &mut EpochRecord> {
        let from = self.first_given(now);
        self.epochs.iter_mut().filter(move |e| e.is_given(from, now))
    }

    /// The newest epoch that has activated.
    fn first_given(&self, now: UnixTime) -> Epoch {
        let current = self.epochs.iter().rev().find(|e| e.manifest.activates <= now);
        current.map_or(0, |e| e.manifest.epoch)
    }

    /// Whether somebody was given a key that still admits after `t`.
    pub(super) fn is_known_to_anybody(&self, t: UnixTime) -> bool {
        self.epochs.iter().any(|e| e.handed_out && e.manifest.retires > t)
    }

    /// Drops what has retired; whether there was something.
    fn prune(&mut self, now: UnixTime) -> bool {
        let before = self.epochs.len();
        self.epochs.retain(|e| e.manifest.retires > now);
        self.epochs.len() < before
    }
}

impl EpochRecord {
    /// An epoch that ends before it begins was replaced by a removal.
    fn is_given(&self, from: Epoch, now: UnixTime) -> bool {
        self.manifest.epoch >= from && self.manifest.retires > now.max(self.manifest.activates)
    }

    pub(super) fn epoch_key(&self) -> Option<EpochKey> {
        let key = self.key.as_ref()?.duplicate();
        Some(EpochKey {
            tag: self.manifest.tag,
            epoch: self.manifest.epoch,
            key,
        })
    }
}

impl Enclave {
    /// Gives a community a new key. Members learn it with their next bundle ([`Enclave::issue`]).
    ///
    /// # Errors
    /// [`IssueError`]; a scheduled roll is refused while the one before has not activated.
    pub fn roll(
        &mut self,
        community: &Name,
        kind: Roll,
        now: UnixTime,
        entropy: &mut dyn Entropy,
    ) -> Result<Rolled, IssueError> {
        let now = self.advance(now)?;
        self.prune(community, now)?;
        let record = self.community(community)?;
        let (newest, last) = record
            .epochs
            .iter()
            .map(|e| (e.manifest.epoch, e.manifest.activates))
            .next_back()
            .ok_or_else(|| IssueError::UnknownCommunity(community.clone()))?;
        let activates = match kind {
            Roll::Scheduled { .. } if last > now => {
                return Err(IssueError::NextPending {
                    community: community.clone(),
                    epoch: newest,
                    activates: last,
                });
            }
            Roll::Scheduled { .. } if record.epochs.len() >= MAX_LIVE => {
                let until = record.epochs.iter().map(|e| e.manifest.retires).min().unwrap_or(now);
                return Err(IssueError::TooManyEpochs {
                    community: community.clone(),
                    until,
                });
            }
            Roll::Removal if !record.is_known_to_anybody(now.plus(REMOVAL_GRACE)) => {
                return Ok(Rolled {
                    epoch: newest,
                    activates: last,
                    changed: false,
                });
            }
            Roll::Scheduled { activates_in } => now.plus(activates_in),
            Roll::Removal => now,
        };
        let retires = match kind {
            Roll::Scheduled { .. } => activates.plus(self.file().enclave.lease),
            Roll::Removal => now.plus(REMOVAL_GRACE),
        };
        let manifest_kind = match kind {
            Roll::Scheduled { .. } => EpochKind::Scheduled,
            Roll::Removal => EpochKind::Removal,
        };
        self.end_epochs(community, retires)?;
        // After removals in quick succession the oldest have no grace left: an epoch that no bundle names has retired.
        let record = self.community_mut(community)?;
        record.epochs.drain(..record.epochs.len().saturating_sub(MAX_LIVE - 1));
        self.touch_community(community);
        let epoch = newest + 1;
        self.begin_epoch(community, epoch, activates, manifest_kind, entropy)?;
        Ok(Rolled {
            epoch,
            activates,
            changed: true,
        })
    }

    /// Gives a community a key whose epoch is above `floor`, in the place of whatever anybody has.
    pub(super) fn roll_above(
        &mut self,
        community: &Name,
        floor: Epoch,
        now: UnixTime,
        entropy: &mut dyn Entropy,
    ) -> Result<(), IssueError> {
        self.prune(community, now)?;
        self.end_epochs(community, now.plus(REMOVAL_GRACE))?;
        let record = self.community_mut(community)?;
        record.epochs.drain(..record.epochs.len().saturating_sub(MAX_LIVE - 1));
        let newest = record.epochs.last().map_or(0, |e| e.manifest.epoch);
        self.begin_epoch(community, newest.max(floor) + 1, now, EpochKind::Removal, entropy)
    }

    /// Drops epochs of a community that have retired.
    pub(super) fn prune(&mut self, community: &Name, now: UnixTime) -> Result<(), IssueError> {
        if self.community_mut(community)?.prune(now) {
            self.touch(Part::Keys(community.clone()));
            self.touch(Part::Community(community.clone()));
        }
        Ok(())
    }

    /// Communities whose newest key is older than the enclave file wants it.
    #[must_use]
    pub fn due(&self, now: UnixTime) -> Vec<Name> {
        let is_due = |name: &Name| {
            let period = self.file().communities.get(name).map(|c| c.epoch);
            let newest = self.communities.get(name).and_then(|c| c.epochs.last());
            period
                .zip(newest)
                .is_some_and(|(period, newest)| newest.manifest.activates.plus(period) <= now)
        };
        self.communities.keys().filter(|name| is_due(name)).cloned().collect()
    }

    /// Adds an epoch with a fresh key. It retires when another one ends it, at the latest with the authority.
    pub(super) fn begin_epoch(
        &mut self,
        community: &Name,
        epoch: Epoch,
        activates: UnixTime,
        kind: EpochKind,
        entropy: &mut dyn Entropy,
    ) -> Result<(), IssueError> {
        let key = Secret::draw(entropy);
        let (priority, holders) = self.policy_of(community)?;
        let record = self.community(community)?;
        let manifest = Manifest {
            era: self.authority.era,
            enclave: self.authority.enclave,
            tag: record.tag,
            name: community.clone(),
            priority,
            epoch,
            commitment: commitment(record.tag, epoch, &key),
            activates,
            retires: self.authority.not_after,
            kind,
            holders,
        };
        let manifest = Signed::sign(manifest, &self.statement_key);
        self.community_mut(community)?.epochs.push(EpochRecord {
            manifest,
            key: Some(key),
            handed_out: false,
        });
        self.touch_community(community);
        Ok(())
    }

    /// Has every epoch of a community retire at `retires`, where it does not earlier.
    fn end_epochs(&mut self, community: &Name, retires: UnixTime) -> Result<(), IssueError> {
        self.sign_manifests(community, |manifest| manifest.retires = manifest.retires.min(retires))
    }

    /// Brings priority and number of holders of a community's manifests in line with the enclave file.
    pub(super) fn refresh_manifests(&mut self, community: &Name) -> Result<(), IssueError> {
        let (priority, holders) = self.policy_of(community)?;
        self.sign_manifests(community, |manifest| {
            (manifest.priority, manifest.holders) = (priority, holders)
        })
    }

    fn sign_manifests(&mut self, community: &Name, change: impl Fn(&mut Manifest)) -> Result<(), IssueError> {
        let record = self
            .communities
            .get_mut(community)
            .ok_or_else(|| IssueError::UnknownCommunity(community.clone()))?;
        let mut changed = false;
        for epoch in &mut record.epochs {
            let mut manifest = Manifest::clone(&epoch.manifest);
            change(&mut manifest);
            if manifest != *epoch.manifest {
                epoch.manifest = Signed::sign(manifest, &self.statement_key);
                changed = true;
            }
        }
        if changed {
            self.touch_manifests(community);
        }
        Ok(())
    }

    /// Priority of a community and how many members hold its key, running or not.
    fn policy_of(&self, community: &Name) -> Result<(u16, u32), IssueError> {
        let policy = self
            .file()
            .communities
            .get(community)
            .ok_or_else(|| IssueError::UnknownCommunity(community.clone()))?;
        Ok((policy.priority, self.roster.holders(community)))
    }
}
