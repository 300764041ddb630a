//! What the server has committed: records of the enclave, the revision log, tokens and tickets. All that a kill leaves behind.

use std::collections::{BTreeMap, BTreeSet};

use coterie_control::{
    enrol::Token,
    issue::{Enclave, Part, Record},
};
use coterie_crypto::{Secret, dh::PublicKey};
use coterie_model::{Name, Revision, UnixTime};
use zeroize::Zeroizing;

/// After a restore revisions go on from the time in seconds times this: above all that were given out.
const JUMP: u64 = 1 << 20;

/// Parts, each with whom it concerns.
pub type Changes = Vec<(Part, BTreeSet<Name>)>;

/// A token's identifier.
pub type TokenId = [u8; 16];

/// The store. A copy of it is a backup.
#[derive(Debug, Clone, Default)]
pub struct Store {
    records: BTreeMap<Part, Zeroizing<Vec<u8>>>,
    log: BTreeMap<Revision, Changes>,
    /// Changes up to this one were pruned.
    floor: Revision,
    /// Of the newest change.
    pub revision: Revision,
    /// Everything beside the enclave's records.
    pub book: Book,
}

/// What the server knows beside the enclave.
#[derive(Debug, Clone, Default)]
pub struct Book {
    /// Join tokens.
    pub tokens: BTreeMap<TokenId, TokenRow>,
    /// Tickets of members.
    pub tickets: BTreeMap<Name, TicketRow>,
    /// The revision under which each member's newest bundle was made.
    pub issued: BTreeMap<Name, Revision>,
}

/// A join token.
#[derive(Debug, Clone)]
pub struct TokenRow {
    /// As the machine has it.
    pub text: Zeroizing<String>,
    /// Of the members that it makes.
    pub template: Name,
    /// The one name that it is for, which it takes over.
    pub member: Option<Name>,
    /// How many members it makes.
    pub uses: usize,
    /// The last second in which it can be used.
    pub not_after: UnixTime,
    /// Who used it: static keys, with the names that they became.
    pub used: BTreeMap<PublicKey, Name>,
}

/// A member's ticket.
#[derive(Debug, Clone)]
pub struct TicketRow {
    /// The one that lets the machine back in.
    pub current: [u8; 32],
    /// The one before: a clone has it.
    pub previous: Option<[u8; 32]>,
    /// The token that it is presented with.
    pub token: TokenId,
}

impl TokenRow {
    /// The token.
    ///
    /// # Panics
    /// Never: what was written is read.
    #[must_use]
    pub fn token(&self) -> Token {
        Token::parse(&self.text).expect("a token that was drawn is read")
    }

    /// Whether it makes members at `now`.
    #[must_use]
    pub fn is_alive(&self, now: UnixTime) -> bool {
        self.used.len() < self.uses && now <= self.not_after
    }

    /// Its secret.
    #[must_use]
    pub fn secret(&self) -> Secret<32> {
        self.token().secret().duplicate()
    }
}

impl Store {
    /// Writes what an operation changed under the next revision; gives the changes.
    pub fn commit(&mut self, records: Vec<Record>, book: Book) -> Changes {
        self.book = book;
        let mut changes = Changes::new();
        for Record { part, value, concerns } in records {
            match value {
                Some(value) => drop(self.records.insert(part.clone(), value)),
                None => drop(self.records.remove(&part)),
            }
            changes.push((part, concerns));
        }
        if !changes.is_empty() {
            self.revision += 1;
            self.log.insert(self.revision, changes.clone());
        }
        changes
    }

    /// Reads the enclave; `None` when what was written is damaged.
    #[must_use]
    pub fn read(&self) -> Option<Enclave> {
        let records = self.records.iter().map(|(part, value)| (part.clone(), value.clone()));
        Enclave::from_records(records).ok()
    }

    /// What changed since `mark`; `None` when it was pruned, or `mark` is of another history.
    #[must_use]
    pub fn since(&self, mark: Revision) -> Option<Changes> {
        let known = mark >= self.floor && mark <= self.revision;
        known.then(|| {
            let changes = self.log.range(mark + 1..);
            changes.flat_map(|(_, changes)| changes.clone()).collect()
        })
    }

    /// Forgets changes before the newest `kept`.
    pub fn prune(&mut self, kept: u64) {
        self.floor = self.floor.max(self.revision.saturating_sub(kept));
        let floor = self.floor;
        self.log.retain(|revision, _| *revision > floor);
    }

    /// This backup is restored: its log is of a history that goes on elsewhere.
    pub fn restore(&mut self, now: UnixTime) {
        self.revision = now.0.saturating_mul(JUMP).max(self.revision + 1);
        self.floor = self.revision;
        self.log.clear();
        self.book.issued.clear();
    }
}
