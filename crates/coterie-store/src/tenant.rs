//! Tenants, and the keys that their secrets are sealed under.

use std::sync::Arc;

use coterie_crypto::{Entropy, Secret};
use coterie_model::{EnclaveId, Name, UnixTime};

use crate::id::TenantId;
use crate::row::{Row, stored_time};
use crate::seal::TenantKey;
use crate::session::Constraint;
use crate::{Read, StoreError, Write};

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name: no other has it.
    pub name: Name,
    /// When it was made.
    pub created: UnixTime,
}

const READING: &str = "reading tenants";

impl Read {
    /// The tenant of this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tenant(&mut self, id: TenantId) -> Result<Option<Tenant>, StoreError> {
        let query = sqlx::query("SELECT id, name, created FROM tenants WHERE id = $1").bind(&id.0[..]);
        self.optional(READING, query).await?.map(|row| tenant(&row)).transpose()
    }

    /// The tenant of this name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tenant_by_name(&mut self, name: &Name) -> Result<Option<Tenant>, StoreError> {
        let query = sqlx::query("SELECT id, name, created FROM tenants WHERE name = $1").bind(name.as_str());
        self.optional(READING, query).await?.map(|row| tenant(&row)).transpose()
    }

    /// All tenants, by name: for the operator of the server.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tenants(&mut self) -> Result<Vec<Tenant>, StoreError> {
        let query = sqlx::query("SELECT id, name, created FROM tenants ORDER BY name");
        self.all(READING, query).await?.iter().map(tenant).collect()
    }

    /// The key of the tenant that an enclave belongs to.
    pub(crate) async fn key_of_enclave(&mut self, enclave: EnclaveId) -> Result<Arc<TenantKey>, StoreError> {
        if let Some(key) = self.known_tenant_key(enclave) {
            return Ok(key);
        }
        let query = sqlx::query(
            "SELECT t.id, t.sealed_key FROM tenants t JOIN enclaves e ON e.tenant_id = t.id WHERE e.id = $1",
        )
        .bind(&enclave.0[..]);
        let row = self.optional("reading a tenant's key", query).await?;
        let row = row.ok_or(StoreError::NotFound { what: "enclave" })?;
        let key = Arc::new(self.tenant_key(&row)?);
        self.know_tenant_key(enclave, &key);
        Ok(key)
    }

    /// The key in a row with `id` and `sealed_key`.
    pub(crate) fn tenant_key(&self, row: &Row) -> Result<TenantKey, StoreError> {
        let tenant = TenantId(row.array("id")?);
        let opened = self.root().open_tenant_key(tenant, &row.bytes("sealed_key")?);
        opened.map_err(|_refused| StoreError::damaged(format!("the key of tenant {tenant}"), "it does not open"))
    }
}

impl Write {
    /// Makes a tenant, with a key of its own.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the name is taken.
    pub async fn create_tenant(
        &mut self,
        name: &Name,
        now: UnixTime,
        entropy: &mut (dyn Entropy + Send),
    ) -> Result<TenantId, StoreError> {
        let id = TenantId::draw(entropy);
        let key = TenantKey::draw(id, entropy);
        let sealed = self.read().root().seal_tenant_key(&key, entropy);
        let query = sqlx::query("INSERT INTO tenants (id, name, sealed_key, created) VALUES ($1, $2, $3, $4)")
            .bind(&id.0[..])
            .bind(name.as_str())
            .bind(sealed)
            .bind(stored_time(now)?);
        self.execute_or("making a tenant", query, |_unique| StoreError::Exists {
            what: "tenant",
        })
        .await?;
        Ok(id)
    }

    /// Removes a tenant with its principals and its key.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::NotEmpty`] while it has enclaves.
    pub async fn remove_tenant(&mut self, id: TenantId) -> Result<(), StoreError> {
        let query = sqlx::query("DELETE FROM tenants WHERE id = $1").bind(&id.0[..]);
        let refused = |_reference: Constraint| StoreError::NotEmpty {
            what: "tenant",
            of: "enclaves",
        };
        match self.execute_or("removing a tenant", query, refused).await? {
            0 => Err(StoreError::NotFound { what: "tenant" }),
            _ => Ok(()),
        }
    }

    /// Seals every tenant's key under another root key, which takes over with the commit. The old one opens nothing any
    /// more, but backups that were made before.
    ///
    /// # Errors
    /// When the database fails, or a key in it does not open.
    pub async fn rotate_root_key(
        &mut self,
        new: Secret<32>,
        entropy: &mut (dyn Entropy + Send),
    ) -> Result<(), StoreError> {
        const DOING: &str = "rotating the root key";
        let query = sqlx::query("SELECT id, sealed_key FROM tenants");
        let rows = self.read().all(DOING, query).await?;
        let read = self.read();
        let keys: Vec<TenantKey> = rows.iter().map(|row| read.tenant_key(row)).collect::<Result<_, _>>()?;
        self.check_audit_end().await?;
        self.set_root(new);
        for key in &keys {
            let sealed = self.read().root().seal_tenant_key(key, entropy);
            let query = sqlx::query("UPDATE tenants SET sealed_key = $1 WHERE id = $2")
                .bind(sealed)
                .bind(key.tenant().0.to_vec());
            self.execute(DOING, query).await?;
        }
        let read = self.read();
        let check = read.root().seal_check(read.server(), entropy);
        let query = sqlx::query("UPDATE settings SET root_check = $1").bind(check);
        self.execute(DOING, query).await?;
        self.vouch_for_audit().await
    }
}

fn tenant(row: &Row) -> Result<Tenant, StoreError> {
    Ok(Tenant {
        id: TenantId(row.array("id")?),
        name: row.name("name")?,
        created: row.time("created")?,
    })
}
