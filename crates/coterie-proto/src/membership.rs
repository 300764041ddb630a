//! Who may speak: the authority's signed objects, our keys, protocol time, and the checks of WIRE section 4.
//!
//! Every object has a revision below which this state never goes back; what is lower is refused and reported.

use std::collections::BTreeMap;
use std::time::Duration;

use coterie_crypto::{dh::PublicKey, hash::DigestMac, same_bytes};
use coterie_model::{
    Authority, CommunityTag, Epoch, EpochKey, Era, Head, Instant, Manifest, MemberId, Revision, Revocations, Serial,
    Signed, Statement, UnixTime, Unverified, commitment, signed::head_hash,
};

use crate::{DropReason, schedule};

/// How long before an epoch activates a responder accepts it already: clocks differ by less.
const EARLY: Duration = Duration::from_secs(60);

/// Where protocol time comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Issued offline: time starts at the later of issue time and wall clock, given by the host, and runs on.
    Offline,
    /// From heads; until the first one came no new session is made.
    Heads,
}

/// A key of ours with what is derived from it for every message that we check.
struct HeldKey {
    key: EpochKey,
    /// For initiations to us.
    mac1: DigestMac,
    /// For questions and answers.
    query_mac: DigestMac,
    /// Of its manifest, kept beside it so that a flood of forgeries costs hashing and nothing else.
    activates: UnixTime,
    retires: UnixTime,
}

/// The state of our membership.
pub struct Membership {
    authority: Signed<Authority>,
    own_static: PublicKey,
    own: BTreeMap<CommunityTag, Signed<Statement>>,
    /// Newest epochs first.
    keys: Vec<HeldKey>,
    manifests: BTreeMap<(CommunityTag, Epoch), Signed<Manifest>>,
    /// Below which serial nothing is accepted.
    floors: BTreeMap<(MemberId, CommunityTag), Serial>,
    revocations: Option<Signed<Revocations>>,
    head: Option<Signed<Head>>,
    freshness: Freshness,
    /// Protocol time was `.1` at `.0`.
    base: (Instant, UnixTime),
}

/// Why an object was not taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotLearned {
    /// Signature, era, enclave or commitment do not fit.
    #[error("the object is not this enclave's")]
    Foreign,
    /// A lower revision than what is known: somebody may be rolling us back.
    #[error("the object is older than what is known")]
    Lower,
    /// The same as what is known.
    #[error("the object is known")]
    Known,
    /// A head whose revocations are not known yet.
    #[error("the head pins revocations that are not known yet")]
    Early,
}

impl Membership {
    /// Starts with the authority that the root signed.
    #[must_use]
    pub fn new(
        authority: Signed<Authority>,
        own_static: PublicKey,
        freshness: Freshness,
        base: (Instant, UnixTime),
    ) -> Self {
        Self {
            authority,
            own_static,
            own: BTreeMap::new(),
            keys: Vec::new(),
            manifests: BTreeMap::new(),
            floors: BTreeMap::new(),
            revocations: None,
            head: None,
            freshness,
            base,
        }
    }

    /// The authority.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Protocol time.
    #[must_use]
    pub fn time(&self, now: Instant) -> UnixTime {
        self.base.1.plus(now.since(self.base.0))
    }

