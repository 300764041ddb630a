//! Who may call the server: people and programs, each with a secret of which only the hash is kept.

use coterie_crypto::hash::sha256;
use coterie_crypto::{Entropy, Secret};
use coterie_model::UnixTime;

use crate::enclave::one;
use crate::id::{PrincipalId, Scope, TenantId};
use crate::row::{Row, damaged, stored_time};
use crate::session::Constraint;
use crate::{Read, StoreError, Write};

/// What a principal may do; what that means is the server's to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Everything, principals included.
    Owner,
    /// Everything but principals.
    Admin,
    /// Daily work: tokens, isolating and releasing members.
    Operator,
    /// Reads, the audit log included.
    Auditor,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Owner, Self::Admin, Self::Operator, Self::Auditor];

    /// The role's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
        }
    }

    /// The role of a word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

/// What a principal is to be.
#[derive(Debug, Clone, Copy)]
pub struct NewPrincipal<'a> {
    /// Whose it is.
    pub scope: Scope,
    /// Its name: no other of the same scope has it.
    pub name: &'a str,
    /// What it may do.
    pub role: Role,
    /// The last second in which its secret is good; `None`: there is no last.
    pub not_after: Option<UnixTime>,
}

/// Somebody or something that may call the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its id.
    pub id: PrincipalId,
    /// Whose it is.
    pub scope: Scope,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created: UnixTime,
    /// The last second in which its secret is good; `None`: there is no last.
    pub not_after: Option<UnixTime>,
    /// Since when it is revoked.
    pub revoked: Option<UnixTime>,
    /// When it was last noted that it called.
    pub last_used: Option<UnixTime>,
}

/// Whose secret it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// This one's.
    Known(Principal),
    /// Nobody's.
    Unknown,
    /// Of one whose time is over.
    Expired(Principal),
    /// Of one that was revoked.
    Revoked(Principal),
}

const READING: &str = "reading principals";

impl Read {
    /// Whose secret this is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn login(&mut self, secret: &Secret<32>, now: UnixTime) -> Result<Login, StoreError> {
        let query = sqlx::query("SELECT * FROM principals WHERE secret_hash = $1").bind(hash(secret));
        let Some(row) = self.optional(READING, query).await? else {
            return Ok(Login::Unknown);
        };
        let principal = principal(&row)?;
        Ok(if principal.revoked.is_some() {
            Login::Revoked(principal)
        } else if principal.not_after.is_some_and(|last| last < now) {
            Login::Expired(principal)
        } else {
            Login::Known(principal)
        })
    }

    /// The principal of this id, if it is of the scope.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn principal(&mut self, scope: Scope, id: PrincipalId) -> Result<Option<Principal>, StoreError> {
        let query = sqlx::query("SELECT * FROM principals WHERE id = $1").bind(&id.0[..]);
        let found = self
            .optional(READING, query)
            .await?
            .map(|row| principal(&row))
            .transpose()?;
        Ok(found.filter(|principal| principal.scope == scope))
    }

    /// All principals of a tenant, or of the operator, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn principals(&mut self, scope: Scope) -> Result<Vec<Principal>, StoreError> {
        let query = match scope {
            Scope::Tenant(tenant) => {
                sqlx::query("SELECT * FROM principals WHERE tenant_id = $1 ORDER BY name").bind(tenant.0.to_vec())
            }
            Scope::Operator => sqlx::query("SELECT * FROM principals WHERE tenant_id IS NULL ORDER BY name"),
        };
        self.all(READING, query).await?.iter().map(principal).collect()
    }
}

impl Write {
    /// Makes a principal: id and secret are drawn. The secret cannot be had again.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the name is taken in the scope; [`StoreError::NotFound`] when there is no such tenant.
    pub async fn create_principal(
        &mut self,
        new: &NewPrincipal<'_>,
        now: UnixTime,
        entropy: &mut (dyn Entropy + Send),
    ) -> Result<(PrincipalId, Secret<32>), StoreError> {
        let (id, secret) = (PrincipalId::draw(entropy), Secret::draw(entropy));
        let query = sqlx::query(
            "INSERT INTO principals (id, tenant_id, name, role, secret_hash, created, not_after, revoked_at, last_used) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, NULL, NULL)",
        )
        .bind(&id.0[..])
        .bind(new.scope.tenant().map(|tenant| tenant.0.to_vec()))
        .bind(new.name)
        .bind(new.role.as_str())
        .bind(hash(&secret))
        .bind(stored_time(now)?)
        .bind(new.not_after.map(stored_time).transpose()?);
        let refused = |constraint| match constraint {
            Constraint::Unique => StoreError::Exists { what: "principal" },
            Constraint::Reference => StoreError::NotFound { what: "tenant" },
        };
        self.execute_or("making a principal", query, refused).await?;
        Ok((id, secret))
    }

    /// Revokes a principal. Once is enough; the first time is kept.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the scope has no such principal.
    pub async fn revoke_principal(&mut self, scope: Scope, id: PrincipalId, now: UnixTime) -> Result<(), StoreError> {
        self.owned(scope, id).await?;
        let query = sqlx::query("UPDATE principals SET revoked_at = coalesce(revoked_at, $1) WHERE id = $2")
            .bind(stored_time(now)?)
            .bind(&id.0[..]);
        one(self.execute("revoking a principal", query).await?, "principal")
    }

    /// Removes a principal; its name is free again, and the audit log remembers it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the scope has no such principal.
    pub async fn remove_principal(&mut self, scope: Scope, id: PrincipalId) -> Result<(), StoreError> {
        self.owned(scope, id).await?;
        let query = sqlx::query("DELETE FROM principals WHERE id = $1").bind(&id.0[..]);
        one(self.execute("removing a principal", query).await?, "principal")
    }

    /// Notes that a principal called. Each note is a commit: note the first of an hour, not every one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the scope has no such principal.
    pub async fn note_login(&mut self, scope: Scope, id: PrincipalId, now: UnixTime) -> Result<(), StoreError> {
        self.owned(scope, id).await?;
        let query = sqlx::query("UPDATE principals SET last_used = $1 WHERE id = $2")
            .bind(stored_time(now)?)
            .bind(&id.0[..]);
        one(self.execute("noting a login", query).await?, "principal")
    }

    async fn owned(&mut self, scope: Scope, id: PrincipalId) -> Result<Principal, StoreError> {
        let principal = self.read().principal(scope, id).await?;
        principal.ok_or(StoreError::NotFound { what: "principal" })
    }
}

fn hash(secret: &Secret<32>) -> Vec<u8> {
    sha256(&[secret.expose()]).to_vec()
}

fn principal(row: &Row) -> Result<Principal, StoreError> {
    let role = row.text("role")?;
    Ok(Principal {
        id: PrincipalId(row.array("id")?),
        scope: row.array_or_none("tenant_id")?.map(TenantId).into(),
        name: row.text("name")?,
        role: Role::of(&role).ok_or_else(|| damaged("role", role))?,
        created: row.time("created")?,
        not_after: row.time_or_none("not_after")?,
        revoked: row.time_or_none("revoked_at")?,
        last_used: row.time_or_none("last_used")?,
    })
}
