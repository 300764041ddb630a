//! Tenants, for the operator: who is there, and how many enclaves each has; never which.

use axum::{Json, response::IntoResponse as _};
use coterie_api::v1::{List, NewTenant, Tenant, TenantMade};
use coterie_model::Name;
use coterie_store::{AuditEntry, Read, Role, Scope};
use http::StatusCode;
use serde_json::json;

use super::{
    answer::{Answer, count},
    ask::{self, Call},
    principals::{self, Wanted},
};
use crate::{clock, entropy::SystemEntropy, refusal::Refusal};

/// The name of a tenant's first principal unless told otherwise.
const OWNER: &str = "owner";

/// `GET /v1/tenants`
pub(super) async fn list(call: Call) -> Answer {
    let mut read = call.server.store.read().await?;
    let mut items = Vec::new();
    for tenant in read.tenants().await? {
        items.push(told(&mut read, tenant).await?);
    }
    Ok(Json(List { items }).into_response())
}

/// `GET /v1/tenants/{t}`
pub(super) async fn one(call: Call) -> Answer {
    let mut read = call.server.store.read().await?;
    let tenant = read.tenant_by_name(&call.name("t", "tenant")?).await?;
    let tenant = tenant.ok_or(Refusal::NotFound("tenant"))?;
    Ok(Json(told(&mut read, tenant).await?).into_response())
}

/// `POST /v1/tenants`: the tenant, and its first principal with the key.
pub(super) async fn create(call: Call, ask::Json(new): ask::Json<NewTenant>) -> Answer {
    let owner = match new.owner {
        Some(owner) => owner,
        None => Name::new(OWNER).map_err(|error| Refusal::BadRequest(error.to_string()))?,
    };
    let now = clock::now();
    let actor = call.caller.name();
    let mut w = call.server.store.write().await?;
    let id = w.create_tenant(&new.name, now, &mut SystemEntropy).await?;
    let entry = AuditEntry {
        scope: call.caller.scope(),
        actor,
        action: "tenant.create",
        object: new.name.as_str(),
        detail: &json!({ "id": id.to_string(), "owner": owner.as_str() }),
    };
    w.audit(&entry, now).await?;
    let wanted = Wanted {
        scope: Scope::Tenant(id),
        name: &owner,
        role: Role::Owner,
        not_after: None,
    };
    let owner = principals::make(&mut w, &wanted, &format!("operator {actor}"), now).await?;
    w.commit().await?;
    let tenant = Tenant {
        name: new.name,
        id: id.to_string(),
        created: now.0,
        enclaves: 0,
    };
    Ok((StatusCode::CREATED, Json(TenantMade { tenant, owner })).into_response())
}

/// `DELETE /v1/tenants/{t}`: one that has no enclaves any more.
pub(super) async fn remove(call: Call) -> Answer {
    let name = call.name("t", "tenant")?;
    let mut w = call.server.store.write().await?;
    let tenant = w.read().tenant_by_name(&name).await?;
    let tenant = tenant.ok_or(Refusal::NotFound("tenant"))?;
    w.remove_tenant(tenant.id).await?;
    let entry = AuditEntry {
        scope: call.caller.scope(),
        actor: call.caller.name(),
        action: "tenant.remove",
        object: name.as_str(),
        detail: &json!({ "id": tenant.id.to_string() }),
    };
    w.audit(&entry, clock::now()).await?;
    w.commit().await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn told(read: &mut Read, tenant: coterie_store::Tenant) -> Result<Tenant, Refusal> {
    Ok(Tenant {
        enclaves: count(read.enclaves(tenant.id).await?.len()),
        name: tenant.name,
        id: tenant.id.to_string(),
        created: tenant.created.0,
    })
}
