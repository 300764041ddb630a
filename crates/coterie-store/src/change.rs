//! The change feed of an enclave: what changed, in the transaction that changed it, so that who follows misses nothing.

use coterie_model::{EnclaveId, Revision, UnixTime};

use crate::row::{Row, stored, stored_time};
use crate::{Read, StoreError, Write};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its place: each enclave counts its own, by one. After a restore the count goes on far beyond any that was given out.
    pub revision: Revision,
    /// What kind of thing changed.
    pub kind: String,
    /// Which.
    pub subject: String,
    /// When.
    pub time: UnixTime,
}

/// What came after a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feed {
    /// These, the oldest first; more when the last is older than `newest`.
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
    /// What changed after `revision`: at most `limit` changes.
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
            "SELECT revision, kind, subject, time FROM changes WHERE enclave_id = $1 AND revision > $2 \
             ORDER BY revision LIMIT $3",
        )
        .bind(&enclave.0[..])
        .bind(stored("a revision", revision)?)
        .bind(i64::from(limit));
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
    /// Adds a change, and gives its revision.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such enclave.
    pub async fn add_change(
        &mut self,
        enclave: EnclaveId,
        kind: &str,
        subject: &str,
        now: UnixTime,
    ) -> Result<Revision, StoreError> {
        const DOING: &str = "adding a change";
        let query = sqlx::query("UPDATE enclaves SET revision = revision + 1 WHERE id = $1 RETURNING revision")
            .bind(&enclave.0[..]);
        let row = self.returning(DOING, query).await?;
        let revision = row
            .ok_or(StoreError::NotFound { what: "enclave" })?
            .number("revision")?;
        let query =
            sqlx::query("INSERT INTO changes (enclave_id, revision, kind, subject, time) VALUES ($1, $2, $3, $4, $5)")
                .bind(&enclave.0[..])
                .bind(stored("a revision", revision)?)
                .bind(kind)
                .bind(subject)
                .bind(stored_time(now)?);
        self.execute(DOING, query).await?;
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

fn change(row: &Row) -> Result<Change, StoreError> {
    Ok(Change {
        revision: row.number("revision")?,
        kind: row.text("kind")?,
        subject: row.text("subject")?,
        time: row.time("time")?,
    })
}
