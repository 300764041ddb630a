//! The server's enclaves: the keeper of each, found by tenant and name, or by id.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use coterie_control::file;
use coterie_model::{EnclaveId, Name};
use coterie_store::{AuditEntry, Scope, Store, TenantId};
use serde_json::json;
use tokio::sync::{Mutex, watch};

use crate::{
    clock,
    keeper::{Keeper, State},
    metrics::Metrics,
    refusal::{Refusal, fault},
};

/// What every request has at hand.
pub(crate) struct Server {
    /// The database.
    pub(crate) store: Arc<Store>,
    /// Counts.
    pub(crate) metrics: Arc<Metrics>,
    /// Where nodes reach this server.
    pub(crate) servers: Vec<SocketAddr>,
    /// True once the server stops.
    pub(crate) stopping: watch::Receiver<bool>,
    keepers: RwLock<BTreeMap<EnclaveId, Keeper>>,
    /// Held while an enclave is made or removed: who finds it in the store, or not, finds its keeper, or not.
    making: Mutex<()>,
}

impl Server {
    /// Starts the keeper of every enclave.
    ///
    /// # Errors
    /// When an enclave is damaged.
    pub(crate) async fn start(
        store: Arc<Store>,
        metrics: Arc<Metrics>,
        servers: Vec<SocketAddr>,
        stopping: watch::Receiver<bool>,
    ) -> anyhow::Result<Arc<Self>> {
        let this = Self {
            store,
            metrics,
            servers,
            stopping,
            keepers: RwLock::default(),
            making: Mutex::default(),
        };
        let all = this.store.read().await?.all_enclaves().await?;
        for enclave in all {
            this.keep(enclave.tenant, enclave.id).await?;
        }
        Ok(Arc::new(this))
    }

    /// The keeper of an enclave of a tenant.
    pub(crate) async fn keeper(&self, tenant: TenantId, name: &Name) -> Option<Keeper> {
        self.keepers(tenant)
            .await
            .into_iter()
            .find(|keeper| keeper.name == *name)
    }

    /// The keepers of a tenant's enclaves, by name.
    #[expect(
        clippy::unused_async,
        reason = "who asks is to be free to wait, should keepers start on demand"
    )]
    pub(crate) async fn keepers(&self, tenant: TenantId) -> Vec<Keeper> {
        let keepers = self.keepers.read().unwrap_or_else(PoisonError::into_inner);
        let mut theirs: Vec<Keeper> = keepers
            .values()
            .filter(|keeper| keeper.tenant == tenant)
            .cloned()
            .collect();
        theirs.sort_by(|a, b| a.name.cmp(&b.name));
        theirs
    }

    /// The keeper of an enclave, whosever it is: for nodes, which name it before they show a certificate of it.
    pub(crate) fn keeper_of(&self, enclave: EnclaveId) -> Option<Keeper> {
        let keepers = self.keepers.read().unwrap_or_else(PoisonError::into_inner);
        keepers.get(&enclave).cloned()
    }

    /// All keepers.
    pub(crate) fn all(&self) -> Vec<Keeper> {
        let keepers = self.keepers.read().unwrap_or_else(PoisonError::into_inner);
        keepers.values().cloned().collect()
    }

    /// Makes an enclave of a tenant from its file. Who asks may hang up: what was begun is done.
    ///
    /// # Errors
    /// [`Refusal`] when the file is not accepted, or the tenant has an enclave of this name, whose keeper is there then.
    pub(crate) async fn create(self: &Arc<Self>, tenant: TenantId, text: &str, actor: &str) -> Result<Keeper, Refusal> {
        let (this, text, actor) = (Arc::clone(self), text.to_owned(), actor.to_owned());
        let made = tokio::spawn(async move { this.create_whole(tenant, &text, &actor).await });
        made.await.unwrap_or(Err(Refusal::Gone))
    }

    async fn create_whole(&self, tenant: TenantId, text: &str, actor: &str) -> Result<Keeper, Refusal> {
        let parsed = file::parse(text).map_err(|faults| Refusal::File(faults.iter().map(fault).collect()))?;
        let now = clock::now();
        let _making = self.making.lock().await;
        let mut w = self.store.write().await?;
        let created = State::create(&mut w, tenant, text, self.servers.clone(), now).await?;
        let entry = AuditEntry {
            scope: Scope::Tenant(tenant),
            actor,
            action: "enclave.create",
            object: parsed.enclave.name.as_str(),
            detail: &json!({ "id": created.to_string() }),
        };
        w.audit(&entry, now).await?;
        w.commit().await?;
        self.keep(tenant, created)
            .await
            .map_err(|error| Refusal::Store(format!("{error:#}")))
    }

    /// Removes an enclave of a tenant with everything that is in it. Who asks may hang up: what was begun is done.
    ///
    /// # Errors
    /// [`Refusal`] when the store does not take it.
    pub(crate) async fn remove(
        self: &Arc<Self>,
        tenant: TenantId,
        keeper: &Keeper,
        actor: &str,
    ) -> Result<(), Refusal> {
        let (this, keeper, actor) = (Arc::clone(self), keeper.clone(), actor.to_owned());
        let removed = tokio::spawn(async move { this.remove_whole(tenant, &keeper, &actor).await });
        removed.await.unwrap_or(Err(Refusal::Gone))
    }

    async fn remove_whole(&self, tenant: TenantId, keeper: &Keeper, actor: &str) -> Result<(), Refusal> {
        let _making = self.making.lock().await;
        let mut w = self.store.write().await?;
        w.remove_enclave(tenant, keeper.enclave).await?;
        let entry = AuditEntry {
            scope: Scope::Tenant(tenant),
            actor,
            action: "enclave.remove",
            object: keeper.name.as_str(),
            detail: &json!({ "id": keeper.enclave.to_string() }),
        };
        w.audit(&entry, clock::now()).await?;
        w.commit().await?;
        self.keepers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&keeper.enclave);
        keeper.stop().await;
        Ok(())
    }

    async fn keep(&self, tenant: TenantId, enclave: EnclaveId) -> anyhow::Result<Keeper> {
        let store = Arc::clone(&self.store);
        let keeper = Keeper::start(store, tenant, enclave, Arc::clone(&self.metrics)).await?;
        let mut keepers = self.keepers.write().unwrap_or_else(PoisonError::into_inner);
        keepers.insert(enclave, keeper.clone());
        Ok(keeper)
    }
}