    /// False when new sessions must wait for a head. Later ones need not come: where the server is down, members go on until
    /// their statements end.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.freshness == Freshness::Offline || self.head.is_some()
    }

    /// What we tell a peer that we know.
    #[must_use]
    pub fn known(&self) -> (Era, Revision) {
        (self.authority.era, self.revocations.as_ref().map_or(0, |r| r.revision))
    }

    /// Our statement for a community, if it has not ended.
    #[must_use]
    pub fn own_statement(&self, tag: CommunityTag, now: Instant) -> Option<&Signed<Statement>> {
        let time = self.time(now);
        self.own
            .get(&tag)
            .filter(|s| s.not_after > time && self.authority.not_after > time)
    }

    /// All our statements, ended or not.
    pub fn own_statements(&self) -> impl Iterator<Item = &Signed<Statement>> {
        self.own.values()
    }

    /// The newest manifest of a community that has activated, else the newest.
    #[must_use]
    pub fn manifest(&self, tag: CommunityTag, now: Instant) -> Option<&Signed<Manifest>> {
        let time = self.time(now);
        let all = || self.manifests.range((tag, 0)..=(tag, Epoch::MAX)).rev().map(|(_, m)| m);
        all().find(|m| m.activates <= time).or_else(|| all().next())
    }

    /// All manifests, for status.
    pub fn manifests(&self) -> impl Iterator<Item = &Signed<Manifest>> {
        self.manifests.values()
    }

    /// The key that an initiation uses now: the newest epoch that has activated and not retired.
    #[must_use]
    pub fn initiating_key(&self, tag: CommunityTag, now: Instant) -> Option<&EpochKey> {
        let time = self.time(now);
        let held = self
            .keys
            .iter()
            .find(|h| h.key.tag == tag && h.activates <= time && time < h.retires)?;
        Some(&held.key)
    }

    /// The key of one epoch.
    #[must_use]
    pub fn key(&self, tag: CommunityTag, epoch: Epoch) -> Option<&EpochKey> {
        self.keys
            .iter()
            .map(|held| &held.key)
            .find(|key| key.tag == tag && key.epoch == epoch)
    }

    /// True when an epoch admits new sessions.
    #[must_use]
    pub fn admits(&self, tag: CommunityTag, epoch: Epoch, now: Instant) -> bool {
        let time = self.time(now);
        self.manifests
            .get(&(tag, epoch))
            .is_some_and(|m| m.activates <= time.plus(EARLY) && time < m.retires)
    }

    /// The key under which `mac1` over `digest` verifies: newest epochs first, only what admits.
    #[must_use]
    pub fn verify_mac1(&self, digest: &[u8; 32], mac1: &[u8; 16], now: Instant) -> Option<&EpochKey> {
        self.verifying(now, |held| same_bytes(&held.mac1.mac(digest), mac1))
    }

    /// The key under which a query's mac over `digest` verifies.
    #[must_use]
    pub fn verify_query(&self, digest: &[u8; 32], mac: &[u8; 16], now: Instant) -> Option<&EpochKey> {
        self.verifying(now, |held| same_bytes(&held.query_mac.mac(digest), mac))
    }

    fn verifying(&self, now: Instant, verifies: impl Fn(&HeldKey) -> bool) -> Option<&EpochKey> {
        let time = self.time(now);
        let early = time.plus(EARLY);
        let held = self
            .keys
            .iter()
            .find(|held| held.activates <= early && time < held.retires && verifies(held))?;
        Some(&held.key)
    }

    /// Checks a peer's statement for `tag` from the owner of `static_key` (WIRE section 3.2, point 10), where `known` is the newest
    /// that is known for its member and community.
    ///
    /// # Errors
    /// [`DropReason::Revoked`] or [`DropReason::BadStatement`].
    pub fn check_statement(
        &self,
        statement: Unverified<Statement>,
        tag: CommunityTag,
        static_key: &PublicKey,
        known: Option<&Statement>,
        now: Instant,
    ) -> Result<Signed<Statement>, DropReason> {
        let claimed = statement.claimed();
        if self.is_revoked(static_key) {
            return Err(DropReason::Revoked);
        }
        let time = self.time(now);
        let fits = claimed.tag == tag
            && claimed.static_key == *static_key
            && claimed.not_after > time
            && self.authority.not_after > time;
        // A member may not have its newest statement yet when others do, and not get it while the server is away: the one that it was
        // renewed from is as good until it ends, if it says the same.
        let is_other = known.is_some_and(|k| claimed.serial < k.serial && claimed.addresses != k.addresses);
        let floor = self.floors.get(&(claimed.member, tag)).copied().unwrap_or(0);
        if !fits || is_other || claimed.serial < floor {
            return Err(DropReason::BadStatement);
        }
        self.verify_statement(statement)
            .map_err(|_foreign| DropReason::BadStatement)
    }

    /// Checks signature, era and enclave of a statement of the directory.
    ///
    /// # Errors
    /// [`NotLearned::Foreign`].
    pub fn verify_statement(&self, statement: Unverified<Statement>) -> Result<Signed<Statement>, NotLearned> {
        let claimed = statement.claimed();
        if claimed.era != self.authority.era || claimed.enclave != self.authority.enclave {
            return Err(NotLearned::Foreign);
        }
        statement
            .verify(&self.authority.statement_key)
            .map_err(|_refused| NotLearned::Foreign)
    }

    /// The community of a statement is its member's no more: neither it nor an older one is accepted again.
    pub fn end_serial(&mut self, statement: &Statement) {
        let floor = self.floors.entry((statement.member, statement.tag)).or_insert(0);
        *floor = statement.serial.saturating_add(1).max(*floor);
    }

    /// True when the owner of `static_key` is refused.
    #[must_use]
    pub fn is_revoked(&self, static_key: &PublicKey) -> bool {
        self.revocations
            .as_ref()
            .is_some_and(|r| r.entries.binary_search_by(|e| e.static_key.cmp(static_key)).is_ok())
    }

    /// Takes over a statement about ourselves.
    ///
    /// # Errors
    /// [`NotLearned`] when it is foreign, somebody else's or not newer.
    pub fn learn_own(&mut self, statement: Signed<Statement>) -> Result<(), NotLearned> {
        let foreign = statement.era != self.authority.era
            || statement.enclave != self.authority.enclave
            || statement.static_key != self.own_static;
        if foreign {
            return Err(NotLearned::Foreign);
        }
        if let Some(old) = self.own.get(&statement.tag) {
            not_lower(statement.serial, old.serial)?;
        }
        self.own.insert(statement.tag, statement);
        Ok(())
    }

    /// Takes over a manifest.
    ///
    /// # Errors
    /// [`NotLearned`] when it is foreign or changes what an epoch's key is.
    pub fn learn_manifest(&mut self, manifest: Signed<Manifest>) -> Result<(), NotLearned> {
        if manifest.era != self.authority.era || manifest.enclave != self.authority.enclave {
            return Err(NotLearned::Foreign);
        }
        let at = (manifest.tag, manifest.epoch);
        if let Some(old) = self.manifests.get(&at) {
            if old.commitment != manifest.commitment {
                return Err(NotLearned::Foreign);
            }
            if **old == *manifest {
                return Err(NotLearned::Known);
            }
            // What has ended, or will, is not given more time by somebody who shows what was said before.
            if manifest.retires > old.retires {
                return Err(NotLearned::Lower);
            }
        }
        if let Some(held) = self.keys.iter_mut().find(|held| (held.key.tag, held.key.epoch) == at) {
            held.activates = manifest.activates;
            held.retires = manifest.retires;
        }
        self.manifests.insert(at, manifest);
        Ok(())
    }

    /// Takes over a key, if its manifest's commitment says that it is the epoch's.
    ///
    /// # Errors
    /// [`NotLearned::Foreign`] otherwise.
    pub fn learn_key(&mut self, key: EpochKey) -> Result<(), NotLearned> {
        let manifest = self.manifests.get(&(key.tag, key.epoch)).ok_or(NotLearned::Foreign)?;
        if manifest.commitment != commitment(key.tag, key.epoch, &key.key) {
            return Err(NotLearned::Foreign);
        }
        let held = HeldKey {
            mac1: schedule::trial_mac_key(&key, &self.own_static),
            query_mac: schedule::trial_query_mac_key(&key),
            activates: manifest.activates,
            retires: manifest.retires,
            key,
        };
        let at = (held.key.tag, held.key.epoch);
        self.keys.retain(|old| (old.key.tag, old.key.epoch) != at);
        let place = self.keys.partition_point(|old| old.key.epoch > held.key.epoch);
        self.keys.insert(place, held);
        Ok(())
    }

    /// Takes over revocations.
    ///
    /// # Errors
    /// [`NotLearned`] when they are foreign or not newer.
    pub fn learn_revocations(&mut self, list: Unverified<Revocations>) -> Result<(), NotLearned> {
        let claimed = list.claimed();
        if claimed.era != self.authority.era || claimed.enclave != self.authority.enclave {
            return Err(NotLearned::Foreign);
        }
        let list = list
            .verify(&self.authority.statement_key)
            .map_err(|_refused| NotLearned::Foreign)?;
        if let Some(old) = &self.revocations {
            not_lower(list.revision, old.revision)?;
        }
        self.revocations = Some(list);
        Ok(())
    }

    /// Takes over a head that a peer has: nobody knows how late it is, so it sets protocol time forward and never back. One that
    /// pins a list that we do not have is kept only once we have it.
    ///
    /// # Errors
    /// [`NotLearned`] when it is foreign, not newer, or pins another list than ours.
    pub fn learn_head(&mut self, head: Unverified<Head>, now: Instant) -> Result<(), NotLearned> {
        let time = self.take_head(head)?;
        self.not_behind(time, now);
        Ok(())
    }

    /// The same for a head that comes from the server, just made: protocol time is what it says, or, for one that was kept with a
    /// bundle and is the first, no less.
    ///
    /// # Errors
    /// As [`Self::learn_head`].
    pub fn learn_pulse(&mut self, head: Unverified<Head>, now: Instant) -> Result<(), NotLearned> {
        let is_first = self.head.is_none();
        let time = self.take_head(head)?;
        if self.freshness == Freshness::Offline || is_first {
            self.not_behind(time, now);
        } else {
            self.base = (now, time);
        }
        Ok(())
    }

    fn take_head(&mut self, head: Unverified<Head>) -> Result<UnixTime, NotLearned> {
        let claimed = head.claimed();
        if claimed.era != self.authority.era || claimed.enclave != self.authority.enclave {
            return Err(NotLearned::Foreign);
        }
        let head = head
            .verify(&self.authority.statement_key)
            .map_err(|_refused| NotLearned::Foreign)?;
        if let Some(old) = &self.head {
            not_lower(head.time.0, old.time.0)?;
        }
        let (_, revision) = self.known();
        if head.revision < revision {
            return Err(NotLearned::Lower);
        }
        if head.revision > revision {
            return Err(NotLearned::Early);
        }
        let pinned = self.revocations.as_ref().is_some_and(|r| head_hash(r) == head.hash);
        if !pinned {
            return Err(NotLearned::Foreign);
        }
        let time = head.time;
        self.head = Some(head);
        Ok(time)
    }

    /// Revocations and head as signed, to hand to a peer that is behind. A head that pins older revocations is of no use to it.
    #[must_use]
    pub fn difference(&self) -> (Option<&Signed<Revocations>>, Option<&Signed<Head>>) {
        let (_, revision) = self.known();
        (
            self.revocations.as_ref(),
            self.head.as_ref().filter(|h| h.revision == revision),
        )
    }

    /// Forgets epochs and communities that are not named any more.
    pub fn keep_only(&mut self, epochs: &[(CommunityTag, Epoch)], tags: &[CommunityTag]) {
        self.manifests.retain(|at, _| epochs.contains(at));
        self.keys
            .retain(|held| epochs.contains(&(held.key.tag, held.key.epoch)));
        self.own.retain(|tag, _| tags.contains(tag));
    }

    /// Forgets the epochs of a community that are not named and older than one that is.
    pub fn keep_epochs(&mut self, tag: CommunityTag, named: &[Epoch]) {
        let Some(newest) = named.iter().max() else { return };
        let stays = |t: CommunityTag, epoch: &Epoch| t != tag || epoch >= newest || named.contains(epoch);
        self.manifests.retain(|(t, epoch), _| stays(*t, epoch));
        self.keys.retain(|held| stays(held.key.tag, &held.key.epoch));
    }

    /// Protocol time is not behind `time`: a machine that was paused learns how late it is from what it is told.
    pub fn not_before(&mut self, time: UnixTime, now: Instant) {
        if self.freshness == Freshness::Offline {
            self.not_behind(time, now);
        }
    }

    fn not_behind(&mut self, time: UnixTime, now: Instant) {
        if time > self.time(now) {
            self.base = (now, time);
        }
    }

    /// Erases keys of epochs that retired; the previous epoch is of no use to anybody then.
    pub fn forget_retired(&mut self, now: Instant) {
        let time = self.time(now);
        self.keys.retain(|held| time < held.retires);
    }

    /// When the next epoch retires, in running time.
    #[must_use]
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let time = self.time(now);
        self.keys
            .iter()
            .map(|held| held.retires)
            .min()
            .map(|t| now + t.since(time))
    }

    /// Erases every key and statement: the machine was forked.
    pub fn erase(&mut self) {
        self.keys.clear();
        self.own.clear();
    }
}

fn not_lower(new: u64, old: u64) -> Result<(), NotLearned> {
    match new.cmp(&old) {
        core::cmp::Ordering::Less => Err(NotLearned::Lower),
        core::cmp::Ordering::Equal => Err(NotLearned::Known),
        core::cmp::Ordering::Greater => Ok(()),
    }
}
