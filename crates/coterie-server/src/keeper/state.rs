//! An enclave in memory, and its way to and from the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context as _;
use coterie_control::{
    enrol::Token,
    follow::{News, news},
    issue::{Enclave, IssueError, Part, Record},
};
use coterie_crypto::{Secret, dh::KeyPair};
use coterie_model::{EnclaveId, Name, Revision, UnixTime};
use coterie_store::{NewChange, Store, StoreError, TenantId, Value, Write};

use super::{Deed, Outcome, Told, enrol::Replies};
use crate::{entropy::SystemEntropy, refusal::Refusal};

/// The record that holds the private half of what tokens name as the server's key.
const SERVER_KEY: &str = "server-key";
/// The record that counts enclave files.
const FILE_VERSION: &str = "file-version";

/// An enclave in memory.
pub(crate) struct State {
    /// Whose it is.
    pub(crate) tenant: TenantId,
    /// The aggregate.
    pub(crate) enclave: Enclave,
    /// What applications are sealed to.
    pub(crate) server_key: Arc<KeyPair>,
    /// Of the newest change.
    pub(crate) revision: Revision,
    /// Grows by one with each enclave file.
    pub(crate) file_version: u64,
    /// The certificates for nodes are to be made anew.
    pub(super) root_changed: bool,
    /// In the store.
    version: u64,
    /// Tokens that open doors, as long as nothing changed.
    pub(super) knocking: Option<Vec<Token>>,
    /// Doors may not know what changed of the tokens.
    untold: bool,
    /// Replies that were given lately, for machines that did not hear them.
    pub(super) replies: Replies,
    /// Members whose newest bundle has every key that there is.
    pub(super) fresh: BTreeSet<Name>,
    /// Since when this process has the enclave, for who was seen last before that.
    pub(crate) since: UnixTime,
}

/// Why a deed was not done.
#[derive(Debug)]
pub(super) enum Failed {
    /// The enclave in memory is as it was.
    Clean(Refusal),
    /// The enclave in memory may be half changed.
    Spoilt(Refusal),
    /// The store.
    Store(StoreError),
}

/// Why a batch was not done.
#[derive(Debug)]
pub(super) enum Undone {
    /// The deed at this place left the enclave half changed.
    Spoilt(usize, Refusal),
    /// Somebody else changed the enclave in the store.
    Conflict,
    /// The store.
    Store(StoreError),
}

impl Failed {
    /// What an issuer's error leaves behind.
    pub(super) fn of(error: IssueError, is_clean: impl FnOnce(&IssueError) -> bool) -> Self {
        if is_clean(&error) {
            Self::Clean(error.into())
        } else {
            Self::Spoilt(error.into())
        }
    }
}

impl From<StoreError> for Failed {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "whatever else the store says is about the store"
    )]
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { what } => Self::Clean(Refusal::NotFound(what)),
            StoreError::Exists { what } => Self::Clean(Refusal::Exists(what)),
            StoreError::StaticKeyTaken => Self::Spoilt(Refusal::StaticKeyTaken),
            error => Self::Store(error),
        }
    }
}

impl From<IssueError> for Failed {
    fn from(error: IssueError) -> Self {
        Self::Spoilt(error.into())
    }
}

impl From<StoreError> for Undone {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Conflict { .. }) {
            Self::Conflict
        } else {
            Self::Store(error)
        }
    }
}

impl State {
    /// Reads an enclave.
    ///
    /// # Errors
    /// When what the store has is damaged.
    pub(crate) async fn load(store: &Store, tenant: TenantId, id: EnclaveId) -> anyhow::Result<Self> {
        let mut read = store.read().await?;
        let row = read.enclave(tenant, id).await?.context("the enclave is gone")?;
        let (mut server_key, mut file_version) = (None, None);
        let mut records = Vec::new();
        for record in read.records(id).await? {
            if record.kind == SERVER_KEY {
                server_key = Secret::from_slice(&record.value).map(KeyPair::from_private);
            } else if record.kind == FILE_VERSION {
                file_version = record.value.as_slice().try_into().ok().map(u64::from_be_bytes);
            } else if let Some(part) = Part::of(&record.kind, &record.key) {
                records.push((part, record.value));
            }
        }
        let enclave = Enclave::from_records(records).with_context(|| format!("enclave {}", row.name))?;
        Ok(Self {
            tenant,
            enclave,
            server_key: Arc::new(server_key.context("the key that tokens name is missing")?),
            revision: row.revision,
            file_version: file_version.context("the version of the enclave file is missing")?,
            root_changed: false,
            version: row.version,
            knocking: None,
            untold: false,
            replies: Replies::default(),
            fresh: BTreeSet::new(),
            since: crate::clock::now(),
        })
    }

