//! An enclave whose state was set back: a backup was restored, and what was done since it was made is not known here.

use core::time::Duration;

use coterie_crypto::{Entropy, dh::PublicKey};
use coterie_model::{Name, Revision, Revocation, Revocations, UnixTime, Unverified};

use super::{Enclave, IssueError, Part};

/// In a second nothing is counted so far.
const IN_A_SECOND: u64 = 1 << 20;

/// Revisions above the first and below the second.
pub(super) type Gap = (Revision, Revision);

/// Who is refused again, because a list from before the restore says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// Members, which are isolated now: whether they were isolated or revoked, the list does not say.
    pub isolated: Vec<Name>,
    /// How many machines are refused that are no members here.
    pub others: usize,
}

impl Enclave {
    /// Goes on after an older state was restored. Machines have bundles, statements, lists and keys that this state does not
    /// know, and refuse what is not newer: serials, the revision of revocations and epochs go on above all that can have been
    /// given out until `now`. Each community gets a new key and each member new statements, and every member is told to ask for
    /// a bundle.
    ///
    /// Who was revoked after the backup was made is a member again until somebody shows who it was ([`Self::take_back`]).
    ///
    /// # Errors
    /// [`IssueError`] when the clock is behind or the authority has ended.
    pub fn recover(&mut self, now: UnixTime, entropy: &mut dyn Entropy) -> Result<(), IssueError> {
        // Also where the clock was set back: later than the backup was made.
        let now = self.advance(now.max(self.latest.plus(Duration::from_secs(1))))?;
        let floor = now.0.saturating_mul(IN_A_SECOND);
        self.floor = self.floor.max(floor);
        for record in self.members.values_mut() {
            record.serial = record.serial.max(floor);
            record.statement_serial = record.statement_serial.max(floor);
        }
        let list = self.revocations.as_ref();
        let (known, entries) = list.map_or((0, Vec::new()), |list| (list.revision, list.entries.clone()));
        let revision = known.max(floor) + 1;
        self.set_revocations_at(revision, entries, now)?;
        self.gap = Some((self.gap.map_or(known, |(first, _)| first.min(known)), revision));
        let communities: Vec<Name> = self.communities.keys().cloned().collect();
        for community in &communities {
            self.roll_above(community, floor, now, entropy)?;
        }
        let members: Vec<Name> = self.members.keys().cloned().collect();
        for name in &members {
            self.touch_member(name);
            let Ok(enrolment) = self.enrolment_mut(name) else {
                continue;
            };
            enrolment.statements.clear();
            let isolated = enrolment.isolated;
            // Whoever is isolated gets them when it is released and renews.
            if !isolated && self.roster.get(name).is_some() {
                self.renew_statements(name, now, self.lease_end(now))?;
            }
        }
        self.touch(Part::Enclave);
        self.touch(Part::File);
        Ok(())
    }

    /// Refuses again whom a list names that was given out before an older state was restored, and that is not known here since. It
    /// is signed by this enclave, so it matters little who shows it. A list that is known, or that adds nothing, changes nothing.
    ///
    /// # Errors
    /// [`IssueError::ForeignList`] when it is no list of this enclave and era; [`IssueError::TooManyRevocations`].
    pub fn take_back(&mut self, list: &[u8], now: UnixTime) -> Result<TakenBack, IssueError> {
        let list = Unverified::<Revocations>::parse(list).map_err(|_malformed| IssueError::ForeignList)?;
        let list = list
            .verify(&self.statement_key.verifying_key())
            .map_err(|_refused| IssueError::ForeignList)?;
        if list.era != self.authority.era || list.enclave != self.authority.enclave {
            return Err(IssueError::ForeignList);
        }
        let mut taken = TakenBack::default();
        let is_lost = |(first, end): &Gap| *first < list.revision && list.revision < *end;
        let Some((_, end)) = self.gap.filter(is_lost) else {
            return Ok(taken);
        };
        let now = self.advance(now)?;
        // Once: whom a person releases later stays free.
        self.gap = Some((list.revision, end));
        self.touch(Part::Enclave);
        for entry in &list.entries {
            if entry.until <= now || self.check_revoked(&entry.static_key, now).is_err() {
                continue;
            }
            match self.holder(&entry.static_key) {
                Some(name) => {
                    self.isolate(&name, now)?;
                    taken.isolated.push(name);
                }
                None => {
                    self.add_revocation(Revocation::clone(entry), now)?;
                    taken.others += 1;
                }
            }
        }
        Ok(taken)
    }

    /// The member with this static key.
    fn holder(&self, key: &PublicKey) -> Option<Name> {
        let mut names = self.enrolled().map(|(name, _)| name);
        names.find(|name| self.static_key(name) == Some(key)).cloned()
    }
}
