//! Who calls, and whether it may.

use std::sync::Arc;
use std::time::Duration;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coterie_api::v1::{self, Endpoint, Method};
use coterie_crypto::Secret;
use coterie_store::{Login, Principal, Scope, Store, TenantId};
use http::{HeaderMap, header::AUTHORIZATION};
use zeroize::Zeroizing;

use super::answer::Denial;
use crate::{clock, listener::Peer, refusal::Refusal, registry::Server};

/// How long ago a call may have been noted so that another is not: each note is a write.
const NOTED: Duration = Duration::from_secs(3600);

/// Endpoints that read a query; elsewhere a query would be something that is asked for and not done.
const QUERIES: [(Method, &str); 6] = [
    (Method::Put, "/v1/enclaves/{e}"),
    (Method::Post, "/v1/enclaves/{e}/members/{m}/isolate"),
    (Method::Post, "/v1/enclaves/{e}/members/{m}/release"),
    (Method::Post, "/v1/enclaves/{e}/members/{m}/revoke"),
    (Method::Get, "/v1/enclaves/{e}/explain"),
    (Method::Get, "/v1/audit"),
];

/// Who calls.
#[derive(Debug, Clone)]
pub(super) struct Caller(Arc<Principal>);

impl Caller {
    /// It.
    pub(super) fn principal(&self) -> &Principal {
        &self.0
    }

    /// Whose it is.
    pub(super) fn scope(&self) -> Scope {
        self.0.scope
    }

    /// Its tenant; `None` for the operator's.
    pub(super) fn tenant(&self) -> Option<TenantId> {
        match self.0.scope {
            Scope::Tenant(tenant) => Some(tenant),
            Scope::Operator => None,
        }
    }

    /// Its name, for the audit log.
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }
}

/// What an endpoint lets in.
#[derive(Clone)]
pub(super) struct Gate {
    /// The server.
    pub(super) server: Arc<Server>,
    /// The endpoint.
    pub(super) endpoint: &'static Endpoint,
}

/// Lets those in who may call the endpoint; its handler finds the [`Caller`] in the request.
pub(super) async fn gate(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let key = key(request.headers());
    let has_query = request.uri().query().is_some_and(|query| !query.is_empty());
    match gate.let_in(key, has_query).await {
        Ok(caller) => {
            let peer = Peer::Person(caller.principal().id);
            request.extensions_mut().insert(caller);
            let mut response = next.run(request).await;
            response.extensions_mut().insert(peer);
            response
        }
        Err(denial) => {
            if matches!(denial, Denial::Refused(Refusal::Unauthorized | Refusal::KeyEnded)) {
                gate.server.metrics.call_refused();
            }
            tracing::debug!(method = %gate.endpoint.method, path = gate.endpoint.path, "not let in: {denial}");
            denial.into_response()
        }
    }
}

impl Gate {
    async fn let_in(&self, key: Option<Secret<32>>, has_query: bool) -> Result<Caller, Denial> {
        let key = key.ok_or(Refusal::Unauthorized)?;
        let now = clock::now();
        let login = self.server.store.read().await?.login(&key, now).await?;
        let caller = match login {
            Login::Known(principal) => Caller(Arc::new(principal)),
            Login::Unknown => return Err(Refusal::Unauthorized.into()),
            Login::Expired(_) | Login::Revoked(_) => return Err(Refusal::KeyEnded.into()),
        };
        self.check_scope(&caller)?;
        let role = role(caller.principal().role);
        if !self.endpoint.role.is_some_and(|least| role.may(least)) {
            return Err(Refusal::Forbidden(role.as_str()).into());
        }
        if has_query && !QUERIES.contains(&(self.endpoint.method, self.endpoint.path)) {
            return Err(Refusal::BadRequest("this endpoint reads no query".to_owned()).into());
        }
        if caller.principal().last_used.is_none_or(|last| last.plus(NOTED) <= now)
            && let Err(error) = note(&self.server.store, &caller).await
        {
            // Who only reads is answered while nothing can be written.
            tracing::warn!(principal = caller.name(), "that it called was not noted: {error}");
        }
        Ok(caller)
    }

    /// Objects of the other kind do not exist for the caller; what names none is for others.
    fn check_scope(&self, caller: &Caller) -> Result<(), Denial> {
        let (owner, object) = match (self.endpoint.scope, caller.scope()) {
            (v1::Scope::Own, _) | (v1::Scope::Operator, Scope::Operator) | (v1::Scope::Tenant, Scope::Tenant(_)) => {
                return Ok(());
            }
            (v1::Scope::Operator, Scope::Tenant(_)) => ("the server's operator", "tenant"),
            (v1::Scope::Tenant, Scope::Operator) => ("a tenant", "enclave"),
            // Machines show certificates, at another door.
            (v1::Scope::Visitor | v1::Scope::Member, _) => return Err(Refusal::NoEndpoint.into()),
        };
        match self.endpoint.parameters().next() {
            Some(_) => Err(Refusal::NotFound(object).into()),
            None => Err(Denial::Elsewhere(owner)),
        }
    }
}

/// The role, in the contract's words.
pub(super) fn role(role: coterie_store::Role) -> v1::Role {
    match role {
        coterie_store::Role::Owner => v1::Role::Owner,
        coterie_store::Role::Admin => v1::Role::Admin,
        coterie_store::Role::Operator => v1::Role::Operator,
        coterie_store::Role::Auditor => v1::Role::Auditor,
    }
}

async fn note(store: &Store, caller: &Caller) -> Result<(), coterie_store::StoreError> {
    let mut w = store.write().await?;
    w.note_login(caller.scope(), caller.principal().id, clock::now())
        .await?;
    w.commit().await
}

/// The key that a request shows: `Authorization: Bearer coterie-key-1.…`.
fn key(headers: &HeaderMap) -> Option<Secret<32>> {
    let shown = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, text) = shown.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let text = text.trim_matches(' ').strip_prefix(v1::KEY_PREFIX)?;
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
    Secret::from_slice(&bytes)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::make::key_text;

    fn shown(text: &str) -> Option<Secret<32>> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(text).unwrap());
        key(&headers)
    }

    #[test]
    fn a_key_is_shown_as_it_was_given_out() {
        let secret = Secret::new([7; 32]);
        let text = key_text(&secret);
        assert_eq!(text.as_str().len(), v1::KEY_PREFIX.len() + 43);
        assert_eq!(shown(&format!("Bearer {}", text.as_str())), Some(secret.duplicate()));
        assert_eq!(shown(&format!("bearer {}", text.as_str())), Some(secret));
        let bare = text.as_str().strip_prefix(v1::KEY_PREFIX).unwrap();
        for other in [
            text.as_str().to_owned(),
            format!("Basic {}", text.as_str()),
            format!("Bearer {bare}"),
            format!("Bearer {}A", text.as_str()),
            format!("Bearer {}=", text.as_str()),
            format!("Bearer {}", &text.as_str()[..20]),
            "Bearer ".to_owned(),
            String::new(),
        ] {
            assert_eq!(shown(&other), None, "{other}");
        }
        assert_eq!(key(&HeaderMap::new()), None);
    }
}
