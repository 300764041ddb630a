//! The audit log: who did what to what, in a chain.
//!
//! Each row's hash is SHA-256 over the hash before it and the row, so that a row that is changed, taken out or put in breaks
//! the chain there. The settings hold where the chain ends, vouched for under the root key: who can edit the database, but
//! does not have that key, can neither cut the log short nor write another.

use coterie_crypto::hash::sha256;
use coterie_model::UnixTime;

use crate::id::{Scope, ServerId, TenantId};
use crate::row::{Row, stored, stored_time};
use crate::seal::counted;
use crate::{Read, StoreError, Write};

/// What is to be remembered.
#[derive(Debug, Clone, Copy)]
pub struct AuditEntry<'a> {
    /// Whose log it belongs to.
    pub scope: Scope,
    /// Who did it.
    pub actor: &'a str,
    /// What was done: a verb and a noun, as in `token.create`.
    pub action: &'a str,
    /// To what.
    pub object: &'a str,
    /// More about it; no secrets.
    pub detail: &'a serde_json::Value,
}

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number in the log of the whole database; the first is 1.
    pub seq: u64,
    /// Whose log it belongs to.
    pub scope: Scope,
    /// When it was done.
    pub time: UnixTime,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
    /// More about it, as JSON text.
    pub detail: String,
    /// Of the chain, this row included.
    pub hash: [u8; 32],
}

/// What the walk along the chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditVerdict {
    /// It is as it was written.
    Whole {
        /// So many rows.
        rows: u64,
    },
    /// It is not.
    Broken {
        /// The first row that is not as it was written.
        seq: u64,
        /// How it is told.
        reason: &'static str,
    },
}

const READING: &str = "reading the audit log";
/// Rows that a walk reads at once.
const PAGE: u32 = 1_000;

impl Read {
    /// The log of a tenant, or of the operator, after row `after`: at most `limit` rows, the oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit(&mut self, scope: Scope, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        let after = stored("a row number", after)?;
        let query = match scope {
            Scope::Tenant(tenant) => {
                sqlx::query("SELECT * FROM audit WHERE tenant_id = $3 AND seq > $1 ORDER BY seq LIMIT $2")
                    .bind(after)
                    .bind(i64::from(limit))
                    .bind(tenant.0.to_vec())
            }
            Scope::Operator => {
                sqlx::query("SELECT * FROM audit WHERE tenant_id IS NULL AND seq > $1 ORDER BY seq LIMIT $2")
                    .bind(after)
                    .bind(i64::from(limit))
            }
        };
        self.all(READING, query).await?.iter().map(audit_row).collect()
    }

    /// The newest rows of the log of a tenant, or of the operator: at most `limit`, the oldest of them first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newest_audit(&mut self, scope: Scope, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        let query = match scope {
            Scope::Tenant(tenant) => sqlx::query("SELECT * FROM audit WHERE tenant_id = $2 ORDER BY seq DESC LIMIT $1")
                .bind(i64::from(limit))
                .bind(tenant.0.to_vec()),
            Scope::Operator => sqlx::query("SELECT * FROM audit WHERE tenant_id IS NULL ORDER BY seq DESC LIMIT $1")
                .bind(i64::from(limit)),
        };
        self.all(READING, query).await?.iter().rev().map(audit_row).collect()
    }

    /// The log of everybody: for the operator of the server, and for export.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit_of_all(&mut self, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        let query = sqlx::query("SELECT * FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2")
            .bind(stored("a row number", after)?)
            .bind(i64::from(limit));
        self.all(READING, query).await?.iter().map(audit_row).collect()
    }

    /// Walks along the chain from its beginning.
    ///
    /// # Errors
    /// When the database fails; that the chain is broken is no error but a verdict.
    pub async fn verify_audit(&mut self) -> Result<AuditVerdict, StoreError> {
        let broken = |seq, reason| Ok(AuditVerdict::Broken { seq, reason });
        let (mut seq, mut hash) = (0, genesis(self.server()));
        loop {
            let rows = match self.audit_of_all(seq, PAGE).await {
                Ok(rows) => rows,
                Err(StoreError::Damaged { .. }) => {
                    return broken(seq + 1, "a row after the one before it is unreadable");
                }
                Err(error) => return Err(error),
            };
            if rows.is_empty() {
                break;
            }
            for row in rows {
                seq += 1;
                if row.seq != seq {
                    return broken(seq, "it was taken out");
                }
                hash = link(&hash, &row);
                if row.hash != hash {
                    return broken(seq, "it was changed, or the one before it was taken out");
                }
            }
        }
        let end = self.audit_end().await?;
        match end.seq.cmp(&seq) {
            core::cmp::Ordering::Greater => broken(seq + 1, "the log was cut off before it"),
            core::cmp::Ordering::Less => broken(end.seq + 1, "it was put in"),
            core::cmp::Ordering::Equal if end.hash != hash => broken(seq, "it is not the row that the log ended with"),
            core::cmp::Ordering::Equal if !self.root().vouches(end.seq, &end.hash, &end.mac) => {
                broken(seq, "nobody with the root key wrote it")
            }
            core::cmp::Ordering::Equal => Ok(AuditVerdict::Whole { rows: seq }),
        }
    }

    async fn audit_end(&mut self) -> Result<End, StoreError> {
        let query = sqlx::query("SELECT audit_seq, audit_hash, audit_mac FROM settings");
        let row = self.optional(READING, query).await?;
        let row = row.ok_or(StoreError::NotFound {
            what: "row of settings",
        })?;
        Ok(End {
            seq: row.number("audit_seq")?,
            hash: row.array("audit_hash")?,
            mac: row.bytes("audit_mac")?,
        })
    }
}

