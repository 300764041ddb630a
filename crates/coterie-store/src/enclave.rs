//! Enclaves, each with a version by which two who change it at once are told apart.

use coterie_model::{EnclaveId, Name, Revision, UnixTime};

use crate::id::TenantId;
use crate::row::{Row, stored, stored_time};
use crate::session::Constraint;
use crate::{Read, StoreError, Write};

/// An enclave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enclave {
    /// Its id.
    pub id: EnclaveId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name: no other of the tenant has it.
    pub name: Name,
    /// Grows by one with each [`Write::advance_enclave`], and jumps with a restore; never goes back.
    pub version: u64,
    /// Of its newest change.
    pub revision: Revision,
    /// The enclave file.
    pub file: String,
    /// When it was made.
    pub created: UnixTime,
}

const READING: &str = "reading enclaves";

impl Read {
    /// The enclave of this id, if it is the tenant's.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn enclave(&mut self, tenant: TenantId, id: EnclaveId) -> Result<Option<Enclave>, StoreError> {
        let query = sqlx::query("SELECT * FROM enclaves WHERE tenant_id = $1 AND id = $2")
            .bind(&tenant.0[..])
            .bind(&id.0[..]);
        self.optional(READING, query)
            .await?
            .map(|row| enclave(&row))
            .transpose()
    }

    /// The tenant's enclave of this name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn enclave_by_name(&mut self, tenant: TenantId, name: &Name) -> Result<Option<Enclave>, StoreError> {
        let query = sqlx::query("SELECT * FROM enclaves WHERE tenant_id = $1 AND name = $2")
            .bind(&tenant.0[..])
            .bind(name.as_str());
        self.optional(READING, query)
            .await?
            .map(|row| enclave(&row))
            .transpose()
    }

    /// All enclaves of the tenant, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn enclaves(&mut self, tenant: TenantId) -> Result<Vec<Enclave>, StoreError> {
        let query = sqlx::query("SELECT * FROM enclaves WHERE tenant_id = $1 ORDER BY name").bind(&tenant.0[..]);
        self.all(READING, query).await?.iter().map(enclave).collect()
    }

    /// The enclave of this id, whosever it is: for the server itself, on behalf of a node, which proves by its certificate
    /// which enclave it is of. Never for a caller who has a tenant.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn enclave_of_any_tenant(&mut self, id: EnclaveId) -> Result<Option<Enclave>, StoreError> {
        let query = sqlx::query("SELECT * FROM enclaves WHERE id = $1").bind(&id.0[..]);
        self.optional(READING, query)
            .await?
            .map(|row| enclave(&row))
            .transpose()
    }

    /// All enclaves of all tenants, by id: for the server itself, which tends each.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all_enclaves(&mut self) -> Result<Vec<Enclave>, StoreError> {
        let query = sqlx::query("SELECT * FROM enclaves ORDER BY id");
        self.all(READING, query).await?.iter().map(enclave).collect()
    }
}

impl Write {
    /// Makes an enclave at version 1; its id was drawn when its root was made.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the tenant has one of this name, or the id is taken; [`StoreError::NotFound`] when there
    /// is no such tenant.
    pub async fn create_enclave(
        &mut self,
        tenant: TenantId,
        id: EnclaveId,
        name: &Name,
        file: &str,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "INSERT INTO enclaves (id, tenant_id, name, version, revision, changes_floor, file, created) \
             VALUES ($1, $2, $3, 1, 0, 0, $4, $5)",
        )
        .bind(&id.0[..])
        .bind(&tenant.0[..])
        .bind(name.as_str())
        .bind(file)
        .bind(stored_time(now)?);
        let refused = |constraint| match constraint {
            Constraint::Unique => StoreError::Exists { what: "enclave" },
            Constraint::Reference => StoreError::NotFound { what: "tenant" },
        };
        self.execute_or("making an enclave", query, refused).await?;
        Ok(())
    }

    /// Claims the right to change the enclave that was read at version `expected`: whoever else read it at that version
    /// fails. Gives the version that it has with the commit.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it has another version by now; [`StoreError::NotFound`] when it is not the tenant's.
    pub async fn advance_enclave(&mut self, tenant: TenantId, id: EnclaveId, expected: u64) -> Result<u64, StoreError> {
        let query = sqlx::query(
            "UPDATE enclaves SET version = version + 1 WHERE tenant_id = $1 AND id = $2 AND version = $3 \
             RETURNING version",
        )
        .bind(&tenant.0[..])
        .bind(&id.0[..])
        .bind(stored("a version", expected)?);
        if let Some(row) = self.returning("changing an enclave", query).await? {
            return row.number("version");
        }
        match self.read().enclave(tenant, id).await? {
            Some(Enclave { version: found, .. }) => Err(StoreError::Conflict { expected, found }),
            None => Err(StoreError::NotFound { what: "enclave" }),
        }
    }

    /// Replaces the enclave file.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not the tenant's.
    pub async fn set_enclave_file(&mut self, tenant: TenantId, id: EnclaveId, file: &str) -> Result<(), StoreError> {
        let query = sqlx::query("UPDATE enclaves SET file = $1 WHERE tenant_id = $2 AND id = $3")
            .bind(file)
            .bind(&tenant.0[..])
            .bind(&id.0[..]);
        one(self.execute("replacing an enclave file", query).await?, "enclave")
    }

    /// Removes an enclave with all that belongs to it; only the audit log remembers it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not the tenant's.
    pub async fn remove_enclave(&mut self, tenant: TenantId, id: EnclaveId) -> Result<(), StoreError> {
        self.read().forget_tenant_key();
        let query = sqlx::query("DELETE FROM enclaves WHERE tenant_id = $1 AND id = $2")
            .bind(&tenant.0[..])
            .bind(&id.0[..]);
        one(self.execute("removing an enclave", query).await?, "enclave")
    }
}

/// One row was meant.
pub(crate) fn one(rows: u64, what: &'static str) -> Result<(), StoreError> {
    if rows == 0 {
        Err(StoreError::NotFound { what })
    } else {
        Ok(())
    }
}

fn enclave(row: &Row) -> Result<Enclave, StoreError> {
    Ok(Enclave {
        id: EnclaveId(row.array("id")?),
        tenant: TenantId(row.array("tenant_id")?),
        name: row.name("name")?,
        version: row.number("version")?,
        revision: row.number("revision")?,
        file: row.text("file")?,
        created: row.time("created")?,
    })
}
