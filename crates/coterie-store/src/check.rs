//! Is the database whole? What is not, and what to do about it.

use coterie_model::EnclaveId;

use crate::id::{TokenId, hex};
use crate::{AuditVerdict, Read, Store, StoreError, sqlite, token};

/// What a check saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong; empty when all is well.
    pub findings: Vec<Finding>,
    /// Tenants looked at.
    pub tenants: u64,
    /// Sealed values that opened.
    pub opened: u64,
    /// Rows of the audit log.
    pub audit_rows: u64,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In which respect.
    pub kind: FindingKind,
    /// What.
    pub what: String,
}

/// In which respect something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// The file itself is damaged.
    File,
    /// A row refers to a row that is not there.
    Reference,
    /// The audit log is not what was written.
    Audit,
    /// A sealed value does not open.
    Sealed,
    /// A token made more members than it may, or not as many as it counts.
    Token,
}

impl FindingKind {
    /// What to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::File => {
                "stop the server, keep the damaged file for later, restore the newest backup, and have the disk examined"
            }
            Self::Reference => "somebody edited the database, or the disk failed: restore the newest backup",
            Self::Audit => {
                "somebody edited the database: find out who could, compare with the audit log that was exported, and \
                 restore a backup from before that row"
            }
            Self::Sealed => {
                "the value was edited, or the disk failed: restore the newest backup, or make the value anew (a token: \
                 revoke it and make another; a tenant's key: only a backup has it)"
            }
            Self::Token => {
                "somebody edited the database: revoke the token, and look in its uses for members that nobody knows"
            }
        }
    }
}

impl core::fmt::Display for Finding {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}; {}", self.what, self.kind.advice())
    }
}

impl Store {
    /// Looks at everything: the file, references, the audit log, every sealed value, the counts of tokens. Reads one state,
    /// while others write.
    ///
    /// # Errors
    /// When the database cannot be read at all; what is wrong in it is no error but a finding.
    pub async fn check(&self) -> Result<Report, StoreError> {
        const DOING: &str = "checking the database";
        let mut read = self.read().await?;
        let mut report = Report::default();
        let damage = sqlite::integrity(read.conn()).await;
        match read.noted(DOING, damage) {
            Ok(damage) => report.add(FindingKind::File, damage),
            // So damaged that not even the check of the file gets through.
            Err(StoreError::Damaged { what, reason }) => report.add(FindingKind::File, [format!("{what}: {reason}")]),
            Err(error) => return Err(error),
        }
        if !report.findings.is_empty() {
            // What else would be said of a damaged file is not worth saying.
            return Ok(report);
        }
        let dangling = sqlite::dangling(read.conn()).await;
        report.add(FindingKind::Reference, read.noted(DOING, dangling)?);
        match read.verify_audit().await? {
            AuditVerdict::Whole { rows } => report.audit_rows = rows,
            AuditVerdict::Broken { seq, reason } => {
                report.add(FindingKind::Audit, [format!("row {seq} of the audit log: {reason}")]);
            }
        }
        check_sealed(&mut read, &mut report).await?;
        check_tokens(&mut read, &mut report).await?;
        Ok(report)
    }
}

impl Report {
    fn add(&mut self, kind: FindingKind, what: impl IntoIterator<Item = String>) {
        let findings = what.into_iter().map(|what| Finding { kind, what });
        self.findings.extend(findings);
    }

    /// Counts what opened, and adds what did not.
    fn opened<T>(&mut self, count: u64, opened: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match opened {
            Ok(value) => {
                self.opened += count;
                Ok(Some(value))
            }
            Err(StoreError::Damaged { what, reason }) => {
                self.add(FindingKind::Sealed, [format!("{what}: {reason}")]);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

async fn check_sealed(read: &mut Read, report: &mut Report) -> Result<(), StoreError> {
    const DOING: &str = "checking sealed values";
    for row in read
        .all(DOING, sqlx::query("SELECT id, sealed_key FROM tenants ORDER BY id"))
        .await?
    {
        report.tenants += 1;
        let Some(key) = report.opened(1, read.tenant_key(&row))? else {
            continue;
        };
        let query =
            sqlx::query("SELECT id FROM enclaves WHERE tenant_id = $1 ORDER BY id").bind(key.tenant().0.to_vec());
        for row in read.all(DOING, query).await? {
            let enclave = EnclaveId(row.array("id")?);
            let query =
                sqlx::query("SELECT kind, key FROM records WHERE enclave_id = $1 AND secret = 1 ORDER BY kind, key")
                    .bind(enclave.0.to_vec());
            // One at a time, so that one that does not open does not hide the others.
            for row in read.all(DOING, query).await? {
                let record = read.record(enclave, &row.text("kind")?, &row.text("key")?).await;
                report.opened(1, record)?;
            }
            let query = sqlx::query("SELECT id, sealed_secret FROM tokens WHERE enclave_id = $1 ORDER BY id")
                .bind(enclave.0.to_vec());
            for row in read.all(DOING, query).await? {
                report.opened(1, token::open_secret(&key, TokenId(row.array("id")?), &row))?;
            }
        }
    }
    Ok(())
}

async fn check_tokens(read: &mut Read, report: &mut Report) -> Result<(), StoreError> {
    let query = sqlx::query(
        "SELECT t.id, t.uses_allowed, t.uses_made, \
         (SELECT count(*) FROM token_uses u WHERE u.enclave_id = t.enclave_id AND u.token_id = t.id) AS uses FROM tokens t ORDER BY t.id",
    );
    for row in read.all("checking tokens", query).await? {
        let id: [u8; 16] = row.array("id")?;
        let (allowed, made, uses) = (
            row.number("uses_allowed")?,
            row.number("uses_made")?,
            row.number("uses")?,
        );
        if made > allowed || uses != made {
            let what = format!(
                "token {}: {allowed} uses allowed, {made} counted, {uses} on record",
                hex(&id)
            );
            report.add(FindingKind::Token, [what]);
        }
    }
    Ok(())
}