/// Where the chain ends, as the settings say.
#[derive(Debug, Clone)]
pub(crate) struct End {
    seq: u64,
    hash: [u8; 32],
    mac: Vec<u8>,
}

impl Write {
    /// Remembers what this transaction does; gives the row's number.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit(&mut self, entry: &AuditEntry<'_>, now: UnixTime) -> Result<u64, StoreError> {
        const DOING: &str = "writing the audit log";
        let end = match self.audit_end.take() {
            Some(known) => known,
            None => self.read().audit_end().await?,
        };
        let mut row = AuditRow {
            seq: end.seq + 1,
            scope: entry.scope,
            time: now,
            actor: entry.actor.to_owned(),
            action: entry.action.to_owned(),
            object: entry.object.to_owned(),
            detail: entry.detail.to_string(),
            hash: end.hash,
        };
        row.hash = link(&end.hash, &row);
        let end = self.end_at(row.seq, row.hash);
        let query = sqlx::query(
            "INSERT INTO audit (seq, tenant_id, time, actor, action, object, detail, hash) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8); \
             UPDATE settings SET audit_seq = $1, audit_hash = $8, audit_mac = $9",
        )
        .bind(stored("a row number", row.seq)?)
        .bind(row.scope.tenant().map(|tenant| tenant.0.to_vec()))
        .bind(stored_time(row.time)?)
        .bind(&row.actor)
        .bind(&row.action)
        .bind(&row.object)
        .bind(&row.detail)
        .bind(row.hash.to_vec())
        .bind(&end.mac);
        self.execute(DOING, query).await?;
        self.audit_end = Some(end);
        Ok(row.seq)
    }

    /// Makes sure that what the next root key is to vouch for was vouched for by this one.
    pub(crate) async fn check_audit_end(&mut self) -> Result<(), StoreError> {
        let end = self.read().audit_end().await?;
        if self.read().root().vouches(end.seq, &end.hash, &end.mac) {
            return Ok(());
        }
        Err(StoreError::damaged(
            "the end of the audit log",
            "nobody with the root key wrote it",
        ))
    }

    /// Vouches for the log under the root key that holds by now.
    pub(crate) async fn vouch_for_audit(&mut self) -> Result<(), StoreError> {
        let end = self.read().audit_end().await?;
        let end = self.end_at(end.seq, end.hash);
        let query = sqlx::query("UPDATE settings SET audit_mac = $1").bind(&end.mac);
        self.execute("writing the audit log", query).await?;
        self.audit_end = Some(end);
        Ok(())
    }

    fn end_at(&mut self, seq: u64, hash: [u8; 32]) -> End {
        let mac = self.read().root().audit_mac(seq, &hash).to_vec();
        End { seq, hash, mac }
    }
}

/// What the first row is chained to.
pub(crate) fn genesis(server: ServerId) -> [u8; 32] {
    sha256(&[b"coterie/store/1 audit", &server.0])
}

/// The hash of a row: every field with its length, after the hash before it.
fn link(before: &[u8; 32], row: &AuditRow) -> [u8; 32] {
    let tenant = row.scope.tenant().map_or_else(Vec::new, |tenant| tenant.0.to_vec());
    let row = counted(&[
        &row.seq.to_be_bytes(),
        &tenant,
        &row.time.0.to_be_bytes(),
        row.actor.as_bytes(),
        row.action.as_bytes(),
        row.object.as_bytes(),
        row.detail.as_bytes(),
    ]);
    sha256(&[before, &row])
}

fn audit_row(row: &Row) -> Result<AuditRow, StoreError> {
    Ok(AuditRow {
        seq: row.number("seq")?,
        scope: row.array_or_none("tenant_id")?.map(TenantId).into(),
        time: row.time("time")?,
        actor: row.text("actor")?,
        action: row.text("action")?,
        object: row.text("object")?,
        detail: row.text("detail")?,
        hash: row.array("hash")?,
    })
}
