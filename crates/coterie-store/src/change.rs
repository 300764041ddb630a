//! The change feed of an enclave: what changed, in the transaction that changed it, so that who follows misses nothing.

use std::collections::{BTreeMap, BTreeSet};

use coterie_model::{EnclaveId, Name, Revision, UnixTime};

use crate::row::{Row, stored, stored_time};
use crate::{Read, StoreError, Write};

/// A change that is made.
#[derive(Debug, Clone, Copy)]
pub struct NewChange<'a> {
    /// What kind of thing changes.
    pub kind: &'a str,
    /// Which.
    pub subject: &'a str,
    /// The names of the communities that it concerns; empty where the kind says whom it concerns.
    pub concerns: &'a BTreeSet<Name>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its place, the same for all that changed at once: each enclave counts its own, by one. After a restore the count goes
    /// on far beyond any that was given out.
    pub revision: Revision,
    /// What kind of thing changed.
    pub kind: String,
    /// Which.
    pub subject: String,
    /// The names of the communities that it concerns.
    pub concerns: BTreeSet<Name>,
    /// When.
    pub time: UnixTime,
}

/// What came after a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// These, the oldest revision first, and each revision whole; more when the last is older than `newest`.
    Changes {
        /// What changed.
        changes: Vec<Change>,
        /// The newest that there is.
        newest: Revision,
    },
    /// Changes after it were pruned, or it is of a history that a restore undid: start from the whole state.
    SnapshotNeeded {
        /// The newest that there is: the one that the whole state, read in the same transaction, has.
        newest: Revision,
    },
}

impl Read {
    /// What changed after `revision`: as many revisions as it takes for `limit` changes, or all. A revision is never cut in
    /// two, so there may be more changes than `limit`; where there is any, there is one revision at least.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such enclave.
    pub async fn changes_since(
        &mut self,
        enclave: EnclaveId,
        revision: Revision,
        limit: u32,
    ) -> Result<Feed, StoreError> {
        const DOING: &str = "reading changes";
        let query = sqlx::query("SELECT revision, changes_floor FROM enclaves WHERE id = $1").bind(&enclave.0[..]);
        let row = self.optional(DOING, query).await?;
        let row = row.ok_or(StoreError::NotFound { what: "enclave" })?;
        let (newest, floor) = (row.number("revision")?, row.number("changes_floor")?);
        if revision < floor || revision > newest {
            return Ok(Feed::SnapshotNeeded { newest });
        }
        let query = sqlx::query(
            "SELECT revision, kind, subject, concerns, time FROM changes WHERE enclave_id = $1 AND revision > $2 \
             AND revision <= coalesce((SELECT revision FROM changes WHERE enclave_id = $1 AND revision > $2 \
             ORDER BY revision LIMIT 1 OFFSET $3), $4) ORDER BY revision, kind, subject",
        )
        .bind(&enclave.0[..])
        .bind(stored("a revision", revision)?)
        .bind(i64::from(limit.saturating_sub(1)))
        .bind(stored("a revision", newest)?);
        let changes = self
            .all(DOING, query)
            .await?
            .iter()
            .map(change)
            .collect::<Result<_, _>>()?;
        Ok(Feed::Changes { changes, newest })
    }
}

impl Write {
    /// Adds changes, all under one new revision, and gives it; for none, the newest that there is. Changes of one subject
    /// are one, which concerns whom each of them does.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such enclave.
    pub async fn add_changes(
        &mut self,
        enclave: EnclaveId,
        changes: &[NewChange<'_>],
        now: UnixTime,
    ) -> Result<Revision, StoreError> {
        const DOING: &str = "adding changes";
        let mut merged: BTreeMap<(&str, &str), BTreeSet<&Name>> = BTreeMap::new();
        for change in changes {
            let concerns = merged.entry((change.kind, change.subject)).or_default();
            concerns.extend(change.concerns);
        }
        let Some(((kind, subject), concerns)) = merged.pop_first() else {
            let query = sqlx::query("SELECT revision FROM enclaves WHERE id = $1").bind(&enclave.0[..]);
            return revision(self.read().optional(DOING, query).await?);
        };
        // The first takes the next revision, the others have the same.
        let query = sqlx::query(
            "UPDATE enclaves SET revision = revision + 1 WHERE id = $1; \
             INSERT INTO changes (enclave_id, revision, kind, subject, concerns, time) \
             SELECT id, revision, $2, $3, $4, $5 FROM enclaves WHERE id = $1 RETURNING revision",
        )
        .bind(&enclave.0[..])
        .bind(kind)
        .bind(subject)
        .bind(joined(concerns))
        .bind(stored_time(now)?);
        let revision = revision(self.returning(DOING, query).await?)?;
        for ((kind, subject), concerns) in merged {
            let query = sqlx::query(
                "INSERT INTO changes (enclave_id, revision, kind, subject, concerns, time) \
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(&enclave.0[..])
            .bind(stored("a revision", revision)?)
            .bind(kind)
            .bind(subject)
            .bind(joined(concerns))
            .bind(stored_time(now)?);
            self.execute(DOING, query).await?;
        }
        Ok(revision)
    }

    /// Forgets changes up to `floor`, itself included; gives how many. Who follows from before it needs the whole state.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such enclave.
    pub async fn prune_changes(&mut self, enclave: EnclaveId, floor: Revision) -> Result<u64, StoreError> {
        const DOING: &str = "pruning changes";
        // Never above the newest, so that who is up to date stays so, and never back.
        let query = sqlx::query(
            "UPDATE enclaves SET changes_floor = CASE WHEN $1 > revision THEN revision WHEN $1 > changes_floor THEN $1 \
             ELSE changes_floor END WHERE id = $2 RETURNING changes_floor",
        )
        .bind(stored("a revision", floor)?)
        .bind(&enclave.0[..]);
        let row = self.returning(DOING, query).await?;
        let floor = row
            .ok_or(StoreError::NotFound { what: "enclave" })?
            .number("changes_floor")?;
        let query = sqlx::query("DELETE FROM changes WHERE enclave_id = $1 AND revision <= $2")
            .bind(&enclave.0[..])
            .bind(stored("a revision", floor)?);
        self.execute(DOING, query).await
    }
}

fn revision(row: Option<Row>) -> Result<Revision, StoreError> {
    row.ok_or(StoreError::NotFound { what: "enclave" })?.number("revision")
}

fn joined(names: BTreeSet<&Name>) -> String {
    names.into_iter().map(Name::as_str).collect::<Vec<_>>().join(" ")
}

fn change(row: &Row) -> Result<Change, StoreError> {
    Ok(Change {
        revision: row.number("revision")?,
        kind: row.text("kind")?,
        subject: row.text("subject")?,
        concerns: row.names("concerns")?,
        time: row.time("time")?,
    })
}
