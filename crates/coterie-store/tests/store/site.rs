//! A database with one tenant and one enclave.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coterie_crypto::{Entropy, Secret, SeededEntropy};
use coterie_model::{EnclaveId, MemberId, Name, Revision, UnixTime};
use coterie_store::{NewChange, NewToken, Store, StoreError, TenantId, TokenId, Value, Write};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Site {
    /// Removed when the site is dropped.
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Arc<Store>,
    pub(crate) entropy: SeededEntropy,
    pub(crate) tenant: TenantId,
    pub(crate) enclave: EnclaveId,
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn root_key() -> Secret<32> {
    Secret::new([0x5a; 32])
}

pub(crate) fn member(n: u64) -> MemberId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    MemberId(id)
}

pub(crate) fn static_key(n: u64) -> [u8; 32] {
    let mut key = [0xa5; 32];
    key[..8].copy_from_slice(&n.to_be_bytes());
    key
}

impl Site {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut entropy = SeededEntropy::from_number(7);
        let store = Store::open(&dir.path().join("db"), root_key(), NOW, &mut entropy)
            .await
            .unwrap();
        let mut w = store.write().await.unwrap();
        let (tenant, enclave) = tenant_with_enclave(&mut w, "acme", "prod", &mut entropy).await;
        w.commit().await.unwrap();
        Self {
            dir,
            store: Arc::new(store),
            entropy,
            tenant,
            enclave,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    /// Opens the database once more, after closing it.
    pub(crate) async fn reopened(self) -> Self {
        let path = self.path();
        let mut entropy = self.entropy;
        Arc::into_inner(self.store).unwrap().close().await.unwrap();
        let store = Arc::new(Store::open(&path, root_key(), NOW, &mut entropy).await.unwrap());
        Self { store, entropy, ..self }
    }

    pub(crate) async fn token(&mut self, uses: u32) -> TokenId {
        let mut w = self.store.write().await.unwrap();
        let template = name("web");
        let (id, _secret) = w
            .create_token(self.enclave, &new_token(&template, uses), NOW, &mut self.entropy)
            .await
            .unwrap();
        w.commit().await.unwrap();
        id
    }

    /// A connection beside the store, for what the store would never do.
    pub(crate) async fn sql(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.path()).foreign_keys(false);
        options.connect().await.unwrap()
    }
}

pub(crate) fn new_token(template: &Name, uses: u32) -> NewToken<'_> {
    NewToken {
        template,
        member: None,
        uses,
        not_after: NOW.plus(HOUR),
        source: None,
        time_to_live: None,
        made_by: "ada",
    }
}

pub(crate) async fn tenant_with_enclave(
    w: &mut Write,
    tenant: &str,
    enclave: &str,
    entropy: &mut SeededEntropy,
) -> (TenantId, EnclaveId) {
    let tenant = w.create_tenant(&name(tenant), NOW, entropy).await.unwrap();
    let mut id = EnclaveId::default();
    entropy.fill(&mut id.0);
    w.create_enclave(tenant, id, &name(enclave), "[enclave]", NOW)
        .await
        .unwrap();
    w.put_record(id, "root", "", Value::Secret(b"seeds"), entropy)
        .await
        .unwrap();
    (tenant, id)
}

/// Executes statements beside the store.
pub(crate) async fn edit(conn: &mut SqliteConnection, sql: &'static str) -> u64 {
    sqlx::raw_sql(sql).execute(conn).await.unwrap().rows_affected()
}

/// Adds one change, of a member, that concerns nobody by name.
pub(crate) async fn add_change(w: &mut Write, enclave: EnclaveId, subject: &str) -> Result<Revision, StoreError> {
    let concerns = BTreeSet::new();
    let change = NewChange {
        kind: "member",
        subject,
        concerns: &concerns,
    };
    w.add_changes(enclave, &[change], NOW).await
}