    /// Reads the enclave anew, because the one in memory may be half changed. What this process knows beside the store stays: whoever
    /// has a deed refused must not put off what is due, nor have everybody fetch a bundle.
    ///
    /// # Errors
    /// When what the store has is damaged.
    pub(super) async fn read_anew(&mut self, store: &Store) -> anyhow::Result<()> {
        let read = Self::load(store, self.tenant, self.enclave.id()).await?;
        let before = core::mem::replace(self, read);
        self.root_changed = before.root_changed;
        self.untold = true;
        self.replies = before.replies;
        self.fresh = before.fresh;
        self.since = before.since;
        Ok(())
    }

    /// What was done last may not be on the disk, or somebody else did something: this process knows no more than one that begins.
    pub(super) fn doubt(&mut self) {
        self.root_changed = true;
        self.replies = Replies::default();
        self.fresh.clear();
        self.since = crate::clock::now();
    }

    /// Makes an enclave of a tenant from its file.
    ///
    /// # Errors
    /// [`Refusal`] when the file is not accepted or the tenant has one of this name.
    pub(crate) async fn create(
        w: &mut Write,
        tenant: TenantId,
        text: &str,
        servers: Vec<std::net::SocketAddr>,
        now: UnixTime,
    ) -> Result<EnclaveId, Refusal> {
        let mut enclave = Enclave::init(text, now, &mut SystemEntropy)?;
        enclave.serve(now)?;
        enclave.set_servers(servers);
        let id = enclave.id();
        w.create_enclave(tenant, id, enclave.name(), text, now).await?;
        let key = KeyPair::generate(&mut SystemEntropy);
        let value = Value::Secret(key.private().expose());
        w.put_record(id, SERVER_KEY, "", value, &mut SystemEntropy).await?;
        write_version(w, id, 1).await?;
        let records = enclave.take_records();
        write_records(w, id, &records).await?;
        for community in enclave.file().communities.keys() {
            super::member::set_roll(w, &enclave, community, now).await?;
        }
        Ok(id)
    }

    /// Goes on after an older state was restored: what is given out from now on is newer than all that was given out before.
    ///
    /// # Errors
    /// When the clock is behind, the authority has ended, or the store does not take it.
    pub(crate) async fn recover(&mut self, w: &mut Write, now: UnixTime) -> anyhow::Result<()> {
        self.enclave.recover(now, &mut SystemEntropy)?;
        let records = self.enclave.take_records();
        let id = self.enclave.id();
        self.version = w.advance_enclave(self.tenant, id, self.version).await?;
        write_records(w, id, &records).await?;
        let changes: Vec<NewChange<'_>> = records.iter().filter(|r| is_news(&r.part)).map(change).collect();
        self.revision = w.add_changes(id, &changes, now).await?;
        let entry = coterie_store::AuditEntry {
            scope: coterie_store::Scope::Tenant(self.tenant),
            actor: "console",
            action: "enclave.recover",
            object: self.enclave.name().as_str(),
            detail: &serde_json::json!({ "members": self.enclave.enrolled().count() }),
        };
        w.audit(&entry, now).await?;
        Ok(())
    }

