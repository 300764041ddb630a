//! Principals, and who one is.

use std::time::Duration;

use axum::{Json, response::IntoResponse as _};
use coterie_api::v1::{self, List, PrincipalMade, SecretText, WhoAmI};
use coterie_model::{Name, UnixTime};
use coterie_store::{AuditEntry, NewPrincipal, Principal, PrincipalId, Role, Scope, Write};
use http::StatusCode;
use serde_json::json;

use super::{
    answer::Answer,
    ask::{self, Call},
    caller,
};
use crate::{clock, entropy::SystemEntropy, make::key_text, refusal::Refusal};

/// The longest time for which a key can be made that ends: ten years.
const MAX_TTL: u64 = 10 * 365 * 24 * 3600;

/// `GET /v1/whoami`
pub(super) async fn whoami(call: Call) -> Answer {
    let tenant = match call.caller.tenant() {
        Some(tenant) => call.server.store.read().await?.tenant(tenant).await?,
        None => None,
    };
    let answer = WhoAmI {
        principal: told(call.caller.principal())?,
        tenant: tenant.map(|tenant| tenant.name),
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(Json(answer).into_response())
}

/// `GET /v1/principals`
pub(super) async fn list(call: Call) -> Answer {
    let principals = call.server.store.read().await?.principals(call.caller.scope()).await?;
    let items = principals.iter().map(told).collect::<Result<_, _>>()?;
    Ok(Json(List { items }).into_response())
}

/// `POST /v1/principals`
pub(super) async fn create(call: Call, ask::Json(new): ask::Json<v1::NewPrincipal>) -> Answer {
    if new.ttl_seconds.is_some_and(|ttl| !(1..=MAX_TTL).contains(&ttl)) {
        let words = format!("ttl_seconds is 1 to {MAX_TTL}, or null for a key without end");
        return Err(Refusal::BadRequest(words).into());
    }
    let now = clock::now();
    let wanted = Wanted {
        scope: call.caller.scope(),
        name: &new.name,
        role: role(new.role),
        not_after: new.ttl_seconds.map(|ttl| now.plus(Duration::from_secs(ttl))),
    };
    let mut w = call.server.store.write().await?;
    let made = make(&mut w, &wanted, call.caller.name(), now).await?;
    w.commit().await?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// `DELETE /v1/principals/{p}`: revokes it, so that its key is told that it ended; one that is revoked already is forgotten,
/// and its name is free.
pub(super) async fn revoke(call: Call) -> Answer {
    let (scope, id) = (call.caller.scope(), PrincipalId(call.id("p", "principal")?));
    let now = clock::now();
    let mut w = call.server.store.write().await?;
    let all = w.read().principals(scope).await?;
    let known = all.iter().find(|principal| principal.id == id);
    let known = known.ok_or(Refusal::NotFound("principal"))?;
    let is_live = |p: &&Principal| p.revoked.is_none() && p.not_after.is_none_or(|last| last >= now);
    let is_other_owner = |p: &&Principal| p.role == Role::Owner && p.id != id;
    if known.role == Role::Owner && is_live(&known) && !all.iter().filter(is_live).any(|p| is_other_owner(&p)) {
        return Err(Refusal::Issue(format!(
            "`{}` is the only owner left, and nobody could make another; make another owner first",
            known.name
        ))
        .into());
    }
    let action = match known.revoked {
        None => {
            w.revoke_principal(scope, id, now).await?;
            "principal.revoke"
        }
        Some(_) => {
            w.remove_principal(scope, id).await?;
            "principal.remove"
        }
    };
    let entry = AuditEntry {
        scope,
        actor: call.caller.name(),
        action,
        object: &known.name,
        detail: &json!({ "id": id.to_string() }),
    };
    w.audit(&entry, now).await?;
    w.commit().await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What a principal is to be.
pub(super) struct Wanted<'a> {
    /// Whose it is.
    pub(super) scope: Scope,
    /// Its name.
    pub(super) name: &'a Name,
    /// What it may do.
    pub(super) role: Role,
    /// The last second in which its key is good.
    pub(super) not_after: Option<UnixTime>,
}

/// Makes a principal, and writes down who did.
pub(super) async fn make(
    w: &mut Write,
    wanted: &Wanted<'_>,
    actor: &str,
    now: UnixTime,
) -> Result<PrincipalMade, Refusal> {
    let new = NewPrincipal {
        scope: wanted.scope,
        name: wanted.name.as_str(),
        role: wanted.role,
        not_after: wanted.not_after,
    };
    let (id, secret) = w.create_principal(&new, now, &mut SystemEntropy).await?;
    let not_after = wanted.not_after.map(|last| last.0);
    let entry = AuditEntry {
        scope: wanted.scope,
        actor,
        action: "principal.create",
        object: wanted.name.as_str(),
        detail: &json!({ "id": id.to_string(), "role": wanted.role.as_str(), "not-after": not_after }),
    };
    w.audit(&entry, now).await?;
    Ok(PrincipalMade {
        principal: v1::Principal {
            id: id.to_string(),
            name: wanted.name.clone(),
            role: caller::role(wanted.role),
            created: now.0,
            not_after,
            revoked: None,
            last_used: None,
        },
        key: SecretText::new(key_text(&secret).to_string()),
    })
}

/// The role, in the store's words.
fn role(role: v1::Role) -> Role {
    match role {
        v1::Role::Owner => Role::Owner,
        v1::Role::Admin => Role::Admin,
        v1::Role::Operator => Role::Operator,
        v1::Role::Auditor => Role::Auditor,
    }
}

/// A principal, in the contract's words.
fn told(principal: &Principal) -> Result<v1::Principal, Refusal> {
    let name = Name::new(&principal.name);
    let name =
        name.map_err(|error| Refusal::Store(format!("the name of principal {} is damaged: {error}", principal.id)))?;
    Ok(v1::Principal {
        id: principal.id.to_string(),
        name,
        role: caller::role(principal.role),
        created: principal.created.0,
        not_after: principal.not_after.map(|time| time.0),
        revoked: principal.revoked.map(|time| time.0),
        last_used: principal.last_used.map(|time| time.0),
    })
}
