//! Whose static keys are refused: the signed list, and who may add how much to it.
//!
//! What machines bring about themselves, by taking over a name that another one has, gets a part of the list and gives way: an
//! administrator's word finds room, however often machines come again.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use coterie_crypto::dh::PublicKey;
use coterie_model::{Name, Revision, Revocation, Revocations, Signed, UnixTime, signed::MAX_REVOCATIONS};

use super::{Enclave, IssueError, Part, files::damaged, roster::revocation};

/// Most entries of the list for machines whose names others took over.
const MAX_REPLACEMENTS: usize = 600;
/// Most of them under one name.
const MAX_OF_NAME: usize = 10;

/// Static keys on the list because another machine took the name over, and which name.
pub(super) type Replaced = BTreeMap<PublicKey, Name>;

/// The same, as it is stored: keys in base64, under each name.
pub(super) type ReplacedState = BTreeMap<Name, Vec<String>>;

/// At whose word a static key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// A person's.
    Administrator,
    /// A machine's that takes a name over.
    Machine,
}

impl Enclave {
    /// The keys of a member are refused until its last statement has ended. What fails has changed nothing.
    pub(super) fn refuse(&mut self, name: &Name, word: Word, now: UnixTime) -> Result<(), IssueError> {
        let enrolment = self.enrolment(name)?;
        let entry = revocation(enrolment, enrolment.ends);
        match word {
            Word::Administrator => self.add_revocation(entry, now),
            Word::Machine => self.add_replacement(name, entry, now),
        }
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

    /// Adds an entry, in the place of another one for the same key. Where there is no room, entries of names that were taken over
    /// go, those that end first.
    pub(super) fn add_revocation(&mut self, entry: Revocation, now: UnixTime) -> Result<(), IssueError> {
        let mut entries = self.live_but(&entry.static_key, now);
        let room = MAX_REVOCATIONS - usize::from(entry.until > now);
        self.make_room(&mut entries, room);
        let key = entry.static_key;
        entries.push(entry);
        self.set_revocations(entries, now)?;
        if self.replaced.remove(&key).is_some() {
            self.touch(Part::Enclave);
        }
        Ok(())
    }

    /// Adds the entry of a machine whose name another one takes over.
    fn add_replacement(&mut self, name: &Name, entry: Revocation, now: UnixTime) -> Result<(), IssueError> {
        if entry.until <= now {
            return Ok(());
        }
        let mut entries = self.live_but(&entry.static_key, now);
        let names: Vec<&Name> = entries
            .iter()
            .filter_map(|e| self.replaced.get(&e.static_key))
            .collect();
        if names.iter().filter(|other| **other == name).count() >= MAX_OF_NAME {
            return Err(IssueError::TooOften(name.clone()));
        }
        if names.len() >= MAX_REPLACEMENTS || entries.len() >= MAX_REVOCATIONS {
            return Err(IssueError::TooManyReplacements(name.clone()));
        }
        let key = entry.static_key;
        entries.push(entry);
        self.set_revocations(entries, now)?;
        self.replaced.insert(key, name.clone());
        self.touch(Part::Enclave);
        Ok(())
    }

    /// Entries that have not ended, but for the one of `key`.
    fn live_but(&self, key: &PublicKey, now: UnixTime) -> Vec<Revocation> {
        let entries = self.revocations.iter().flat_map(|list| &list.entries);
        entries
            .filter(|e| e.until > now && e.static_key != *key)
            .cloned()
            .collect()
    }

    /// Leaves at most `room` of the entries, as far as there are some that give way.
    fn make_room(&self, entries: &mut Vec<Revocation>, room: usize) {
        let excess = entries.len().saturating_sub(room);
        if excess == 0 {
            return;
        }
        let replaced = entries.iter().filter(|e| self.replaced.contains_key(&e.static_key));
        let mut first: Vec<(UnixTime, PublicKey)> = replaced.map(|e| (e.until, e.static_key)).collect();
        first.sort_unstable();
        first.truncate(excess);
        entries.retain(|e| !first.contains(&(e.until, e.static_key)));
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
        let before = self.replaced.len();
        self.replaced.retain(|key, _| is_on(&list, key));
        if self.replaced.len() != before {
            self.touch(Part::Enclave);
        }
        self.revocations = Some(Signed::sign(list, &self.statement_key));
        self.touch(Part::Revocations);
        Ok(())
    }

    /// Which entries of the list give way, to be stored.
    pub(super) fn replaced_state(&self) -> ReplacedState {
        let mut state = ReplacedState::new();
        for (key, name) in &self.replaced {
            state.entry(name.clone()).or_default().push(STANDARD.encode(key));
        }
        state
    }
}

/// Reads what [`Enclave::replaced_state`] gave, for `list`.
pub(super) fn read_replaced(state: ReplacedState, list: Option<&Signed<Revocations>>) -> Result<Replaced, IssueError> {
    let mut replaced = Replaced::new();
    for (name, keys) in state {
        for key in keys {
            let key: PublicKey = super::files::array(&key)?;
            if !list.is_some_and(|list| is_on(list, &key)) {
                let reason = format!("a key of `{name}` was replaced and is not on the list");
                return Err(damaged("revocations", reason));
            }
            if replaced.insert(key, name.clone()).is_some() {
                return Err(damaged("revocations", "a key was replaced under two names"));
            }
        }
    }
    Ok(replaced)
}

fn is_on(list: &Revocations, key: &PublicKey) -> bool {
    list.entries.binary_search_by(|e| e.static_key.cmp(key)).is_ok()
}
