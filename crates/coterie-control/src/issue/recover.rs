//! An enclave whose state was set back: a backup was restored, and what was done since it was made is not known here.

use core::time::Duration;

use coterie_crypto::Entropy;
use coterie_model::{Name, UnixTime};

use super::{Enclave, IssueError, Part};

/// In a second nothing is counted so far.
const IN_A_SECOND: u64 = 1 << 20;

impl Enclave {
    /// Goes on after an older state was restored. Machines have bundles, statements, lists and keys that this state does not
    /// know, and refuse what is not newer: serials, the revision of revocations and epochs go on above all that can have been
    /// given out until `now`. Each community gets a new key and each member new statements, and every member is told to ask for
    /// a bundle.
    ///
    /// Who was revoked after the backup was made is a member again, and is to be revoked again.
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
        if let Some(list) = &self.revocations {
            let (revision, entries) = (list.revision.max(floor) + 1, list.entries.clone());
            self.set_revocations_at(revision, entries, now)?;
        }
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
}