    /// Does deeds in one transaction: what became of each, and what it means for who follows.
    pub(super) async fn batch(
        &mut self,
        store: &Store,
        deeds: &[(usize, &Deed)],
        now: UnixTime,
    ) -> Result<(Vec<Result<Outcome, Refusal>>, Told), Undone> {
        let mut w = store.write().await?;
        let tokens_before = self.knocking.is_some() || self.untold;
        let mut done = Vec::with_capacity(deeds.len());
        for (place, (_, deed)) in deeds.iter().enumerate() {
            let savepoint = w.savepoint().await?;
            match self.perform(deed, &mut w, now).await {
                Ok(outcome) => {
                    w.keep(savepoint).await?;
                    done.push(Ok(outcome));
                }
                Err(Failed::Clean(refusal)) => {
                    w.undo(savepoint).await?;
                    done.push(Err(refusal));
                }
                Err(Failed::Spoilt(refusal)) => return Err(Undone::Spoilt(place, refusal)),
                Err(Failed::Store(error)) => return Err(error.into()),
            }
        }
        let records = self.enclave.take_records();
        if !records.is_empty() {
            self.version = w.advance_enclave(self.tenant, self.enclave.id(), self.version).await?;
            write_records(&mut w, self.enclave.id(), &records).await?;
            if records.iter().any(|record| record.part == Part::File) {
                let text = self.enclave.text().to_owned();
                w.set_enclave_file(self.tenant, self.enclave.id(), &text).await?;
            }
            let changes: Vec<NewChange<'_>> = records.iter().filter(|r| is_news(&r.part)).map(change).collect();
            if !changes.is_empty() {
                self.revision = w.add_changes(self.enclave.id(), &changes, now).await?;
            }
        }
        if records
            .iter()
            .any(|record| matches!(record.part, Part::Keys(_) | Part::File))
        {
            self.fresh.clear();
        }
        w.commit().await?;
        let told = self.told(&records, tokens_before && self.knocking.is_none(), now);
        self.untold = false;
        let revision = self.revision;
        let done = done
            .into_iter()
            .map(|d| d.map(|outcome| outcome.at(revision)))
            .collect();
        Ok((done, told))
    }

    fn told(&self, records: &[Record], knocks: bool, now: UnixTime) -> Told {
        let changed = records.iter().map(|record| (&record.part, &record.concerns));
        let News {
            everybody,
            communities,
            mirrors,
        } = news(&self.enclave, changed, now);
        let members = records.iter().filter_map(|record| match &record.part {
            Part::Member(name) => Some(name.clone()),
            Part::Root | Part::File | Part::Enclave | Part::Revocations | Part::Community(_) | Part::Keys(_) => None,
        });
        let is_door = |name: &Name| self.is_door(name);
        let members: BTreeSet<Name> = members.collect();
        Told {
            revision: self.revision,
            everybody: everybody.concat().into(),
            communities: communities.into_iter().map(joined).collect(),
            mirrors: mirrors.into_iter().map(joined).collect(),
            due: BTreeSet::new(),
            file: records.iter().any(|record| record.part == Part::File),
            knocks: knocks || members.iter().any(is_door),
            members,
        }
    }

    /// Whether a member lets visitors in.
    pub(crate) fn is_door(&self, name: &Name) -> bool {
        let seat = self.enclave.seat(name);
        seat.and_then(|seat| self.enclave.file().templates.get(&seat.template))
            .is_some_and(|template| template.door)
    }
}

pub(super) async fn write_version(w: &mut Write, enclave: EnclaveId, version: u64) -> Result<(), StoreError> {
    let value = Value::Clear(&version.to_be_bytes());
    w.put_record(enclave, FILE_VERSION, "", value, &mut SystemEntropy).await
}

fn joined((community, messages): (Name, Vec<Vec<u8>>)) -> (Name, bytes::Bytes) {
    (community, messages.concat().into())
}

/// Whether followers are told of a part; the others are the server's own.
fn is_news(part: &Part) -> bool {
    match part {
        Part::File | Part::Revocations | Part::Community(_) | Part::Keys(_) | Part::Member(_) => true,
        Part::Root | Part::Enclave => false,
    }
}

fn change(record: &Record) -> NewChange<'_> {
    NewChange {
        kind: record.part.kind(),
        subject: record.part.key(),
        concerns: &record.concerns,
    }
}

async fn write_records(w: &mut Write, enclave: EnclaveId, records: &[Record]) -> Result<(), StoreError> {
    for Record { part, value, .. } in records {
        match value {
            Some(value) => {
                let value = match part.is_secret() {
                    true => Value::Secret(value),
                    false => Value::Clear(value),
                };
                w.put_record(enclave, part.kind(), part.key(), value, &mut SystemEntropy)
                    .await?;
            }
            None => {
                w.remove_record(enclave, part.kind(), part.key()).await?;
            }
        }
    }
    Ok(())
}

/// What changes since a revision mean, for one who comes back.
pub(super) fn gathered(changes: Vec<coterie_store::Change>) -> BTreeMap<Part, BTreeSet<Name>> {
    let mut parts: BTreeMap<Part, BTreeSet<Name>> = BTreeMap::new();
    for change in changes {
        if let Some(part) = Part::of(&change.kind, &change.subject) {
            parts.entry(part).or_default().extend(change.concerns);
        }
    }
    parts
}
