//! What people have the server do, and who comes in by it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use coterie_control::issue::{Enclave, IssueError, Roll};
use coterie_crypto::{SeededEntropy, dh::PublicKey};
use coterie_model::{Name, UnixTime};

use super::{Sabotage, World, server::NotDone, store::Book};
use crate::check::{Breach, Promise};

impl World {
    /// One transaction with the enclave.
    pub(super) fn deed<T>(
        &mut self,
        work: impl FnOnce(&mut Enclave, UnixTime, &mut SeededEntropy) -> Result<T, IssueError>,
    ) -> Result<T, NotDone> {
        let time = self.server.time(self.now);
        let done = self
            .server
            .transact(|enclave, _book, entropy| Ok(work(enclave, time, entropy)?));
        self.committed(done, false)
    }

    /// A machine applies.
    pub(super) fn enrol(&mut self, bytes: &[u8], source: SocketAddr) -> Result<Vec<u8>, NotDone> {
        let time = self.server.time(self.now);
        let enrolled = self.server.enrol(bytes, source, time);
        let enrolled = self.committed(enrolled, true);
        self.count_members();
        let (token, _, reply) = enrolled?;
        if self.sabotage == Some(Sabotage::SpendTwice)
            && let Some(row) = self.server.store.book.tokens.get_mut(&token)
        {
            row.used.clear();
        }
        Ok(reply)
    }

    /// Whoever came in asked for it, and no token made more members than it may.
    pub(super) fn count_members(&mut self) {
        let Some(live) = &self.server.live else { return };
        let keys = keys_of(&live.enclave);
        let fresh: Vec<PublicKey> = keys.difference(&self.enrolled).copied().collect();
        for key in fresh {
            self.enrolled.insert(key);
            let Some(applied) = self.applied.get(&key).copied() else {
                return self.breach(Breach::new(Promise::Token, "somebody is a member who never applied"));
            };
            let Some(token) = applied.token.filter(|_| !applied.ticket) else {
                continue;
            };
            let made = self.enrolled.iter().filter_map(|key| self.applied.get(key));
            let made = made.filter(|other| other.token == Some(token) && !other.ticket).count();
            let uses = self.server.store.book.tokens.get(&token).map_or(0, |row| row.uses);
            if made > uses {
                let what = format!("a token of {uses} uses made {made} members");
                return self.breach(Breach::new(Promise::Token, what));
            }
        }
    }

    /// The server does not know of members any more that came after its backup: what a token makes counts from there.
    pub(super) fn forget_lost_members(&mut self) {
        let Some(live) = &self.server.live else { return };
        let keys = keys_of(&live.enclave);
        let used = self.server.store.book.tokens.values().flat_map(|row| row.used.keys());
        let counted: BTreeSet<PublicKey> = used.copied().collect();
        self.enrolled.retain(|key| keys.contains(key) || counted.contains(key));
    }

    /// The machines of these members are gone, says somebody.
    pub(super) fn end(&mut self, names: &[Name]) -> Result<(), NotDone> {
        let time = self.server.time(self.now);
        let ended = self.server.transact(|enclave, book, _entropy| {
            for name in names {
                enclave.end(name, time)?;
                forget(book, name);
            }
            Ok(())
        });
        self.committed(ended, true)
    }

    /// Members are refused for good, and what they held gets new keys.
    pub(super) fn revoke(&mut self, names: &[Name]) -> Result<(), NotDone> {
        let time = self.server.time(self.now);
        let revoked = self.server.transact(|enclave, book, entropy| {
            let mut held = BTreeSet::new();
            for name in names {
                held.extend(enclave.revoke(name, time)?);
                forget(book, name);
            }
            for community in &held {
                enclave.roll(community, Roll::Removal, time, entropy)?;
            }
            Ok(())
        });
        self.committed(revoked, true)
    }

    /// The administrator's file is applied.
    pub(super) fn apply_file(&mut self) -> Result<(), NotDone> {
        let text = self.site.text();
        self.deed(|enclave, time, entropy| enclave.update(&text, time, entropy))?;
        Ok(())
    }

    /// Members of the enclave, as the server has them, that are enrolled.
    pub(super) fn enrolled_names(&self) -> Vec<Name> {
        let live = self.server.live.as_ref();
        live.map_or_else(Vec::new, |live| {
            live.enclave.enrolled().map(|(name, _)| name.clone()).collect()
        })
    }
}

/// The static keys of all who are enrolled.
fn keys_of(enclave: &Enclave) -> BTreeSet<PublicKey> {
    let names = enclave.enrolled().map(|(name, _)| name);
    names.filter_map(|name| enclave.static_key(name)).copied().collect()
}

/// What the server knows of an enrolment beside the enclave's records.
fn forget(book: &mut Book, name: &Name) {
    book.tickets.remove(name);
    book.issued.remove(name);
}
